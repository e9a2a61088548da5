"""What a worker does with a job: take it, renew its lease, and say how it ended. (specs/guild.md 2.1.2, 2.1.3; issue decision State)

Taking a job is one immediate transaction, so that two takers never get the same one; it is not waited for the disk, because a power cut
that forgets it also ends the worker. Whatever ends a job is on disk before the call returns. Every function raises NotHeldError when the
job is not (any more) held by `owner`: the worker must then stop.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import apsw

from guild.records import job_rows
from guild.records.job_rows import Job
from guild.records.kinds import KINDS, PRIORITY_NUMBERS, SLOTS, Resource, kind_of, kinds_of
from guild.records.leases import LEASE_S, BootTime, boot_time, leased
from guild.records.states import Event
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database, query
from modelwright.identity import ProcessIdentity

_WAITING = "WHERE id = (SELECT id FROM jobs WHERE state = 'queued' AND kind = ? ORDER BY priority DESC, ordinal, id LIMIT 1)"
"""The row is read by its id: from the index alone SQLite would take `state` as given, and a damaged one would look sound."""
_AMONG = _WAITING.replace("kind = ? ORDER", "kind = ? AND id IN (SELECT value FROM json_each(?)) ORDER")


def claim(
    db: Database,
    owner: ProcessIdentity,
    *,
    resource: Resource | None = None,
    kinds: Collection[str] | None = None,
    among: Collection[int] | None = None,
    slots: Mapping[Resource, int] = SLOTS,
    lease_s: float = LEASE_S,
    at: BootTime | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Job | None:
    """Take the next job for `owner`: the highest priority, then the oldest; None when there is none to take.

    resource, kinds: only these (both: kinds of that resource). among: only jobs with these ids. slots: how many jobs may hold each
    resource at a time; a kind's own `max_running` holds beside it. Paused jobs hold theirs. Raises UnknownKindError.
    """
    wanted = [kind_of(name).name for name in kinds] if kinds is not None else list(KINDS)
    if resource is not None:
        wanted = [name for name in wanted if name in kinds_of(resource)]
    if not any(_waits(db, name) for name in wanted):
        return None  # an idle worker takes no lock
    now, at = stamp(clock.now(), millis=True), at or boot_time()
    with db.transaction(durable=False) as connection:
        job = _next(connection, _free(connection, wanted, slots), now, among)
        if job is None:
            return None
        held = replace(leased(job, at, lease_s), owner=owner, running_since=at.seconds)
        return job_rows.step(
            connection, held, "claim", now, f"is taken by {job_rows.describe(owner)}",
            data={"owner": owner.as_dict()}, from_priority=job.priority, taken_position=job.position, started_at=now,
        )  # fmt: skip


def takeable(db: Database, kinds: Collection[str], *, slots: Mapping[Resource, int] = SLOTS) -> list[str]:
    """Those of `kinds` of which a job waits that `claim` would give now. It takes no lock, so another worker may be faster."""
    waiting = [name for name in kinds if _waits(db, name)]
    if not waiting:
        return []
    with db.snapshot():
        return _free(db.connection, waiting, slots)


def heartbeat(
    db: Database,
    job: int,
    owner: ProcessIdentity,
    *,
    position: int | None = None,
    run: str | None = None,
    campaign: str | None = None,
    lease_s: float = LEASE_S,
    at: BootTime | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Job:
    """Renew the lease and note what is new: `position` once a checkpoint at it is saved, the run directory, the campaign.

    Look at `cancel_asked` of the job that comes back; where it is set, stop and call `cancel_held`.
    """
    now = stamp(clock.now(), millis=True)
    news: dict[str, Any] = {
        name: value for name, value in (("position", position), ("run", run), ("campaign", campaign)) if value is not None
    }
    with db.transaction(durable=bool(news)) as connection:
        held = leased(job_rows.read_held(connection, job, owner), at or boot_time(), lease_s)
        return job_rows.update(connection, replace(held, updated_at=now, **news))


def transfer(
    db: Database,
    job: int,
    owner: ProcessIdentity,
    to: ProcessIdentity,
    *,
    lease_s: float = LEASE_S,
    at: BootTime | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Job:
    """Hand a held job to another process, for example from the daemon to the trainer that it started.

    The trainer calls it as its first act: when the daemon died meanwhile and the job was taken back, it is refused and must end.
    """
    now = stamp(clock.now(), millis=True)
    with db.transaction() as connection:
        held = leased(job_rows.read_held(connection, job, owner), at or boot_time(), lease_s)
        moved = job_rows.update(connection, replace(held, owner=to, updated_at=now))
        job_rows.log(connection, moved, "transferred", now, f"is handed to {job_rows.describe(to)}", data={"owner": to.as_dict()})
        return moved


def pause(db: Database, job: int, owner: ProcessIdentity, *, position: int | None = None, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Its position is saved and its worker waits, still holding it."""
    return _end(db, job, owner, "pause", "is paused", clock, position=position, running_since=None)


def resume(db: Database, job: int, owner: ProcessIdentity, *, at: BootTime | None = None, clock: Clock = SYSTEM_CLOCK) -> Job:
    """A paused job goes on, in the same process."""
    return _end(db, job, owner, "resume", "goes on", clock, running_since=(at or boot_time()).seconds)


