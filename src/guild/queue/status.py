"""Counts and lists of the queue. Nothing here writes, not even a database where there is none yet. (specs/guild.md 2.1.2, 3.3)"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from guild.places import PRIORITIES, Places, Priority
from guild.queue.documents import damage, original_lists, totals
from guild.queue.folders import Scan, scan
from guild.queue.payload import TRAIN_FILE, cancelled_places
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.jobs import Job
from guild.records.states import QUEUED
from modelwright.clock import stamp
from modelwright.database import Database

MEBIBYTE = 2**20
NS = 10**9
MOST = 1_000_000


@dataclass(frozen=True)
class Listed:
    """One waiting file. size_mb: in MiB. added: UTC stamp. job: None for a file that lies in its level and was not yet taken in."""

    name: str
    priority: Priority
    size_mb: float
    added: str
    job: int | None

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def get_queue_status(places: Places) -> dict[str, Any]:
    """`queued{high, normal, low, total}, total_queued, processing, completed, failed, skipped` (2.1.2), and `notes`: a sentence for
    each odd thing in the folders.

    Files in the folders of the levels that were not yet taken in count as queued; failed: those parked in `failed/`; skipped: every time
    that a file was skipped. Raises StorageError, DamagedFileError.
    """
    found = scan(places)
    levels: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
    if not places.database.exists():
        for level in PRIORITIES:
            levels[level] = len(_in_folder(found, level))
        earlier = original_lists(places)
        others = [
            len(_in_folder(found, "processing")),
            len(earlier["processed"]),
            len(_in_folder(found, "failed")),
            len(earlier["skipped"]),
        ]
    else:
        with open_guild(places, readonly=True) as db:
            count, known, whole, cancelled = jobs.counts(db), _known_names(db), totals(db, places), cancelled_places(db)
        for level in PRIORITIES:
            levels[level] = count.levels[level] + len([name for name in _in_folder(found, level) if name not in known])
        parked = [name for name in _in_folder(found, "failed") if f"failed/{name}" not in cancelled]
        others = [count.processing, whole["processed"], len(parked), whole["skipped"]]
    total = sum(levels.values())
    names = ("processing", "completed", "failed", "skipped")
    return {
        "schema_version": 1,
        "queued": {**levels, "total": total},
        "total_queued": total,
        **dict(zip(names, others, strict=True)),
        "notes": found.odd + damage(places),
    }


def list_queue(places: Places, priority: Priority | None = None) -> list[Listed]:
    """The waiting files in the order in which they will be taken; those not yet taken in behind the others of their level."""
    found = scan(places)
    waiting: list[Job] = []
    known: set[str] = set()
    if places.database.exists():
        with open_guild(places, readonly=True) as db:
            waiting = list(jobs.list_jobs(db, kinds=(TRAIN_FILE,), states=(QUEUED,), level=priority, limit=MOST).jobs)
            known = _known_names(db)
    rows: list[Listed] = []
    for level in PRIORITIES if priority is None else (priority,):
        rows += [_listed(job, found) for job in waiting if job.level == level]
        new = sorted(
            (entry for entry in found.data.values() if entry.folder == level and entry.name not in known),
            key=lambda entry: (entry.mtime_ns, entry.name),
        )
        rows += [Listed(entry.name, level, entry.size / MEBIBYTE, _stamp(entry.mtime_ns), None) for entry in new]
    return rows


def _listed(job: Job, found: Scan) -> Listed:
    name = job.name or ""
    entry = found.data.get(f"{job.level}/{name}")
    size = entry.size if entry is not None else int(job.payload.get("size_bytes") or 0)
    return Listed(name, job.level, size / MEBIBYTE, job.enqueued_at, job.id)


def _in_folder(found: Scan, folder: str) -> list[str]:
    return [entry.name for entry in found.data.values() if entry.folder == folder]


def _known_names(db: Database) -> set[str]:
    """Names that no file may have that is not yet taken in."""
    live = "('queued', 'running', 'paused', 'failed', 'rejected')"
    return {row["name"] for row in db.rows(f"SELECT name FROM jobs WHERE kind = ? AND state IN {live}", (TRAIN_FILE,))}


def _stamp(mtime_ns: int) -> str:
    return stamp(datetime.fromtimestamp(mtime_ns / NS, UTC))
