"""Adding a data file to the queue: checked first, moved (or copied) into its level, then queued. (specs/guild.md 3.3, 5.2)

The file lands before its job is written: a kill in between leaves a file in the folder of its level, which the next look imports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guild.errors import RefusedError
from guild.naming import sidecar_name
from guild.places import Places, Priority
from guild.queue.checking import Checked, InvalidDataError, check_file, check_free, validate_quick
from guild.queue.documents import export_metadata
from guild.queue.folders import Entry, make_folders, queue_lock
from guild.queue.moves import Incoming, incoming
from guild.queue.names import shown
from guild.queue.payload import note_place, settle
from guild.queue.reconcile import new_file_job
from guild.records import jobs
from guild.records.jobs import Job
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import ModelwrightError


def add_file(
    db: Database, places: Places, file: Path, *, priority: Priority = "normal", copy: bool = False, validate: bool = True,
    schema: str | None = None, allow_default: bool = False, facts: Mapping[str, Any] | None = None, clock: Clock = SYSTEM_CLOCK,
) -> Job:  # fmt: skip
    """Put a file into a level of the queue, with its sidecar; returns its job, which survives a kill and a power cut.

    copy: leave the original where it is. validate: QUICK validation first (schema, allow_default: see `validate_quick`); False only for
    rows that the caller has just validated or made itself. facts: further fields of the job's payload, such as `skill` and `level`.
    Raises RefusedError (a name that cannot be queued or is in use, no plain file), InvalidDataError (also when empty), ConfigError (facts),
    QueueFullError, StorageError. After an error the file is where it was.
    """
    check_file(file)
    make_folders(places)
    check_free(db, places, file.name)
    checked = validate_quick(db, places, file, schema=schema, allow_default=allow_default, clock=clock) if validate else None
    learned = checked.facts if checked else {}
    coming = incoming(file, places.level(priority), keep=copy)
    try:
        with queue_lock(places):
            job = _land(db, places, coming, priority, {**learned, **(facts or {})}, checked, clock)
    except BaseException:
        coming.discard()
        raise
    coming.finish()
    return job


def park_invalid(db: Database, places: Places, file: Path, error: InvalidDataError, *, clock: Clock = SYSTEM_CLOCK) -> Job:
    """Put a file that failed validation into `failed/`, as a rejected job, so that it is listed and its name is refused.

    It lands there before its job is written, so that nobody ever takes it. Raises RefusedError, StorageError.
    """
    coming = incoming(file, places.failed, keep=False)
    try:
        with queue_lock(places):
            job = _land(db, places, coming, "failed", {}, error.checked, clock)
            job = jobs.reject_waiting(db, job.id, str(error), clock=clock)
            settle(db, places, job)
            export_metadata(db, places)
    except BaseException:
        coming.discard()
        raise
    coming.finish()
    return job


def _land(
    db: Database, places: Places, coming: Incoming, folder: str, facts: Mapping[str, Any], checked: Checked | None, clock: Clock
) -> Job:
    """The file into a folder of the queue, its verdict into its sidecar, then its job. folder: a level, or `failed`."""
    name = coming.source.name
    check_free(db, places, name)
    target = places.queue / folder / name
    try:
        coming.land(target)
        if checked is not None:
            checked.sign(places, target)
        status = target.lstat()
        job = jobs.enqueue(db, new_file_job(Entry(folder, name, status.st_size, status.st_mtime_ns), facts), clock=clock)
    except FileExistsError as error:
        raise RefusedError(f"queue/{folder}/{shown(name)}: found something of that name; allowed: a name that is not in use.") from error
    except FileNotFoundError as error:
        raise RefusedError(f"{shown(str(coming.source))}: it was taken away meanwhile.") from error
    except ModelwrightError:
        if coming.landed():
            _take_back(coming, target)
        raise
    note_place(db, job.id, f"{folder}/{name}")
    return job


def _take_back(coming: Incoming, target: Path) -> None:
    """It has landed and cannot be queued: the file returns to where it was."""
    side = target.with_name(sidecar_name(target.name))
    if coming.copy is None:
        if side.exists():
            os.rename(side, coming.source.with_name(sidecar_name(coming.source.name)))
        os.rename(target, coming.source)
    else:
        target.unlink(missing_ok=True)
        side.unlink(missing_ok=True)
