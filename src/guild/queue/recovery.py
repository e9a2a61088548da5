"""At the start of a daemon: what dead processes left is put in order. (specs/guild.md 2.1.1 steps 5 to 7, G6)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guild.places import Places
from guild.queue.documents import export_metadata
from guild.queue.folders import make_folders, queue_lock
from guild.queue.payload import TRAIN_FILE
from guild.queue.reconcile import QUIET_S, Reconciled, reconcile_locked
from guild.records import jobs
from guild.records.jobs import Recovered
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database


@dataclass(frozen=True)
class QueueRecovery:
    """taken_back: files that dead processes held. reconciled: what else the look at the folders found."""

    taken_back: tuple[Recovered, ...]
    reconciled: Reconciled


def recover_queue(
    db: Database, places: Places, *, quiet_s: float = QUIET_S, facts: Mapping[str, Any] | None = None, clock: Clock = SYSTEM_CLOCK
) -> QueueRecovery:
    """Files in `processing/` whose process is dead return to their level with their position; a live process keeps its file.

    facts: of the jobs of files that are imported. Cheap enough for every round of a daemon. Raises StorageError.
    """
    make_folders(places)
    with queue_lock(places):
        taken_back = tuple(jobs.recover(db, kinds=(TRAIN_FILE,), clock=clock))
        reconciled = reconcile_locked(db, places, quiet_s=quiet_s, facts=facts, clock=clock)
        if taken_back or reconciled.changed:
            export_metadata(db, places)
    return QueueRecovery(taken_back, reconciled)
