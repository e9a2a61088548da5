"""Putting jobs into the queue: checked, counted, on disk when the call returns.
(issue decisions State and One job system; specs/guild.md 8.5)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import apsw
import orjson

from guild.places import Priority
from guild.records import job_rows
from guild.records.job_errors import DuplicateJobError, QueueFullError
from guild.records.job_rows import Job
from guild.records.kinds import Kind, kind_of, priority_number
from guild.records.states import LIVE
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import ConfigError, Fault

ALMOST_FULL = 0.8
"""Share of a kind's waiting jobs beyond which a submitter is warned."""
Once = Literal["live", "ever"]
NS_PER_S = 10**9


@dataclass(frozen=True)
class NewJob:
    """What is asked for. kind, payload: see `guild.records.kinds` and `payloads`.

    priority: a level or a number, the kind's own when None. ordinal: ns since 1970 that order jobs of one priority, the file's mtime for
    training files; the time of queueing when None. key: at most one unfinished job has it. campaign: `hero/campaign`.
    """

    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    priority: Priority | int | None = None
    ordinal: int | None = None
    key: str | None = None
    campaign: str | None = None


@dataclass(frozen=True)
class Submitted:
    """What became of a submission. created: False when a job with the same key was there already, which is then `job`. warning: a
    sentence, or "". (8.5: 201, or 200 with a warning)"""

    job: Job
    created: bool
    warning: str = ""


def enqueue(db: Database, new: NewJob, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Queue one job; it survives a kill and a power cut once this returns.

    Raises UnknownKindError, ConfigError (every fault of the payload), QueueFullError, DuplicateJobError (a file's name or a key in use).
    """
    return enqueue_many(db, [new], clock=clock)[0]


def enqueue_many(db: Database, new: Sequence[NewJob], *, clock: Clock = SYSTEM_CLOCK) -> list[Job]:
    """Queue all of them in one transaction, or none; raises what `enqueue` raises, with the faults of all payloads at once."""
    drafts = _checked(new, clock)
    with db.transaction() as connection:
        _refuse_overfull(connection, drafts)
        return [_insert(connection, draft) for draft in drafts]


def submit(db: Database, new: NewJob, *, once: Once = "live", clock: Clock = SYSTEM_CLOCK) -> Submitted:
    """Queue one job unless one with its key is there: unfinished (`live`), or also completed (`ever`).

    Raises what `enqueue` raises, but not for a key in use. (8.5)
    """
    draft = _checked([new], clock)[0]
    with db.transaction() as connection:
        if new.key is not None:
            found = _with_key(connection, new.key, once)
            if found is not None:
                return Submitted(found, False, f"The same is asked for already: {found.label} is {found.state}.")
        kind = kind_of(new.kind)
        pending = _refuse_overfull(connection, [draft])[new.kind]
        job = _insert(connection, draft)
    waiting = f"{pending} of at most {kind.max_pending} jobs of kind {kind.name} wait."
    return Submitted(job, True, waiting if pending > ALMOST_FULL * kind.max_pending else "")


def _checked(new: Sequence[NewJob], clock: Clock) -> list[Job]:
    """The jobs as they would be stored, without ids. Raises ConfigError with the faults of all of them."""
    faults: list[Fault] = []
    drafts: list[Job] = []
    moment = clock.now()
    now, ordinal = stamp(moment, millis=True), int(moment.timestamp() * NS_PER_S)
    for number, one in enumerate(new):
        try:
            kind = kind_of(one.kind)
            drafts.append(_draft(kind, one, kind.check(one.payload), now, ordinal))
        except ConfigError as error:
            where = "" if len(new) == 1 else f"job {number + 1}: "
            faults += [Fault(where + fault.path, fault.found, fault.allowed, fault.todo) for fault in error.faults]
    if faults:
        raise ConfigError(faults)
    return drafts


def _draft(kind: Kind, new: NewJob, payload: dict[str, Any], now: str, ordinal: int) -> Job:
    try:
        orjson.dumps(payload)
    except orjson.JSONEncodeError as error:
        raise ConfigError([Fault("payload", str(error), "text, whole numbers of at most 64 bits, numbers, lists and mappings")]) from error
    return Job(
        id=0,
        kind=kind.name,
        resource=kind.resource,
        name=payload.get("file") if kind.name == "train_file" else None,
        once_key=new.key,
        payload=payload,
        state="queued",
        priority=kind.priority if new.priority is None else priority_number(new.priority),
        ordinal=ordinal if new.ordinal is None else new.ordinal,
        from_priority=None,
        position=0,
        taken_position=0,
        attempts=0,
        max_attempts=kind.max_attempts,
        crashes=0,
        max_crashes=kind.max_crashes,
        skips=0,
        owner=None,
        lease_boot=None,
        lease_until=None,
        running_since=None,
        cancel_asked=False,
        campaign=new.campaign if new.campaign is not None else payload.get("campaign"),
        run=None,
        error=None,
        result=None,
        enqueued_at=now,
        started_at=None,
        finished_at=None,
        updated_at=now,
    )


def _insert(connection: apsw.Connection, draft: Job) -> Job:
    try:
        job = job_rows.insert(connection, draft)
    except apsw.ConstraintError as error:
        raise _duplicate(connection, draft) or error from error
    job_rows.log(connection, job, "enqueued", job.enqueued_at, f"waits with priority {job.priority}")
    return job


def _duplicate(connection: apsw.Connection, draft: Job) -> DuplicateJobError | None:
    """Which job stands in the way."""
    for column, value, states in (("name", draft.name, (*LIVE, "failed", "rejected")), ("once_key", draft.once_key, LIVE)):
        sql = f"SELECT id, state FROM jobs WHERE {column} = ? AND state IN ({', '.join('?' * len(states))})"
        for number, state in connection.execute(sql, (value, *states)):
            return DuplicateJobError(str(value), number, state)
    return None


def _with_key(connection: apsw.Connection, key: str, once: Once) -> Job | None:
    states = "('queued', 'running', 'paused')" if once == "live" else "('queued', 'running', 'paused', 'completed')"
    found, _ = job_rows.read(connection, f"WHERE once_key = ? AND state IN {states} ORDER BY id DESC LIMIT 1", (key,))
    return found[0] if found else None


def _refuse_overfull(connection: apsw.Connection, drafts: Iterable[Job]) -> dict[str, int]:
    """How many jobs of each kind will wait. Raises QueueFullError."""
    adding: dict[str, int] = {}
    for draft in drafts:
        adding[draft.kind] = adding.get(draft.kind, 0) + 1
    pending = {}
    for name, more in adding.items():
        waiting = next(iter(connection.execute("SELECT count(*) FROM jobs WHERE state = 'queued' AND kind = ?", (name,))))[0]
        if waiting + more > kind_of(name).max_pending:
            raise QueueFullError(name, waiting, kind_of(name).max_pending, more)
        pending[name] = waiting + more
    return pending
