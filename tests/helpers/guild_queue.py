"""A queue to test with: its folders, files put into them with an age, and what must always hold of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from guild.places import Places
from guild.queue.folders import FOLDERS, make_folders, scan
from guild.queue.payload import folder_of
from guild.queue.reconcile import reconcile
from guild.records import job_rows
from guild.records.data_sidecars import new_data_sidecar, write_data_sidecar
from guild.records.jobs import Job
from guild.records.states import LIVE
from helpers.guild_rows import chat, write_rows
from modelwright.database import Database

SCHEMA = "chat_sft_v1"


def new_queue(base: Path) -> Places:
    """A base directory with the queue's folders."""
    places = Places(base)
    make_folders(places)
    return places


def put(path: Path, *, age_s: float = 60.0, rows: int = 2, sidecar: bool = False) -> Path:
    """A valid data file whose content names it, last changed `age_s` seconds ago; with its sidecar on request."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, [chat(f"What is {number} of {path.name}?", "It is the first.", schema_id=SCHEMA) for number in range(rows)])
    if sidecar:
        write_data_sidecar(path, new_data_sidecar("manual", "1.0.0", rows, source=path.stem))
    age(path, age_s)
    return path


def age(path: Path, age_s: float) -> None:
    """Make a file look as if it was last changed `age_s` seconds ago."""
    moment = time.time() - age_s
    os.utime(path, (moment, moment))


def lying(places: Places) -> dict[str, list[str]]:
    """Names of everything in the queue's folders, hidden files left out; folders without files too."""
    return {
        folder: sorted(name for name in os.listdir(places.queue / folder) if not name.startswith("."))
        for folder in FOLDERS
        if (places.queue / folder).is_dir() and os.listdir(places.queue / folder)
    }


def all_jobs(db: Database) -> list[Job]:
    """Every job, oldest first."""
    return job_rows.read(db.connection, "ORDER BY id")[0]


def check_whole(db: Database, places: Places) -> None:
    """What holds after every reconcile: each job at work or waiting has its one file where it belongs, no name has two such jobs, a second
    look changes nothing."""
    found = scan(places)
    live = [job for job in all_jobs(db) if job.state in LIVE]
    assert len({job.name for job in live}) == len(live)
    for job in live:
        assert f"{folder_of(job)}/{job.name}" in found.data, (job, sorted(found.data))
        assert len([entry for entry in found.named(job.name or "") if entry.folder not in ("failed", "recently_completed")]) == 1
    again = reconcile(db, places)
    assert not again.changed, again
    assert scan(places).data.keys() == found.data.keys()
