"""One job as a value, and the one way its row is written: whole, with its checksum, and with a line in the job's log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any

import apsw
import orjson

from guild.places import Priority
from guild.records import events
from guild.records.checksums import DamagedRowError, checksum, damage_sentence, read_rows, set_aside
from guild.records.events import Severity
from guild.records.job_errors import NotHeldError, UnknownJobError
from guild.records.kinds import level_of
from guild.records.states import HELD, Event, State, after
from modelwright.database import Row, Values
from modelwright.identity import ProcessIdentity

SOURCE = "queue"


@dataclass(frozen=True)
class Job:
    """One row of the table `jobs`; see `guild.records.job_tables` for the columns. Times are stamps, owner is who holds it."""

    id: int
    kind: str
    resource: str
    name: str | None
    once_key: str | None
    payload: dict[str, Any]
    state: State
    priority: int
    ordinal: int
    from_priority: int | None
    position: int
    taken_position: int
    attempts: int
    max_attempts: int
    crashes: int
    max_crashes: int
    skips: int
    owner: ProcessIdentity | None
    lease_boot: str | None
    lease_until: float | None
    running_since: float | None
    cancel_asked: bool
    campaign: str | None
    run: str | None
    error: str | None
    result: dict[str, Any] | None
    enqueued_at: str
    started_at: str | None
    finished_at: str | None
    updated_at: str

    @property
    def level(self) -> Priority:
        """The queue level of its priority."""
        return level_of(self.priority)

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"Job {self.id} ({self.name or self.kind})"

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-ready values, with the level's word."""
        content = {name: getattr(self, name) for name in ("id", *COLUMNS)}
        return {**content, "owner": self.owner.as_dict() if self.owner else None, "level": self.level}


COLUMNS = tuple(field.name for field in fields(Job) if field.name != "id")
_INSERT = f"INSERT INTO jobs ({', '.join(COLUMNS)}, checksum) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
_UPDATE = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in COLUMNS)}, checksum = ? WHERE id = ?"


def insert(connection: apsw.Connection, job: Job) -> Job:
    """Write a new row; returns the job with its id."""
    values = _values(job)
    connection.execute(_INSERT, (*values, checksum(values)))
    return replace(job, id=connection.last_insert_rowid())


def update(connection: apsw.Connection, job: Job) -> Job:
    """Write the row of a job anew."""
    values = _values(job)
    connection.execute(_UPDATE, (*values, checksum(values), job.id))
    return job


def read(connection: apsw.Connection, rest: str, values: Values = ()) -> tuple[list[Job], list[int]]:
    """Jobs of `SELECT … FROM jobs <rest>`, and the ids of rows that are damaged."""
    rows, damaged = read_rows(connection, "jobs", COLUMNS, rest, values)
    return [_job(row) for row in rows], damaged


def read_one(connection: apsw.Connection, job: int) -> Job:
    """One job by its id. Raises UnknownJobError or DamagedRowError."""
    found, damaged = read(connection, "WHERE id = ?", (job,))
    if damaged:
        raise DamagedRowError("jobs", job)
    if not found:
        raise UnknownJobError(job)
    return found[0]


def read_held(connection: apsw.Connection, job: int, owner: ProcessIdentity) -> Job:
    """One job that `owner` holds. Raises NotHeldError when it does not."""
    found = read_one(connection, job)
    if found.state not in HELD or found.owner != owner:
        raise NotHeldError(job, found.state, describe(found.owner))
    return found


def quarantine(connection: apsw.Connection, damaged: Sequence[int], now: str) -> None:
    """Set damaged rows of `jobs` aside, and say so in the log."""
    for row_id in damaged:
        set_aside(connection, "jobs", COLUMNS, row_id, now)
        events.append(
            connection, "daemon.row_damaged", damage_sentence("jobs", row_id), source=SOURCE, now=now, severity="error", job=row_id
        )


def step(
    connection: apsw.Connection,
    job: Job,
    event: Event,
    now: str,
    message: str,
    *,
    severity: Severity = "info",
    data: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Job:
    """One transition with its line in the log, inside the caller's transaction. changes: further fields that it sets.

    A job that leaves its holder loses owner, lease and a request to cancel. Raises IllegalTransitionError.
    """
    state = after(job.state, event, job.label)
    if state not in HELD:
        changes = {"owner": None, "lease_boot": None, "lease_until": None, "running_since": None, "cancel_asked": False, **changes}
    changed = update(connection, replace(job, **{**changes, "state": state, "updated_at": now}))
    log(connection, changed, PAST[event], now, message, severity=severity, data=data)
    return changed


def log(
    connection: apsw.Connection,
    job: Job,
    word: str,
    now: str,
    message: str,
    *,
    severity: Severity = "info",
    data: Mapping[str, Any] | None = None,
) -> None:
    """One line in the log of a job: `queue.<word>`."""
    told = {"kind": job.kind, "name": job.name, "state": job.state, "priority": job.priority, "position": job.position, **(data or {})}
    text = f"{job.label} {message}"
    events.append(connection, f"queue.{word}", text, source=SOURCE, now=now, severity=severity, data=told, job=job.id)


PAST: dict[Event, str] = {
    "claim": "claimed", "pause": "paused", "resume": "resumed", "release": "released", "crash": "crashed", "park": "parked",
    "complete": "completed", "fail": "failed", "give_up": "given_up", "skip": "skipped", "cancel": "cancelled", "reject": "rejected",
    "reprioritise": "reprioritised", "retry": "retried", "dismiss": "dismissed",
}  # fmt: skip
"""The last word of an event's type."""


def describe(owner: ProcessIdentity | None) -> str:
    """A process for people, "" for none."""
    return f"pid {owner.pid} on {owner.host}" if owner else ""


def _values(job: Job) -> tuple[Any, ...]:
    """The values of a row in the order of `COLUMNS`, each of the type of its column: SQLite would turn 5 into 5.0 where a column is of
    real numbers, and the checksum taken before would be wrong."""
    found = [(getattr(job, name), as_stored) for name, as_stored in _STORED]
    return tuple(None if value is None else as_stored(value) for value, as_stored in found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a job's column of text: found {value!r}")
    return value


def _json(value: Any) -> str:
    return orjson.dumps(value.as_dict() if isinstance(value, ProcessIdentity) else value).decode()


_KINDS_OF_VALUES: dict[Callable[[Any], Any], tuple[str, ...]] = {
    _json: ("payload", "result", "owner"),
    float: ("lease_until", "running_since"),
    index: (
        "priority", "ordinal", "from_priority", "position", "taken_position", "attempts", "max_attempts", "crashes", "max_crashes", "skips",
        "cancel_asked",
    ),
}  # fmt: skip
_STORED = [(name, next((kind for kind, names in _KINDS_OF_VALUES.items() if name in names), _text)) for name in COLUMNS]
"""Each column, and what makes a value one of its type."""


def _job(row: Row) -> Job:
    values = {name: row[name] for name in ("id", *COLUMNS)}
    for name in ("payload", "result"):
        values[name] = None if row[name] is None else orjson.loads(row[name])
    values["owner"] = None if row["owner"] is None else ProcessIdentity.from_dict(orjson.loads(row["owner"]))
    values["cancel_asked"] = bool(row["cancel_asked"])
    return Job(**values)
