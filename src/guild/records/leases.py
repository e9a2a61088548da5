"""Who holds a job, and when it is taken back: at once from a dead process, never from a living one, after its lease from one that cannot
be seen. (specs/guild.md 2.1.1 step 5; parts.md, faults 5 to 9)

A lease ends at a moment of this machine's boot clock, which no adjustment of the wall clock moves. A process that lives and does not
renew its lease is *stalled*: that is shown and never acted upon, because a second worker on its job would do more harm.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import apsw

from guild.records import job_rows
from guild.records.job_rows import Job
from guild.records.kinds import KINDS
from guild.records.states import State
from modelwright.clock import SYSTEM_CLOCK, Clock, boot_seconds, stamp
from modelwright.database import Database
from modelwright.identity import ProcessIdentity, boot_id, current_identity, liveness

LEASE_S = 120.0
"""Seconds that a lease lasts; a worker renews it several times in that time."""
Why = Literal["dead", "unreachable"]
_HELD = "INDEXED BY jobs_held WHERE state IN ('running', 'paused') ORDER BY id"


@dataclass(frozen=True)
class BootTime:
    """A moment as seconds since a boot of this machine."""

    boot: str
    seconds: float


@dataclass(frozen=True)
class Recovered:
    """A job that was taken back. why: what its holder is. state: where the job stands now (`queued`, `failed` when parked, `cancelled`
    when that had been asked for)."""

    job: Job
    why: Why
    holder: ProcessIdentity
    state: State


def boot_time() -> BootTime:
    """Now. Where the system has no boot clock its monotonic one is taken, which counts from boot too."""
    seconds = boot_seconds()
    return BootTime(boot_id(), time.monotonic() if seconds is None else seconds)


def leased(job: Job, at: BootTime, lease_s: float = LEASE_S) -> Job:
    """The job with a lease from `at` on; not written."""
    return replace(job, lease_boot=at.boot, lease_until=float(at.seconds + lease_s))


def expired(job: Job, at: BootTime) -> bool | None:
    """Whether the job's lease is over; None when it was given in another boot, so that nobody can tell."""
    if job.lease_boot != at.boot or job.lease_until is None:
        return None
    return at.seconds >= job.lease_until


def recover(
    db: Database,
    *,
    kinds: Collection[str] | None = None,
    here: ProcessIdentity | None = None,
    at: BootTime | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> list[Recovered]:
    """Take back what dead processes hold, and what unreachable ones hold beyond their lease; returns what was taken back.

    For the start of a daemon and for every round of it. kinds: only these. A job whose worker died goes back to its queue with its last
    saved position; one whose workers died `max_crashes` times in a row without getting further is parked in `failed`.
    """
    here, at = here or current_identity(), at or boot_time()
    if not _held(db):
        return []
    now = stamp(clock.now(), millis=True)
    found = []
    with db.transaction() as connection:
        jobs, damaged = job_rows.read(connection, _HELD)
        job_rows.quarantine(connection, damaged, now)
        for job in jobs:
            if job.owner is None or (kinds is not None and job.kind not in kinds):
                continue
            alive = liveness(job.owner, here)
            if alive == "unreachable" and expired(job, at) is None:  # the lease is of another boot: it starts again in this one
                job_rows.update(connection, replace(leased(job, at), running_since=at.seconds))
            elif alive == "dead" or (alive == "unreachable" and expired(job, at)):
                taken = crash(connection, job, now, "its worker died" if alive == "dead" else "its worker cannot be reached")
                found.append(Recovered(taken, alive, job.owner, taken.state))
    return found


def crash(connection: apsw.Connection, job: Job, now: str, why: str) -> Job:
    """Put a held job where the death of its worker leads, inside the caller's transaction."""
    further = job.position > job.taken_position
    crashes = 1 if further else job.crashes + 1
    told = {"crashes": crashes, "holder": job.owner.as_dict() if job.owner else None}
    if job.cancel_asked:
        return job_rows.step(
            connection, job, "cancel", now, f"is cancelled, as was asked ({why})", severity="warning", data=told, finished_at=now
        )
    if crashes >= job.max_crashes:
        error = f"{why}, {crashes} times in a row without getting further; parked"
        return job_rows.step(
            connection, job, "park", now, f"is parked: {error}", severity="error", data=told, crashes=crashes, error=error, finished_at=now
        )
    message = f"goes back to its queue at position {job.position} ({why})"
    return job_rows.step(connection, job, "crash", now, message, severity="warning", data=told, crashes=crashes, error=why)


def stalled(db: Database, *, here: ProcessIdentity | None = None, at: BootTime | None = None) -> list[Job]:
    """Held jobs whose process lives and has let its lease pass."""
    here, at = here or current_identity(), at or boot_time()
    return [job for job in _held(db) if job.owner is not None and expired(job, at) and liveness(job.owner, here) == "alive"]


def overdue(db: Database, *, at: BootTime | None = None) -> list[Job]:
    """Jobs that run longer than the timeout of their kind, a pause not counted: their worker should have ended them."""
    at = at or boot_time()
    return [job for job in _held(db) if _runs_for(job, at) > (KINDS[job.kind].timeout_s if job.kind in KINDS else math.inf)]


def _runs_for(job: Job, at: BootTime) -> float:
    """Seconds that a job has been running; 0 for one that is paused or was taken in another boot."""
    if job.state != "running" or job.running_since is None or job.lease_boot != at.boot:
        return 0.0
    return at.seconds - job.running_since


def _held(db: Database) -> list[Job]:
    with db.snapshot():
        return job_rows.read(db.connection, _HELD)[0]
