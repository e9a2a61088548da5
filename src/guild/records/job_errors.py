"""Errors of the job store. (specs/guild.md 8.5: a full queue answers 429, a wrong payload 400)"""

from __future__ import annotations

from guild.errors import RefusedError, UnknownNameError
from modelwright.errors import ModelwrightError


class IllegalTransitionError(RefusedError):
    """An event that a job's state does not allow. `state`, `event`, and `allowed`: the events that the state does allow."""

    def __init__(self, state: str, event: str, allowed: tuple[str, ...], states: tuple[str, ...], what: str = "The job") -> None:
        self.state, self.event, self.allowed = state, event, allowed
        super().__init__(
            f"{what} is {state}: found the event {event!r}; allowed: {', '.join(allowed) or 'none'}. "
            f"{event!r} is possible for a job that is {' or '.join(states)}."
        )


class UnknownKindError(UnknownNameError):
    """No job kind of that name."""

    kind = "job kind"


class UnknownJobError(ModelwrightError):
    """No job of that id or name."""

    def __init__(self, wanted: int | str) -> None:
        self.wanted = wanted
        super().__init__(f"job: found {wanted!r}; allowed: the id or the name of a job in the queue. List them with `guild queue list`.")


class NotHeldError(ModelwrightError):
    """The job is not (or no longer) held by the process that asks; it must stop working on it."""

    def __init__(self, job: int, state: str, holder: str) -> None:
        self.job, self.state, self.holder = job, state, holder
        held = f"held by {holder}" if holder else "held by nobody"
        super().__init__(f"Job {job} is {state} and {held}; this process does not hold it and must not work on it.")


class DuplicateJobError(RefusedError):
    """A data file of that name is in the queue already, or lies in failed/. `job` is the one that has the name."""

    def __init__(self, name: str, job: int, state: str) -> None:
        self.name, self.job, self.state = name, job, state
        todo = "Wait until it is done" if state in ("queued", "running", "paused") else "Retry or dismiss that job"
        super().__init__(f"{name}: found a job of that name (job {job}, {state}); allowed: a name that is not in use. {todo}.")


class QueueFullError(RefusedError):
    """A kind has as many waiting jobs as it may have. `kind`, `pending`, `limit`. (8.5: answered with 429)"""

    http_status = 429

    def __init__(self, kind: str, pending: int, limit: int, adding: int = 1) -> None:
        self.kind, self.pending, self.limit = kind, pending, limit
        more = "" if adding == 1 else f", and {adding} more"
        super().__init__(f"queue: found {pending} waiting jobs of kind {kind}{more}; allowed: {limit}. Wait until some are done.")
