"""Correction rows grow stale: once training has moved past the checkpoint that gave the answers, they wait behind. (specs/guild.md 6.4, 6)

A stale file keeps its rows and is trained from `low`, when nothing else waits. The daemon calls `demote_stale` in every round, the trainer
before it takes a file, and `return_if_stale` with the file that it took.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from guild.campaigns.pointer import active_key
from guild.correction.rows import GENERATOR
from guild.naming import checkpoint_step
from guild.places import PRIORITIES, Places
from guild.queue.marks import mark_returned, set_priority
from guild.queue.payload import TRAIN_FILE
from guild.records import events, jobs, ledger
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId
from guild.records.data_sidecars import read_data_sidecar
from guild.records.jobs import IllegalTransitionError, Job, UnknownJobError
from guild.records.kinds import level_of
from modelwright.clock import SYSTEM_CLOCK, Clock, parse_stamp
from modelwright.database import Database
from modelwright.errors import DamagedFileError
from modelwright.identity import ProcessIdentity

PREFIX = "sparring_"
LOWEST = PRIORITIES[-1]
FIRST_LINE = 1 << 20


@dataclass(frozen=True)
class Origin:
    """The session that a file is of. step: None for a model that is no checkpoint. campaign: None when the file does not say."""

    checkpoint: str
    step: int | None
    timestamp: str
    campaign: CampaignId | None = None


def is_stale(db: Database, origin: Origin, active: CampaignId) -> bool:
    """Whether training has moved past the session's checkpoint: the ledger has a later step, or, for a model that is no checkpoint, one
    that was saved after the session; or another campaign is active than the one that answered."""
    if origin.campaign is not None and origin.campaign != active:
        return True
    newest = ledger.get_latest(db, active)
    if newest is None:
        return False
    if origin.step is not None:
        return newest.step > origin.step
    return parse_stamp(newest.timestamp) > parse_stamp(origin.timestamp)


def demote_stale(db: Database, places: Places, *, clock: Clock = SYSTEM_CLOCK) -> list[str]:
    """Move waiting files with stale rows into `low`; returns their names. Cheap while none waits. Raises StorageError."""
    active = active_campaign_id(places)
    return [job.name or "" for job in _waiting(db) if _job_is_stale(db, places, job, active) and _demote(db, places, job, clock)]


def return_if_stale(db: Database, places: Places, job: Job, owner: ProcessIdentity, *, clock: Clock = SYSTEM_CLOCK) -> bool:
    """Give a file that was just taken back, into `low`, when its rows are stale and it came from above; whether it did.

    A file that is taken from `low` is trained, however old: nothing better waits. Raises NotHeldError, StorageError.
    """
    if not _is_ours(job) or level_of(job.from_priority if job.from_priority is not None else job.priority) == LOWEST:
        return False
    if not _job_is_stale(db, places, job, active_campaign_id(places)):
        return False
    return _demote(db, places, mark_returned(db, places, job.id, owner, clock=clock), clock)


def origin_of(path: Path) -> Origin | None:
    """The session of a file, by its sidecar, else by its first row; None when neither tells. Raises DamagedFileError, StorageError."""
    sidecar = read_data_sidecar(path)
    told: Any = sidecar.params if sidecar is not None and sidecar.generator_id == GENERATOR else _first_row(path)
    checkpoint, timestamp = told.get("session_checkpoint"), told.get("session_timestamp")
    if checkpoint is None or not isinstance(timestamp, str):
        return None
    campaign = told.get("campaign")
    hero, _, name = campaign.partition("/") if isinstance(campaign, str) else ("", "", "")
    step = checkpoint if isinstance(checkpoint, int) else checkpoint_step(Path(str(checkpoint)).name)
    return Origin(str(checkpoint), step, timestamp, CampaignId(hero, name) if name else None)


def active_campaign_id(places: Places) -> CampaignId:
    """The active campaign; `NO_CAMPAIGN` when none is."""
    key = active_key(places)
    return NO_CAMPAIGN if key is None else CampaignId(*key.key)


def _waiting(db: Database) -> list[Job]:
    """Files of sessions that wait above `low`."""
    names = [
        row["name"]
        for row in db.rows("SELECT name FROM jobs WHERE state = 'queued' AND kind = ? AND name GLOB ?", (TRAIN_FILE, f"{PREFIX}*"))
    ]
    found = [jobs.find_file(db, name) for name in names]
    return [job for job in found if job.state == "queued" and job.level != LOWEST]


def _is_ours(job: Job) -> bool:
    return (job.name or "").startswith(PREFIX)


def _job_is_stale(db: Database, places: Places, job: Job, active: CampaignId) -> bool:
    folder = places.processing if job.state in ("running", "paused") else places.level(job.level)
    path = folder / (job.name or "")
    try:
        origin = origin_of(path)
    except DamagedFileError:
        return False  # its validation names the damage, before it is trained
    return origin is not None and is_stale(db, origin, active)


def _demote(db: Database, places: Places, job: Job, clock: Clock) -> bool:
    name = job.name or ""
    try:
        moved = set_priority(db, places, name, LOWEST, clock=clock)
    except (IllegalTransitionError, UnknownJobError):
        return False  # taken or taken away since the look
    text = f"{name} waits in low: training has moved past the checkpoint that its rows correct (stale sparring rows)."
    events.record(db, "data.sparring_stale", text, source=GENERATOR, data={"file": name}, job=moved.id, clock=clock)
    return True


def _first_row(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = orjson.loads(file.readline(FIRST_LINE))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
