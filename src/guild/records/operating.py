"""What a person, or a program for one, does with jobs: order, cancel, queue again, dismiss, forget. (specs/guild.md 2.1.2, 3.3, 8.5)"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from typing import Any

import apsw

from guild.places import Priority
from guild.records import events, job_rows
from guild.records.job_errors import DuplicateJobError, IllegalTransitionError
from guild.records.job_rows import Job
from guild.records.kinds import KINDS, priority_number
from guild.records.states import HELD, Event, allowed, from_states
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database

# All of these raise UnknownJobError for an id that is none, and IllegalTransitionError when the job's state does not allow it.


def set_priority(db: Database, job: int, priority: Priority | int, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Move a waiting job to another level (or number)."""
    number = priority_number(priority)
    now = stamp(clock.now(), millis=True)
    with db.transaction() as connection:
        found = job_rows.read_one(connection, job)
        return job_rows.step(
            connection, found, "reprioritise", now, f"moves from priority {found.priority} to {number}", priority=number
        )  # fmt: skip


def cancel(db: Database, job: int, *, reason: str = "", clock: Clock = SYSTEM_CLOCK) -> Job:
    """Cancel a job. A waiting one is cancelled now; of a held one it is asked of its worker, which answers at its next heartbeat, and if
    the worker dies before, recovery cancels it."""
    now = stamp(clock.now(), millis=True)
    told = {"reason": reason}
    with db.transaction() as connection:
        found = job_rows.read_one(connection, job)
        if found.state in HELD:
            asked = job_rows.update(connection, replace(found, cancel_asked=True, updated_at=now))
            job_rows.log(connection, asked, "cancel_asked", now, "is asked to stop and be cancelled", severity="warning", data=told)
            return asked
        message = f"is cancelled{f': {reason}' if reason else ''}"
        return job_rows.step(connection, found, "cancel", now, message, severity="warning", data=told, finished_at=now)


def reject_waiting(db: Database, job: int, error: str, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """A waiting job whose file or payload turned out to be unfit."""
    now = stamp(clock.now(), millis=True)
    with db.transaction() as connection:
        found = job_rows.read_one(connection, job)
        if found.state in HELD:
            raise IllegalTransitionError(found.state, "reject", allowed(found.state), from_states("reject"), found.label)
        return job_rows.step(
            connection, found, "reject", now, f"is rejected: {error}", severity="error", error=error, finished_at=now
        )  # fmt: skip


def retry(db: Database, job: int, *, priority: Priority | int | None = None, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Queue a failed, rejected or cancelled job again, with all its attempts and at its saved position. Raises DuplicateJobError when its
    name or key is in use by another meanwhile."""
    now = stamp(clock.now(), millis=True)
    number: dict[str, Any] = {} if priority is None else {"priority": priority_number(priority)}
    with db.transaction() as connection:
        found = job_rows.read_one(connection, job)
        try:
            return job_rows.step(
                connection, found, "retry", now, "is queued again", attempts=0, crashes=0, error=None, finished_at=None, **number
            )
        except apsw.ConstraintError as error:
            raise DuplicateJobError(found.name or found.once_key or "", found.id, "another job took it over") from error


def dismiss(db: Database, job: int, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """A failed or rejected job has been dealt with; its name is free again."""
    return _simple(db, job, "dismiss", "is dismissed", clock)


def forget(db: Database, *, older_than: timedelta, kinds: Collection[str] = tuple(KINDS), clock: Clock = SYSTEM_CLOCK) -> int:
    """Delete the rows of completed and cancelled jobs of these kinds that ended longer ago, with their logs; returns how many. Failed and
    rejected ones stay until they are dealt with."""
    before = stamp(clock.now() - older_than, millis=True)
    marks = ", ".join("?" * len(kinds))
    old = f"SELECT id FROM jobs WHERE kind IN ({marks}) AND state IN ('completed', 'cancelled') AND finished_at < ?"
    with db.transaction() as connection:
        kept = ", ".join("?" * len(events.MILESTONES))
        connection.execute(f"DELETE FROM events WHERE job IN ({old}) AND type NOT IN ({kept})", (*kinds, before, *events.MILESTONES))
        connection.execute(f"DELETE FROM jobs WHERE id IN ({old})", (*kinds, before))
        return connection.changes()


def _simple(db: Database, job: int, event: Event, message: str, clock: Clock) -> Job:
    now = stamp(clock.now(), millis=True)
    with db.transaction() as connection:
        return job_rows.step(connection, job_rows.read_one(connection, job), event, now, message, finished_at=now)
