"""Where a run of another room lies: its run directory and, beside it, what the guild keeps about the process.

    campaigns/<hero>/<campaign>/side_runs/000012-scale/        the room's own run directory
    campaigns/<hero>/<campaign>/side_runs/000012-scale.job/    launch.json exit.json stdout.txt output.log control/ writer.lock

A job that belongs to no campaign has its run below `side_runs/` of the base directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.campaigns.store import find_campaign
from guild.errors import UnknownNameError
from guild.places import Places
from guild.records.jobs import Job
from guild.side_jobs.rooms import Room, room_of, value_of
from modelwright.errors import MissingFileError
from modelwright.files import read_json
from modelwright.record import RECORD_NAME

FOLDER = "side_runs"


@dataclass(frozen=True)
class JobFolder:
    """path: what the guild keeps. place: what the room is told to write to."""

    path: Path
    place: Path
    room: Room

    @property
    def launch(self) -> Path:
        return self.path / "launch.json"

    @property
    def exit(self) -> Path:
        return self.path / "exit.json"

    @property
    def stdout(self) -> Path:
        return self.path / "stdout.txt"

    @property
    def log(self) -> Path:
        return self.path / "output.log"

    @property
    def run(self) -> Path | None:
        """The room's run directory, once there is one."""
        if not self.room.contract:
            return None
        if (self.place / RECORD_NAME).is_file():
            return self.place
        if self.room.below:
            return next((path.parent for path in sorted(self.place.glob(f"*/{RECORD_NAME}"))), None)
        return None

    def read(self, path: Path) -> dict[str, Any]:
        """A document of this folder, {} when there is none. Raises DamagedFileError."""
        try:
            content = read_json(path)
        except MissingFileError:
            return {}
        return content if isinstance(content, dict) else {}


def folder_of(places: Places, job: Job) -> JobFolder:
    """Where the run of a job lies now; its campaign may have been archived meanwhile. Nothing is made. Raises UnknownKindError."""
    room, root = room_of(job.kind), places.base
    if job.campaign and "/" in job.campaign:
        try:
            root = find_campaign(places, *job.campaign.split("/", 1)).path
        except UnknownNameError:
            root = places.base  # its campaign is gone; what the run writes is kept all the same
    label = f"{job.id:06d}-{job.kind}"
    folder = root / FOLDER / f"{label}.job"
    told = value_of(job.payload["arguments"], room.place) if room.place else None
    named = job.payload.get("run_dir") or told
    base = Path(job.payload.get("cwd") or places.base)
    return JobFolder(folder, base / Path(named).expanduser() if named else root / FOLDER / label, room)
