"""Where a job's data file belongs, where it was last put, and how it gets from one to the other. (specs/guild.md 2.1.2)

State and level of the job say where the file belongs; the table `queue_files` says where it was last put. A move is: the job changes
(one transaction: the intent), the file is renamed, the place is noted. A kill after any of these leaves enough to go on, and `settle` is
both the move and its completion. Call everything here under `guild.queue.folders.queue_lock`.
"""

from __future__ import annotations

import stat
from pathlib import Path

from guild.naming import completed_name
from guild.places import Places
from guild.queue.moves import move, move_sidecar
from guild.queue.names import SUFFIX
from guild.records.jobs import Job
from guild.records.kinds import level_of
from guild.records.states import State
from modelwright.clock import parse_stamp
from modelwright.database import Database
from modelwright.errors import storage_error

TRAIN_FILE = "train_file"


def folder_of(job: Job) -> str:
    """The folder below `queue/` that the file of the job belongs to."""
    return folder_for(job.state, job.priority)


def folder_for(state: State, priority: int) -> str:
    """The folder below `queue/` of a job's file; that of a cancelled one is kept in `failed`."""
    if state == "queued":
        return level_of(priority)
    if state in ("running", "paused"):
        return "processing"
    return "recently_completed" if state == "completed" else "failed"


def names_in(folder: str, job: Job) -> tuple[str, ...]:
    """The names that the file may get there, the first one that is free is taken; the same at every call for the same job."""
    name = job.name or ""
    stem = name.removesuffix(SUFFIX)
    if folder == "recently_completed" and job.finished_at is not None:
        moment = parse_stamp(job.finished_at)
        return completed_name(stem, moment), completed_name(f"{stem}_{job.id}", moment)
    if folder == "failed":
        return name, f"{stem}_{job.id}{SUFFIX}"
    return (name,)


def last_place(db: Database, job: int) -> str | None:
    """`FOLDER/NAME` where the file was last put; None when that is not known or it is gone."""
    row = db.row("SELECT place FROM queue_files WHERE job = ?", (job,))
    return None if row is None else row["place"]


def note_place(db: Database, job: int, place: str | None) -> None:
    """Note where the file is now; None: it is gone. A power cut may forget it, which `settle` bears."""
    db.execute(
        "INSERT INTO queue_files (job, place) VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET place = ?", (job, place, place), durable=False
    )


def cancelled_places(db: Database) -> set[str]:
    """Places of files whose job is cancelled: they lie in `failed/`, did not fail, and leave their name to others."""
    rows = db.rows("SELECT place FROM queue_files JOIN jobs ON jobs.id = job WHERE state = 'cancelled' AND place IS NOT NULL")
    return {row["place"] for row in rows}


def settle(db: Database, places: Places, job: Job) -> str | None:
    """Bring the file of a job to where it belongs and return its place, `FOLDER/NAME`.

    A file whose name is taken there stays where it is. None when it is neither where it was put nor where it belongs. Raises StorageError.
    """
    last, folder = last_place(db, job.id), folder_of(job)
    there = last is not None and is_file(places.queue / last)
    if there and last is not None and last.split("/", 1)[0] == folder:
        return last
    for name in names_in(folder, job):
        target = places.queue / folder / name
        if there and last is not None:
            try:
                move(places.queue / last, target)
            except FileExistsError:
                continue
            except FileNotFoundError:
                there = False  # taken away by hand at this very moment
        if not there:
            if not is_file(target) or _of_another(db, job, f"{folder}/{name}"):
                continue
            if last is not None:
                move_sidecar(places.queue / last, target)
        note_place(db, job.id, f"{folder}/{name}")
        return f"{folder}/{name}"
    return last if there else None


def is_file(path: Path) -> bool:
    """Whether a plain file stands there; links are not followed. Raises StorageError when that cannot be seen."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise storage_error(error, path, "look at") from error


def _of_another(db: Database, job: Job, place: str) -> bool:
    return db.row("SELECT 1 FROM queue_files WHERE place = ? AND job != ?", (place, job.id)) is not None
