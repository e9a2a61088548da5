"""The file of a generation on its way: a free name, written where nobody takes it, moved with its sidecar. (specs/guild.md 2.4, 5.5)"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from guild.curriculum.rows import SCHEMA_ID, jsonl
from guild.curriculum.sources import SourceInfo
from guild.curriculum.totals import Plan
from guild.errors import RefusedError
from guild.naming import sidecar_name, training_file_name
from guild.places import PRIORITIES, Places
from guild.queue.checking import check_free
from guild.queue.folders import queue_lock
from guild.records import jobs
from guild.records.data_sidecars import new_data_sidecar, write_data_sidecar
from guild.records.jobs import UnknownJobError
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.errors import storage_error
from modelwright.files import fsync_directory, make_folder, write_bytes

STAGED = "staged"
"""Folder below `data_manager/` where a file lies until it is checked."""


def free_name(db: Database, places: Places, skill: str, level: int, count: int, clock: Clock) -> str:
    """The name of now, or of the next second in which the name is free."""
    moment = clock.now()
    while True:
        name = training_file_name(skill, level, count, moment)
        try:
            check_free(db, places, name)
            if not (places.inbox / name).exists() and not (places.rejected / name).exists() and not was_queued(db, name):
                return name
        except RefusedError:
            pass  # in use: the next one
        moment += timedelta(seconds=1)


def was_queued(db: Database, name: str) -> bool:
    try:
        jobs.find_file(db, name)
    except UnknownJobError:
        return False
    return True


def stage(places: Places, plan: Plan, info: SourceInfo, rows: Sequence[Mapping[str, Any]], clock: Clock) -> Path:
    """The file with its sidecar, where nobody takes it."""
    clear_staged(places)
    staged = make_folder(places.data_manager / STAGED) / plan.file
    write_bytes(staged, jsonl(rows))
    asked = {"skill": plan.skill, "level": plan.level, "count": plan.count, "seed": plan.seed, "number": plan.number}
    extra = {"schema_id": SCHEMA_ID, "address": info.address, "job": plan.job}
    sidecar = new_data_sidecar(
        info.generator_id, info.generator_version, len(rows), params=asked, source=f"skill:{plan.skill}", extra=extra, clock=clock
    )
    write_data_sidecar(staged, sidecar)
    return staged


def move(source: Path, target: Path) -> None:
    """Move a data file with its sidecar, which comes first: a data file is never seen without it. Raises StorageError."""
    make_folder(target.parent)
    try:
        os.replace(source.with_name(sidecar_name(source.name)), target.with_name(sidecar_name(target.name)))
        os.replace(source, target)
    except OSError as error:
        raise storage_error(error, target, "move the generated file to") from error
    for folder in (target.parent, source.parent):
        fsync_directory(folder)


def clear_staged(places: Places) -> None:
    """Remove what an attempt that was killed left behind; whoever holds the generation lock makes its file anew."""
    folder = places.data_manager / STAGED
    for left in folder.iterdir() if folder.is_dir() else ():
        left.unlink()


def clear_landed(db: Database, places: Places, name: str) -> None:
    """The same for a kill between the file's landing in its level and its job: without a job nobody has begun with it."""
    with queue_lock(places):
        if not was_queued(db, name):
            for level in PRIORITIES:
                for left in (name, sidecar_name(name)):
                    (places.level(level) / left).unlink(missing_ok=True)
