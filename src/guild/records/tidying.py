"""What a house need not remember for ever: old events, and old jobs that somebody else's record tells of. (specs/guild.md 2.1.11, 8.5)

A chore of the daemon, once a day. Ids are never given again, so readers of the stream notice at most a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from guild.records import events, jobs
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database

EVENTS_FOR = timedelta(days=30)
JOBS_FOR = timedelta(days=30)
FORGOTTEN_KINDS = ("eval", "sparring", "data_gen", "retention", "health_check", "report")
"""Kinds whose results stand in records of their own. The others stay: a trained file counts the rows of its campaign, and a run of another
room is part of its history."""


@dataclass(frozen=True)
class Tidied:
    """How many rows were deleted."""

    events: int
    jobs: int


def tidy(db: Database, *, clock: Clock = SYSTEM_CLOCK) -> Tidied:
    """Delete events older than 30 days or beyond the newest `events.KEEP`, and jobs of `FORGOTTEN_KINDS` that ended 30 days ago.

    What analytics, progression and the queue read stays (`events.prune`). Raises StorageError, DamagedFileError.
    """
    forgotten = jobs.forget(db, older_than=JOBS_FOR, kinds=FORGOTTEN_KINDS, clock=clock)
    return Tidied(events.prune(db, older_than=EVENTS_FOR, clock=clock), forgotten)
