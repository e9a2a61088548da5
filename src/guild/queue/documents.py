"""`queue/queue_metadata.json`: what became of the files, for people and older programs. (specs/guild.md 4.10)

An export of the database, replaced whole after each change, under the queue's lock so that an older one never follows a newer. Entries of
the original system's document stay in front of ours. Only the newest LIMIT entries of each list are written; `totals` counts all.
"""

from __future__ import annotations

from typing import Any

from guild.places import Places
from guild.queue.payload import TRAIN_FILE
from guild.records import events, job_rows
from guild.records.jobs import Job
from guild.records.kinds import level_of
from guild.records.status_documents import export, original_document
from modelwright.database import Database
from modelwright.errors import DamagedFileError

LIMIT = 1000
LISTS = ("processed", "skipped", "failed")


def export_metadata(db: Database, places: Places) -> None:
    """Write the document anew. The caller holds the queue's lock. Raises StorageError."""
    export(places.queue_metadata, metadata(db, places))


def metadata(db: Database, places: Places) -> dict[str, Any]:
    """`processed[{file, completed_at, job}]`, `skipped[{file, skipped_at, reason, job}]`, `failed[{file, attempts, last_error, retry_at |
    final_failure, job}]`, `processing[{file, from_priority, position_examples, started_at, job}]`, `totals{processed, skipped, failed}`."""
    completed = _read(db, "state = 'completed' ORDER BY finished_at DESC, id DESC LIMIT ?", LIMIT)
    ours = {
        "processed": [{"file": job.name, "completed_at": job.finished_at, "job": job.id} for job in reversed(completed)],
        "skipped": [entry for job in _read(db, "skips > 0 ORDER BY id DESC LIMIT ?", LIMIT) for entry in _skips(db, job)],
        "failed": [_failure(db, job) for job in _read(db, _FAILED, LIMIT)],
    }
    ours["skipped"].sort(key=lambda entry: str(entry["skipped_at"]))
    earlier = original_lists(places)
    lists = {name: (earlier[name] + ours[name])[-LIMIT:] for name in LISTS}
    return {**lists, "processing": [_held(job) for job in _read(db, "state IN ('running', 'paused') ORDER BY id LIMIT ?", LIMIT)],
            "totals": totals(db, places)}  # fmt: skip


def totals(db: Database, places: Places) -> dict[str, int]:
    """How many files were completed, skipped (each time counts) and parked in `failed/`, the original system's included."""
    row = db.row(
        "SELECT count(*) FILTER (WHERE state = 'completed') AS processed, coalesce(sum(skips), 0) AS skipped, "
        "count(*) FILTER (WHERE state IN ('failed', 'rejected')) AS failed FROM jobs WHERE kind = ?",
        (TRAIN_FILE,),
    )
    earlier = original_lists(places)
    finally_failed = [entry for entry in earlier["failed"] if isinstance(entry, dict) and "final_failure" in entry]
    before = {"processed": len(earlier["processed"]), "skipped": len(earlier["skipped"]), "failed": len(finally_failed)}
    return {name: int((row or {}).get(name) or 0) + before[name] for name in LISTS}


def original_lists(places: Places) -> dict[str, list[Any]]:
    """The lists of the original system's document; empty where there is none, or a damaged one (see `damage`)."""
    try:
        document = original_document(places.queue_metadata)
    except DamagedFileError:
        document = None
    content = document if isinstance(document, dict) else {}
    return {name: list(content[name]) if isinstance(content.get(name), list) else [] for name in LISTS}


def damage(places: Places) -> list[str]:
    """A sentence when the document, or the original one beside it, cannot be read. The next export puts a damaged one aside; as it is only
    an export, nothing waits for its repair."""
    try:
        original_document(places.queue_metadata)
    except DamagedFileError as error:
        return [str(error)]
    return []


_FAILED = "(attempts > 0 OR state IN ('failed', 'rejected')) AND state NOT IN ('completed', 'cancelled') ORDER BY id LIMIT ?"


def _read(db: Database, rest: str, limit: int) -> list[Job]:
    with db.snapshot():
        return job_rows.read(db.connection, f"WHERE kind = ? AND {rest}", (TRAIN_FILE, limit))[0]


def _skips(db: Database, job: Job) -> list[dict[str, Any]]:
    told = [event for event in events.log_of(db, job.id).events if event.type == "queue.skipped"]
    return [{"file": job.name, "skipped_at": event.timestamp, "reason": event.data.get("reason") or "", "job": job.id} for event in told]


def _failure(db: Database, job: Job) -> dict[str, Any]:
    entry = {"file": job.name, "attempts": job.attempts, "last_error": job.error, "job": job.id}
    if job.state in ("failed", "rejected"):
        return {**entry, "final_failure": job.finished_at}
    failures = [event.timestamp for event in events.log_of(db, job.id).events if event.type == "queue.failed"]
    return {**entry, "retry_at": failures[-1] if failures else job.updated_at}


def _held(job: Job) -> dict[str, Any]:
    return {
        "file": job.name,
        "from_priority": None if job.from_priority is None else level_of(job.from_priority),
        "position_examples": job.position,
        "started_at": job.started_at,
        "job": job.id,
    }
