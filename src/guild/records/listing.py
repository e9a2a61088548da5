"""Looking at jobs: one, some, how many. Nothing here writes; a damaged row is named and never hides the others.
(specs/guild.md 2.1.2, 3.3)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from guild.places import PRIORITIES, Priority
from guild.records import job_rows
from guild.records.checksums import damage_sentence
from guild.records.job_errors import UnknownJobError
from guild.records.job_rows import Job
from guild.records.kinds import PRIORITY_NUMBERS, Resource, level_of
from guild.records.states import STATES, State
from modelwright.database import Database

Order = Literal["queue", "newest"]
_ORDERS: dict[Order, str] = {"queue": "priority DESC, ordinal, id", "newest": "id DESC"}


@dataclass(frozen=True)
class Listing:
    """Jobs, and one sentence for each row that cannot be read any more."""

    jobs: tuple[Job, ...]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counts:
    """How many jobs there are. states: of each state. levels: of the waiting ones, by queue level. skipped: jobs that were ever skipped."""

    states: dict[State, int]
    levels: dict[Priority, int] = field(default_factory=dict)
    skipped: int = 0

    @property
    def processing(self) -> int:
        """Held by a worker, paused ones included."""
        return self.states["running"] + self.states["paused"]


def get(db: Database, job: int) -> Job:
    """One job. Raises UnknownJobError or DamagedRowError."""
    with db.snapshot():
        return job_rows.read_one(db.connection, job)


def find_file(db: Database, name: str) -> Job:
    """The newest job of a data file of that name. Raises UnknownJobError."""
    found = list_jobs(db, name=name, order="newest", limit=1).jobs
    if not found:
        raise UnknownJobError(name)
    return found[0]


def list_jobs(
    db: Database,
    *,
    kinds: Collection[str] | None = None,
    states: Collection[State] | None = None,
    resource: Resource | None = None,
    level: Priority | None = None,
    name: str | None = None,
    key: str | None = None,
    campaign: str | None = None,
    order: Order = "queue",
    limit: int = 1000,
    before: int | None = None,
) -> Listing:
    """Jobs that match every filter given. order: as the queue takes them, or newest first. before: only ids below it, to page on with
    `newest`."""
    tests: list[str] = []
    values: list[Any] = []

    def among(column: str, allowed: Collection[Any] | None) -> None:
        if allowed is not None:
            tests.append(f"{column} IN ({', '.join('?' * len(allowed))})")
            values.extend(allowed)

    among("kind", kinds)
    among("state", states)
    for column, value in (("resource", resource), ("name", name), ("once_key", key), ("campaign", campaign)):
        among(column, None if value is None else (value,))
    if level is not None:
        lowest, above = _bounds(level)
        tests.append("priority >= ? AND priority < ?")
        values += [lowest, above]
    if before is not None:
        tests.append("id < ?")
        values.append(before)
    rest = f"WHERE {' AND '.join(tests) or '1'} ORDER BY {_ORDERS[order]} LIMIT ?"
    with db.snapshot():
        jobs, damaged = job_rows.read(db.connection, rest, (*values, limit))
    return Listing(tuple(jobs), tuple(damage_sentence("jobs", number) for number in damaged))


def counts(db: Database, kind: str | None = "train_file") -> Counts:
    """How many jobs of a kind (None: of all) stand where. (get_queue_status, 2.1.2)"""
    only, values = ("kind = ?", (kind,)) if kind is not None else ("1", ())
    with db.snapshot():
        states: dict[State, int] = dict.fromkeys(STATES, 0)
        for row in db.rows(f"SELECT state, count(*) AS n FROM jobs WHERE {only} GROUP BY state", values):
            states[row["state"]] = row["n"]
        levels: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        waiting = f"SELECT priority, count(*) FROM jobs WHERE state = 'queued' AND {only} GROUP BY priority"
        for priority, count in db.connection.execute(waiting, values):
            levels[level_of(priority)] += count
        skipped = next(iter(db.connection.execute(f"SELECT count(*) FROM jobs WHERE skips > 0 AND {only}", values)))[0]
    return Counts(states, levels, skipped)


def _bounds(level: Priority) -> tuple[int, int]:
    """Priority numbers of a level, the second one excluded."""
    furthest = 2**62
    high, normal = PRIORITY_NUMBERS["high"], PRIORITY_NUMBERS["normal"]
    return {"high": (high, furthest), "normal": (normal, high), "low": (-furthest, normal)}[level]
