"""Trained files are kept for a week and then deleted. (specs/guild.md 2.1.2)"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from guild.places import Places
from guild.queue.folders import Entry, queue_lock, scan, sidecar_of
from guild.queue.reconcile import NS
from modelwright.clock import SYSTEM_CLOCK, Clock, parse_stamp
from modelwright.database import Database
from modelwright.errors import storage_error

KEEP = timedelta(days=7)


def sweep_completed(db: Database, places: Places, *, keep: timedelta = KEEP, clock: Clock = SYSTEM_CLOCK) -> list[str]:
    """Delete what lies in `recently_completed/` for longer than `keep`, with the sidecars; returns the names.

    Age counts from the job's end, and for a file of no job from its last change. Only plain files of that folder are ever deleted.
    Raises StorageError.
    """
    removed = []
    with queue_lock(places):
        ended = {
            row["place"]: parse_stamp(row["finished_at"]).timestamp()
            for row in db.rows(
                "SELECT place, finished_at FROM queue_files JOIN jobs ON jobs.id = job "
                "WHERE place GLOB 'recently_completed/*' AND finished_at IS NOT NULL"
            )
        }
        for entry in scan(places).data.values():
            if entry.folder != "recently_completed" or not _old(entry, ended.get(entry.where), keep, clock):
                continue
            path = places.recently_completed / entry.name
            _delete(sidecar_of(path))
            _delete(path)
            db.execute("UPDATE queue_files SET place = NULL WHERE place = ?", (entry.where,), durable=False)
            removed.append(entry.name)
    return removed


def _old(entry: Entry, ended: float | None, keep: timedelta, clock: Clock) -> bool:
    since = entry.mtime_ns / NS if ended is None else ended
    return clock.now().timestamp() - since > keep.total_seconds()


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, path, "delete") from error
