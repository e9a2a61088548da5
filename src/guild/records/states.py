"""States of a job and what leads from one to another: one table. (issue decision One job system; specs/guild.md 2.1.2, 2.1.3)

No database here. `failed` is where a job stands that used up its attempts or whose workers died over it again and again ("parked"); an
operator may queue it again. Between being taken and its end a job is held by a process, `running` or `paused`.
"""

from __future__ import annotations

from typing import Literal, get_args

from guild.records.job_errors import IllegalTransitionError

State = Literal["queued", "running", "paused", "completed", "failed", "cancelled", "rejected"]
Event = Literal[
    "claim",  # a worker takes it
    "pause",  # its worker saved its position and waits
    "resume",  # its worker goes on
    "release",  # its worker stops in order: back to the queue with its position, and no attempt is lost
    "crash",  # its worker died: back to the queue with its last saved position
    "park",  # its worker died once too often
    "complete",
    "fail",  # it failed and has attempts left
    "give_up",  # it failed for the last time
    "skip",  # asked to be put behind the others
    "cancel",
    "reject",  # its payload or its file turned out to be unfit; trying again would not help
    "reprioritise",
    "retry",  # an operator queues it again, with all its attempts
    "dismiss",  # an operator has dealt with it
]
STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)

QUEUED: State = "queued"
HELD: tuple[State, ...] = ("running", "paused")
"""A process holds it."""
LIVE: tuple[State, ...] = (QUEUED, *HELD)
"""Not at its end."""
TERMINAL: tuple[State, ...] = tuple(state for state in STATES if state not in LIVE)
"""At its end; only an operator's word leads out of three of them, and nothing out of `completed`."""
OPERATOR_EVENTS: tuple[Event, ...] = ("retry", "dismiss")

TRANSITIONS: dict[tuple[State, Event], State] = {
    ("queued", "claim"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "reject"): "rejected",
    ("queued", "reprioritise"): "queued",
    ("running", "pause"): "paused",
    ("running", "complete"): "completed",
    ("running", "release"): "queued",
    ("running", "crash"): "queued",
    ("running", "fail"): "queued",
    ("running", "skip"): "queued",
    ("running", "give_up"): "failed",
    ("running", "park"): "failed",
    ("running", "cancel"): "cancelled",
    ("running", "reject"): "rejected",
    ("paused", "resume"): "running",
    ("paused", "release"): "queued",
    ("paused", "crash"): "queued",
    ("paused", "fail"): "queued",
    ("paused", "skip"): "queued",
    ("paused", "give_up"): "failed",
    ("paused", "park"): "failed",
    ("paused", "cancel"): "cancelled",
    ("failed", "retry"): "queued",
    ("failed", "dismiss"): "cancelled",
    ("rejected", "retry"): "queued",
    ("rejected", "dismiss"): "cancelled",
    ("cancelled", "retry"): "queued",
}


def after(state: State, event: Event, what: str = "The job") -> State:
    """The state that `event` leads to. what: how the message names the job. Raises IllegalTransitionError."""
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise IllegalTransitionError(state, event, allowed(state), from_states(event), what)
    return found


def allowed(state: State) -> tuple[Event, ...]:
    """The events that a job in `state` may meet."""
    return tuple(event for event in EVENTS if (state, event) in TRANSITIONS)


def from_states(event: Event) -> tuple[State, ...]:
    """The states in which `event` may be met."""
    return tuple(state for state in STATES if (state, event) in TRANSITIONS)
