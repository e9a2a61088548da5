"""Human gates: a rung that grows too fast, or that the contract does not cover, waits for a person.

An open gate keeps the process alive and the heartbeat going. When nobody answers within the timeout the run's status
becomes `paused`; the process goes on waiting, and an answer still counts. A `pause` request at a gate saves nothing new
(everything is promoted already) and ends the process with exit code 9.

In prompt mode a line typed at the terminal answers too. What was typed before the question stood there answers
nothing, a pipe is nobody's terminal, and a job in the background leaves the terminal to the shell.
"""

from __future__ import annotations

import os
import select
import sys
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelwright.errors import Paused
from scaler_wizard.outcomes import HumanStop
from scaler_wizard.resolved import ResolvedJob, RungPlan
from scaler_wizard.sentences import canonical_sentence

if TYPE_CHECKING:
    from scaler_wizard.session import Session

LOOK_EVERY_S = 0.2
YES, NO = ("y", "yes", "approve"), ("n", "no", "abort")


@dataclass(frozen=True)
class Approval:
    """A person's yes: who, and why when they said so."""

    actor: str
    reason: str


def gate_reason(job: ResolvedJob, rung: RungPlan, previous: int | None, max_context: int | None) -> str | None:
    """Why `rung` needs a person, or None when it may proceed.

    `previous` is the length before it in tokens (None for the base rung), `max_context` what the contract allows (None
    = no limit stated).
    """
    if previous is None:
        return None
    if max_context is not None and rung.length > max_context:
        return f"{rung.length} tokens are beyond the contract's max_context of {max_context}"
    if rung.beyond_growth:
        return f"{rung.length} tokens are more than {job.gate.max_growth:g} times {previous}"
    if job.gate.mode in ("prompt", "cockpit"):
        return f"every step up is asked for (gate mode {job.gate.mode})"
    return None


def question(job: ResolvedJob, rung: RungPlan, previous: int) -> str:
    """The canonical sentence of a gate."""
    change = f"at most {100 * (1 - job.evaluation.floor_ratio):.0f} % drop"
    return canonical_sentence(
        "gate",
        job.alerts.language,
        job.alerts.canonical_sentence,
        from_length=previous,
        to_length=rung.length,
        change=change,
    )


def wait_at_gate(session: Session, asked: str, reason: str) -> Approval:
    """Open a gate and wait for approve.

    Raises HumanStop on abort, stop or a signal, Paused on a pause request.
    """
    job = session.job
    terminal = asked_terminal(job)
    if terminal is not None and _in_foreground(terminal):
        termios.tcflush(terminal, termios.TCIFLUSH)
    session.open_gate(asked, reason, job.gate.timeout_s, at_terminal=terminal is not None)
    deadline = session.clock.monotonic() + job.gate.timeout_s
    paused = False
    try:
        while True:
            approval = _look(session) or _answer(session, terminal)
            if approval is not None:
                session.event("gate/approved", actor=approval.actor, reason=approval.reason, question=asked)
                return approval
            if not paused and session.clock.monotonic() >= deadline:
                paused = True
                session.gate_timed_out(asked)
            session.beat("paused" if paused else "running", asked)
            session.clock.sleep(LOOK_EVERY_S)
    finally:
        session.close_gate()


def _look(session: Session) -> Approval | None:
    """One look at requests, signals and, in prompt mode, the terminal."""
    if session.signals is not None and session.signals.requested:
        raise HumanStop(f"Stopped by {session.signals.name} at a gate.", "stop", "signal")
    for request in session.control.poll():
        reason = str(request.body.get("reason", ""))
        session.event(f"human/{request.kind}", actor=request.actor, reason=reason, request=request.id)
        if request.kind in ("approve", "resume"):
            session.control.ack(request, "approved")
            return Approval(request.actor, reason)
        if request.kind in ("abort", "stop"):
            session.control.ack(request, "accepted")
            raise HumanStop(f"The gate was answered with {request.kind} by {request.actor}.", request.kind, request.actor)
        if request.kind == "pause":
            session.control.ack(request, "paused")
            raise Paused("gate")
        session.control.ack(request, "refused", reason=f"a gate takes approve, abort, stop and pause, not {request.kind}")
    return None


def asked_terminal(job: ResolvedJob) -> int | None:
    """The descriptor of the terminal that prompt mode asks at; None in another mode, and where nobody can type."""
    if job.gate.mode != "prompt" or sys.stdin is None:
        return None
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):  # closed, or not a file
        return None
    return descriptor if os.isatty(descriptor) else None


def _answer(session: Session, terminal: int | None) -> Approval | None:
    """A line typed at the terminal. Raises HumanStop for a no."""
    line = None if terminal is None else _typed(terminal)
    if line is None:
        return None
    word = line.strip().lower()
    if word in YES:
        return Approval("terminal", "answered at the prompt")
    if word in NO:
        raise HumanStop("The gate was answered with no at the terminal.", "abort", "terminal")
    session.ask(f"Found {line.strip()!r}; allowed: yes or no.")
    return None


def _typed(terminal: int) -> str | None:
    """The line that waits at the terminal; None without one, at an end of file, and for a job in the background (which
    reading would suspend).
    """
    if not _in_foreground(terminal) or not select.select([terminal], [], [], 0)[0]:
        return None
    try:
        return os.read(terminal, 4096).decode(errors="replace") or None
    except OSError:  # the terminal is gone
        return None


def _in_foreground(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
