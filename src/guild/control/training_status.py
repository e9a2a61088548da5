"""Reading a campaign's `training_status.json`: whether its training can still be true, and putting right what a dead trainer left.
(specs/guild.md 4.9, G7)

The document is an export of the trainer's; one that died in the middle of a file leaves it saying `training`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from guild.control.daemon import trainer_liveness
from guild.control.state import RECOVERED
from guild.places import Places
from guild.records.status_documents import export, read_document
from guild.training.status import STATUS_NAME
from modelwright.clock import SYSTEM_CLOCK, Clock, parse_stamp, stamp
from modelwright.errors import DamagedFileError, MissingFileError

STALE_AFTER_S = 600.0
"""Seconds without a new document after which a training is not believed any more."""
INTERRUPTED = "interrupted"
"""`error_type` of a status that was put right."""


def read_training_status(places: Places, path: Path, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """The document at `path` with `stale`: it says `training`, and no trainer lives or nothing was written for `STALE_AFTER_S`. Every
    reader that shows a training asks here.

    A file that is missing reads as idle. Raises DamagedFileError, StorageError.
    """
    try:
        content = read_document(path)
    except MissingFileError:
        content = {"schema_version": 1, "status": "idle"}
    if not isinstance(content, dict):
        found = f"found a {type(content).__name__}"
        raise DamagedFileError(path, found, "an object with a status", "Delete it; the trainer writes it anew")
    return {**content, "stale": is_stale(content, alive=trainer_liveness(places) != "dead", now=clock.now())}


def is_stale(content: dict[str, Any], *, alive: bool, now: datetime) -> bool:
    """Whether a status document claims a training that nobody carries out. alive: a trainer lives, or may. A time that cannot be read is
    no sign of life."""
    if content.get("status") != "training":
        return False
    try:
        written = parse_stamp(str(content.get("timestamp")))
    except ValueError:
        return True
    return not alive or (now - written).total_seconds() > STALE_AFTER_S


def reset_stale(places: Places, *, clock: Clock = SYSTEM_CLOCK) -> list[Path]:
    """At the start of a daemon without a live trainer: every campaign's status that says `training` becomes idle, and its other fields
    stay. Returns which. One that cannot be read is not touched; the next training replaces it. Raises StorageError."""
    reset = []
    for path in sorted(places.campaigns.glob(f"*/*/status/{STATUS_NAME}")):
        try:
            content = read_document(path)
        except (DamagedFileError, MissingFileError):
            continue
        if isinstance(content, dict) and is_stale(content, alive=False, now=clock.now()):
            told = {"status": "idle", "error_message": RECOVERED, "error_type": INTERRUPTED, "timestamp": stamp(clock.now())}
            export(path, told)
            reset.append(path)
    return reset
