"""What happened, in order: one append-only log for people, streams and the logs of single jobs. (specs/guild.md 2.1.11)

The id of an event is its sequence number: writers take turns, so a reader that has seen number n and asks for what came after misses
nothing and sees nothing twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

import apsw
import orjson

from guild.records.checksums import checksum, damage_sentence, read_rows
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database, Row, Values
from modelwright.errors import ConfigError, Fault

Severity = Literal["debug", "info", "warning", "error", "success"]
Family = Literal["queue", "data", "training", "hero", "daemon", "service", "vault"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
FAMILIES: tuple[Family, ...] = get_args(Family)
COLUMNS = ("type", "message", "severity", "source", "job", "data", "timestamp")
KEEP = 100_000
"""Events that are kept. A busy house writes some 13,000 a day, and every backup proves the checksum of each."""
MILESTONES = ("hero.level_up", "training.failed", "daemon.database_restored")
"""Types that are kept for ever: the story of a hero is told from them. They are few."""
PART = 5_000
"""Events that are deleted at a time, so that writers wait for a moment only."""
_TYPE = re.compile(rf"(?:{'|'.join(FAMILIES)})(?:\.[a-z0-9_]+)+")
_INSERT = f"INSERT INTO events ({', '.join(COLUMNS)}, checksum) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"


@dataclass(frozen=True)
class GuildEvent:
    """One event. id: its sequence number. type: `family.word`. job: the job whose log it belongs to."""

    id: int
    type: str
    message: str
    severity: str
    source: str
    timestamp: str
    data: dict[str, Any] = field(default_factory=dict)
    job: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form of 2.1.11, with the job where there is one."""
        content = {name: getattr(self, name) for name in ("id", "type", "message", "severity", "source", "data", "timestamp")}
        return content if self.job is None else {**content, "job": self.job}


@dataclass(frozen=True)
class EventPage:
    """What came after a number. last: ask for what came after this one next. lost: how many numbers up to there are not there any more,
    pruned or gone with a database that a backup stands in for; some may have been of the families asked for. damaged: one sentence for
    each that cannot be read any more. more: whether others follow now."""

    events: tuple[GuildEvent, ...]
    last: int
    lost: int = 0
    damaged: tuple[str, ...] = ()
    more: bool = False


def append(
    connection: apsw.Connection,
    type: str,
    message: str,
    *,
    source: str,
    now: str,
    severity: Severity = "info",
    data: Mapping[str, Any] | None = None,
    job: int | None = None,
) -> int:
    """Add an event inside the caller's transaction, at `now` (a stamp); returns its id. Raises ConfigError for a type or a severity that
    is none."""
    faults = []
    if _TYPE.fullmatch(type) is None:
        faults.append(Fault("event.type", repr(type), f"one of {', '.join(FAMILIES)}, a dot and lower-case words"))
    if severity not in SEVERITIES:
        faults.append(Fault("event.severity", repr(severity), ", ".join(SEVERITIES)))
    if faults:
        raise ConfigError(faults)
    if not (isinstance(message, str) and isinstance(source, str)) or (job is not None and not isinstance(job, int)):
        raise TypeError(f"an event's message, source and job: found {(message, source, job)!r}")  # its checksum would be wrong
    values = (type, message, severity, source, job, orjson.dumps(dict(data or {})).decode(), now)
    connection.execute(_INSERT, (*values, checksum(values)))
    return connection.last_insert_rowid()


def record(
    db: Database,
    type: str,
    message: str,
    *,
    source: str,
    severity: Severity = "info",
    data: Mapping[str, Any] | None = None,
    job: int | None = None,
    durable: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> int:
    """Add one event in a transaction of its own; returns its id. durable: wait for the disk."""
    now = stamp(clock.now(), millis=True)
    with db.transaction(durable=durable) as connection:
        return append(connection, type, message, source=source, now=now, severity=severity, data=data, job=job)


def read_after(db: Database, after: int = 0, *, limit: int = 500, families: Collection[Family] = FAMILIES) -> EventPage:
    """Events with a number above `after`, oldest first, at most `limit`.

    `page.last` moves past events of other families too, so that a stream that asks again with it reads each event once.
    """
    with db.snapshot():
        newest = last_id(db)
        rest = "WHERE id > ?"
        if set(families) != set(FAMILIES):
            rest += " AND (" + " OR ".join("type GLOB ?" for _ in families) + ")" if families else " AND 0"
        globs = [f"{family}.*" for family in families] if set(families) != set(FAMILIES) else []
        rows, damaged = read_rows(db.connection, "events", COLUMNS, f"{rest} ORDER BY id LIMIT ?", (after, *globs, limit + 1))
        numbers = sorted([row["id"] for row in rows] + damaged)
        more = len(numbers) > limit
        last = numbers[limit - 1] if more else max(after, newest)
        there = query_one(db.connection, "SELECT count(*) FROM events WHERE id > ? AND id <= ?", (after, last))
    events = tuple(_event(row) for row in rows if row["id"] <= last)
    gone = tuple(damage_sentence("events", number) for number in damaged if number <= last)
    return EventPage(events, last, last - after - there, gone, more)


def last_id(db: Database) -> int:
    """The number of the newest event that ever was, 0 before the first: where a stream of new events starts."""
    row = db.row("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
    return int(row["seq"]) if row else 0


def log_of(db: Database, job: int) -> EventPage:
    """The log of one job, oldest first."""
    rows, damaged = read_rows(db.connection, "events", COLUMNS, "WHERE job = ? ORDER BY id", (job,))
    events = tuple(_event(row) for row in rows)
    return EventPage(events, events[-1].id if events else 0, 0, tuple(damage_sentence("events", number) for number in damaged))


def prune(db: Database, *, keep: int = KEEP, older_than: timedelta | None = None, clock: Clock = SYSTEM_CLOCK) -> int:
    """Delete all but the newest `keep` events, and with `older_than` also those of that age; never `MILESTONES`, nor the log of a job that
    is not done or cancelled, which says what became of its file. Returns how many. A kill leaves the rest to the next call."""
    before = "" if older_than is None else stamp(clock.now() - older_than, millis=True)
    wanted = "SELECT id FROM jobs WHERE state <> 'completed'"
    old = (
        f"SELECT id FROM events WHERE id > ? AND (id <= ? OR timestamp < ?) AND type NOT IN ({', '.join('?' * len(MILESTONES))}) "
        f"AND (job IS NULL OR job NOT IN ({wanted})) ORDER BY id LIMIT ?"
    )
    newest = query_one(db.connection, "SELECT max(id) FROM events") or 0
    deleted, at = 0, 0
    while True:
        with db.transaction(durable=False) as connection:
            ids = [row[0] for row in connection.execute(old, (at, newest - keep, before, *MILESTONES, PART))]
            connection.executemany("DELETE FROM events WHERE id = ?", ((number,) for number in ids))
        deleted += len(ids)
        if len(ids) < PART:
            return deleted
        at = ids[-1]


def query_one(connection: apsw.Connection, sql: str, values: Values = ()) -> Any:
    """The only value of a query."""
    return next(iter(connection.execute(sql, values)))[0]


def _event(row: Row) -> GuildEvent:
    return GuildEvent(**{name: row[name] for name in ("id", *COLUMNS) if name != "data"}, data=orjson.loads(row["data"]))