def release(db: Database, job: int, owner: ProcessIdentity, *, position: int | None = None, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Stop in order: the job returns to its queue with its position and loses no attempt."""
    return _end(db, job, owner, "release", "returns to its queue", clock, position=position, cancellable=True)


def finish(
    db: Database,
    job: int,
    owner: ProcessIdentity,
    result: Mapping[str, Any] | None = None,
    *,
    position: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Job:
    """The work is done. result: what came of it, ready for JSON. A request to cancel that came too late is forgotten."""
    done = None if result is None else dict(result)
    return _end(
        db, job, owner, "complete", "is completed", clock, position=position, severity="success", result=done, error=None, ends=True
    )


def fail(db: Database, job: int, owner: ProcessIdentity, error: str, *, position: int | None = None, clock: Clock = SYSTEM_CLOCK) -> Job:
    """The work failed. While attempts are left the job waits again (a training file in `low`), else it ends in `failed`."""
    now = stamp(clock.now(), millis=True)
    with db.transaction() as connection:
        held = _at(job_rows.read_held(connection, job, owner), position)
        attempts = held.attempts + 1
        counted = {"attempts": attempts, "error": error, "crashes": 0}
        told = {"attempts": attempts, "error": error}
        if held.cancel_asked:
            return _cancel(connection, replace(held, attempts=attempts, error=error), now, "is cancelled, as was asked")
        if attempts >= held.max_attempts:
            message = f"failed for the last time (attempt {attempts} of {held.max_attempts}): {error}"
            return job_rows.step(connection, held, "give_up", now, message, severity="error", data=told, finished_at=now, **counted)
        low = {"priority": _low(held)} if held.kind in KINDS and KINDS[held.kind].retry_low else {}
        message = f"failed (attempt {attempts} of {held.max_attempts}) and waits again: {error}"
        return job_rows.step(connection, held, "fail", now, message, severity="warning", data=told, **counted, **low)


def reject(db: Database, job: int, owner: ProcessIdentity, error: str, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """The file or the payload is unfit, and trying again would not help."""
    return _end(db, job, owner, "reject", f"is rejected: {error}", clock, severity="error", error=error, ends=True)


def skip(
    db: Database, job: int, owner: ProcessIdentity, *, reason: str = "", position: int | None = None, clock: Clock = SYSTEM_CLOCK
) -> Job:
    """Put the job behind the others, in `low`, and go on with the next."""
    now = stamp(clock.now(), millis=True)
    with db.transaction() as connection:
        held = _at(job_rows.read_held(connection, job, owner), position)
        if held.cancel_asked:
            return _cancel(connection, held, now, "is cancelled, as was asked")
        message = f"is skipped{f': {reason}' if reason else ''}"
        return job_rows.step(
            connection, held, "skip", now, message, severity="warning", data={"reason": reason}, priority=_low(held), skips=held.skips + 1
        )


def cancel_held(db: Database, job: int, owner: ProcessIdentity, *, position: int | None = None, clock: Clock = SYSTEM_CLOCK) -> Job:
    """The worker stopped because it was asked to cancel."""
    return _end(db, job, owner, "cancel", "is cancelled", clock, position=position, severity="warning", ends=True)


def _end(
    db: Database,
    job: int,
    owner: ProcessIdentity,
    event: Event,
    message: str,
    clock: Clock,
    *,
    position: int | None = None,
    cancellable: bool = False,
    ends: bool = False,
    severity: job_rows.Severity = "info",
    **changes: Any,
) -> Job:
    """One transition by the holder, on disk when it returns. cancellable: a request to cancel comes first. ends: it is the job's end."""
    now = stamp(clock.now(), millis=True)
    with db.transaction() as connection:
        held = _at(job_rows.read_held(connection, job, owner), position)
        if cancellable and held.cancel_asked:
            return _cancel(connection, held, now, "is cancelled, as was asked")
        if ends:
            changes["finished_at"] = now
        return job_rows.step(connection, held, event, now, message, severity=severity, **changes)


def _cancel(connection: apsw.Connection, held: Job, now: str, message: str) -> Job:
    return job_rows.step(connection, held, "cancel", now, message, severity="warning", finished_at=now)


def _at(job: Job, position: int | None) -> Job:
    return job if position is None else replace(job, position=position)


def _low(job: Job) -> int:
    return min(job.priority, PRIORITY_NUMBERS["low"])


def _waits(db: Database, kind: str) -> bool:
    return db.row("SELECT 1 FROM jobs WHERE state = 'queued' AND kind = ? LIMIT 1", (kind,)) is not None


def _free(connection: apsw.Connection, wanted: list[str], slots: Mapping[Resource, int]) -> list[str]:
    """Those of `wanted` whose kind and resource are not fully in use."""
    held = query(connection, "SELECT kind, count(*) AS n FROM jobs INDEXED BY jobs_held WHERE state IN ('running', 'paused') GROUP BY kind")
    running: dict[str, int] = {row["kind"]: row["n"] for row in held}
    used: dict[str, int] = {}
    for name, count in running.items():
        if name in KINDS:
            used[KINDS[name].resource] = used.get(KINDS[name].resource, 0) + count
    return [
        name
        for name in wanted
        if running.get(name, 0) < KINDS[name].max_running and used.get(KINDS[name].resource, 0) < slots.get(KINDS[name].resource, 0)
    ]


def _next(connection: apsw.Connection, kinds: list[str], now: str, among: Collection[int] | None) -> Job | None:
    """The first job in the order of the queue; damaged rows in its way are set aside."""
    best: Job | None = None
    for kind in kinds:
        while True:
            if among is None:
                found, damaged = job_rows.read(connection, _WAITING, (kind,))
            else:
                found, damaged = job_rows.read(connection, _AMONG, (kind, json.dumps(list(among))))
            if not damaged:
                break
            job_rows.quarantine(connection, damaged, now)
        if found and (best is None or _order(found[0]) < _order(best)):
            best = found[0]
    return best


def _order(job: Job) -> tuple[int, int, int]:
    return -job.priority, job.ordinal, job.id
