"""Files that failed, with the reason: parked in `failed/`, or waiting for another attempt. (specs/guild.md 2.1.2, 3.3, 4.10)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from guild.places import Places
from guild.queue.documents import original_lists
from guild.queue.folders import Scan, scan
from guild.queue.payload import TRAIN_FILE, last_place
from guild.records import events, job_rows
from guild.records.database import open_guild
from guild.records.jobs import Job
from modelwright.database import Database

MOST = 1_000_000
State = Literal["failed", "rejected", "cancelled", "waiting", "parked"]
_UNKNOWN = "its job is not known here"
_CANCELS = ("queue.cancel_asked", "queue.cancelled")
_ROWS = (
    "WHERE kind = ? AND (state IN ('failed', 'rejected') OR (state IN ('queued', 'running', 'paused') AND attempts > 0) OR "
    "(state = 'cancelled' AND id IN (SELECT job FROM queue_files WHERE place LIKE 'failed/%'))) ORDER BY updated_at DESC, id DESC LIMIT ?"
)


@dataclass(frozen=True)
class FailedFile:
    """One file. place: below `queue/`, None when it is gone. state: failed (after its last attempt), rejected (unfit, so not tried again),
    cancelled, waiting (for another attempt), parked (in `failed/` since before this system). attempts: that failed. at: UTC stamp of the
    last change, None when unknown. job: None for a file without one."""

    name: str
    place: str | None
    state: State
    attempts: int
    most_attempts: int | None
    reason: str
    at: str | None
    job: int | None

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def list_failed(places: Places) -> list[FailedFile]:
    """Every such file, the latest first, those without a job last. Nothing is written. Raises StorageError."""
    found = scan(places)
    rows: list[FailedFile] = []
    if places.database.exists():
        with open_guild(places, readonly=True) as db:
            with db.snapshot():
                jobs = job_rows.read(db.connection, _ROWS, (TRAIN_FILE, MOST))[0]
            rows = [_of_job(db, job) for job in jobs]
    known = {row.place for row in rows}
    strangers = sorted(entry.name for entry in found.data.values() if entry.folder == "failed" and entry.where not in known)
    return rows + _without_job(places, found, strangers)


def _of_job(db: Database, job: Job) -> FailedFile:
    state: State = job.state if job.state in ("failed", "rejected", "cancelled") else "waiting"
    reason = job.error or "" if state != "cancelled" else _why_cancelled(db, job)
    return FailedFile(job.name or "", last_place(db, job.id), state, job.attempts, job.max_attempts, reason, job.updated_at, job.id)


def _why_cancelled(db: Database, job: Job) -> str:
    """What was said when it was cancelled, or when that was asked of its worker."""
    told = [event.data.get("reason") for event in events.log_of(db, job.id).events if event.type in _CANCELS]
    return next((str(reason) for reason in reversed(told) if reason), "")


def _without_job(places: Places, found: Scan, names: list[str]) -> list[FailedFile]:
    """Files in `failed/` of which the store knows nothing; the original's document may say why."""
    said = {entry.get("file"): entry for entry in original_lists(places)["failed"] if isinstance(entry, dict)}
    rows = []
    for name in names:
        entry = said.get(name, {})
        moment = entry.get("final_failure")
        reason = str(entry.get("last_error") or _UNKNOWN)
        rows.append(
            FailedFile(
                name, f"failed/{name}", "parked", int(entry.get("attempts") or 0), None, reason, str(moment) if moment else None, None
            )
        )
    return rows
