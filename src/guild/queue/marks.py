"""Taking a file and saying what became of it; each moves the file to where its job now belongs. (specs/guild.md 2.1.2, 2.1.3, 4.10)

The database is changed first and is on disk before the rename, so a program that is killed, or meets a full disk, after that has marked
its file for good: `guild.queue.reconcile` brings the file after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.errors import RefusedError
from guild.places import Places, Priority
from guild.queue.documents import export_metadata
from guild.queue.folders import make_folders, queue_lock, sidecar_of
from guild.queue.names import shown
from guild.queue.payload import TRAIN_FILE, folder_of, is_file, last_place, note_place, settle
from guild.queue.reconcile import QUIET_S, reconcile_locked
from guild.records import jobs
from guild.records.jobs import Job
from guild.records.leases import LEASE_S
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.identity import ProcessIdentity


@dataclass(frozen=True)
class Taken:
    """A file that the caller now holds. path: in `processing/`. sidecar: beside it, None when it has none."""

    job: Job
    path: Path
    sidecar: Path | None


def take(
    db: Database, places: Places, owner: ProcessIdentity, *, lease_s: float = LEASE_S, quiet_s: float = QUIET_S, clock: Clock = SYSTEM_CLOCK
) -> Taken | None:
    """Take the next file: level high, normal, low, and the oldest within a level; None when there is none, or one is held already.

    Files put or taken away by hand are noticed first. Raises StorageError.
    """
    make_folders(places)
    with queue_lock(places):
        result = reconcile_locked(db, places, quiet_s=quiet_s, clock=clock)
        taken = _take_one(db, places, owner, lease_s, clock)
        if taken is not None or result.changed:
            export_metadata(db, places)
    return taken


def _take_one(db: Database, places: Places, owner: ProcessIdentity, lease_s: float, clock: Clock) -> Taken | None:
    while True:
        job = jobs.claim(db, owner, kinds=(TRAIN_FILE,), lease_s=lease_s, clock=clock)
        if job is None:
            return None
        place = settle(db, places, job)
        if place is not None and place.startswith("processing/"):
            path = places.queue / place
            return Taken(job, path, sidecar_of(path) if is_file(sidecar_of(path)) else None)
        if place is None:  # taken away since the look above
            jobs.reject(db, job.id, owner, "its file was taken away", clock=clock)
            jobs.dismiss(db, job.id, clock=clock)
            note_place(db, job.id, None)
        else:  # another file of its name stands in processing/
            jobs.reject(db, job.id, owner, f"queue/processing/{shown(job.name or '')} is another file", clock=clock)
            settle(db, places, jobs.get(db, job.id))


def mark_completed(
    db: Database, places: Places, job: int, owner: ProcessIdentity, result: Mapping[str, Any] | None = None, *,
    position: int | None = None, clock: Clock = SYSTEM_CLOCK,
) -> Job:  # fmt: skip
    """Every example was trained: the file goes to `recently_completed/{stem}_{YYYYMMDD_HHMMSS}.jsonl`.

    This and the marks below raise NotHeldError when `owner` does not hold the job, and StorageError.
    """
    return _mark(db, places, lambda: jobs.finish(db, job, owner, result, position=position, clock=clock))


def mark_failed(
    db: Database, places: Places, job: int, owner: ProcessIdentity, error: str, *, position: int | None = None, clock: Clock = SYSTEM_CLOCK
) -> Job:
    """Training failed: the file goes to `low/`, or after its last attempt (the third) to `failed/`."""
    return _mark(db, places, lambda: jobs.fail(db, job, owner, error, position=position, clock=clock))


def mark_rejected(db: Database, places: Places, job: int, owner: ProcessIdentity, error: str, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """The file is unfit and trying again would not help: it goes to `failed/`."""
    return _mark(db, places, lambda: jobs.reject(db, job, owner, error, clock=clock))


def mark_skipped(
    db: Database, places: Places, job: int, owner: ProcessIdentity, *, reason: str = "", position: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Job:  # fmt: skip
    """A skip was asked for: the file goes to `low/`."""
    return _mark(db, places, lambda: jobs.skip(db, job, owner, reason=reason, position=position, clock=clock))


def mark_returned(
    db: Database, places: Places, job: int, owner: ProcessIdentity, *, position: int | None = None, clock: Clock = SYSTEM_CLOCK
) -> Job:
    """A stop was asked for: the file returns to the level it came from, with its position."""
    return _mark(db, places, lambda: jobs.release(db, job, owner, position=position, clock=clock))


def mark_cancelled(
    db: Database, places: Places, job: int, owner: ProcessIdentity, *, position: int | None = None, clock: Clock = SYSTEM_CLOCK
) -> Job:
    """Its worker stopped because `cancel` was asked for: the file goes to `failed/`."""
    return _mark(db, places, lambda: jobs.cancel_held(db, job, owner, position=position, clock=clock))


def set_priority(db: Database, places: Places, name: str, priority: Priority, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Move a waiting file to another level. Raises UnknownJobError, IllegalTransitionError, StorageError."""
    return _operate(db, places, name, lambda job: jobs.set_priority(db, job.id, priority, clock=clock), clock)


def cancel(db: Database, places: Places, name: str, *, reason: str = "", clock: Clock = SYSTEM_CLOCK) -> Job:
    """Take a file out of the queue into `failed/`, from where `retry` brings it back; of one in training it is asked of its trainer."""
    return _operate(db, places, name, lambda job: jobs.cancel(db, job.id, reason=reason, clock=clock), clock)


def retry(db: Database, places: Places, name: str, *, priority: Priority = "low", clock: Clock = SYSTEM_CLOCK) -> Job:
    """Queue a failed, rejected or cancelled file again, with all its attempts. Raises RefusedError when its file is gone."""

    def again(job: Job) -> Job:
        place = last_place(db, job.id)
        if job.state in ("failed", "rejected", "cancelled") and (place is None or not is_file(places.queue / place)):
            raise RefusedError(f"{shown(name)}: its file is not in queue/failed/ any more. Add it with `guild queue add`.")
        return jobs.retry(db, job.id, priority=priority, clock=clock)

    return _operate(db, places, name, again, clock)


def _operate(db: Database, places: Places, name: str, change: Callable[[Job], Job], clock: Clock) -> Job:
    """An operator's word about a file by its name; folders and database are brought together first."""
    make_folders(places)
    with queue_lock(places):
        reconcile_locked(db, places, clock=clock)
        job = change(jobs.find_file(db, name))
        if settle(db, places, job) is None and folder_of(job) != "processing":
            note_place(db, job.id, None)
        export_metadata(db, places)
    return job


def _mark(db: Database, places: Places, change: Callable[[], Job]) -> Job:
    with queue_lock(places):
        job = change()
        if settle(db, places, job) is None and job.state != "queued":
            note_place(db, job.id, None)  # deleted while it was trained; a queued one is cancelled by the next reconcile
        export_metadata(db, places)
    return job
