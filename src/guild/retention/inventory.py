"""What lies there: checkpoints and snapshots with their sizes and ages, and nothing that a link leads to outside. (specs/guild.md 2.8.4)

The age is the wall clock's, and at most what the boot clock allows since retention first saw the item in this boot: a wall clock that
is set forward by a day makes nothing old. (parts.md, fault 9)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_marks import EVALUATIONS_NAME, OPTIMIZER_FILES, SIDECAR_NAME, TRAINER_STATE
from guild.records.checkpoint_places import all_checkpoints, campaign_of
from guild.records.checkpoint_sidecars import read_sidecar
from guild.retention.references import Reasons
from guild.retention.rules import Item
from modelwright.checkpoint_folders import MANIFEST_NAME
from modelwright.clock import Clock, parse_stamp
from modelwright.errors import ModelwrightError, storage_error

SNAPSHOT = re.compile(r"\d{4}-\d{2}-\d{2}")
RECORDS = (SIDECAR_NAME, EVALUATIONS_NAME, MANIFEST_NAME)
STATE_FILES = (*OPTIMIZER_FILES, "scheduler.pt", "rng_state.pt")
STATE_PATTERNS = ("rng_state_*.pth", "rng_state.pth", "scaler.pt", "global_step*")


@dataclass(frozen=True)
class Sighting:
    """When retention first saw an item: boot and seconds since it, and the item's age then."""

    boot: str
    uptime_s: float
    age_s: float


def checkpoint_paths(places: Places) -> list[Path]:
    """Checkpoint folders that really lie below the base directory, resolved."""
    base = places.base.resolve()
    return [path for path in all_checkpoints(places) if path.is_relative_to(base) and path != base]


def snapshot_paths(places: Places) -> list[Path]:
    """Snapshot folders: named by a date, no links, directly in `snapshots/` of the base directory."""
    root = places.snapshots
    base = places.base.resolve()
    if not root.is_dir() or not root.resolve().is_relative_to(base):
        return []
    return sorted(path.resolve() for path in root.iterdir() if SNAPSHOT.fullmatch(path.name) and path.is_dir() and not path.is_symlink())


def take_stock(
    places: Places, reasons: Reasons, seen: Mapping[str, Sighting], *, boot: str, uptime_s: float, fresh_s: float, clock: Clock
) -> list[Item]:
    """Every checkpoint and snapshot as the rules want it. seen: sightings by path. boot, uptime_s: this boot's id and its age. fresh_s:
    younger ones are protected. Raises StorageError."""
    now = clock.now()
    items = []
    for path in checkpoint_paths(places):
        size, optimizer = sizes(path)
        age = _age(str(path), _saved_at(path), now, seen, boot, uptime_s)
        why = [*reasons.get(path, ()), *(["it is less than an hour old" if fresh_s == 3600 else "it is fresh"] if age < fresh_s else [])]
        step = checkpoint_step(path.name) or 0
        items.append(Item(str(path), "checkpoint", size, age, campaign_of(places, path).key, step, optimizer, tuple(dict.fromkeys(why))))
    local = now.astimezone()
    recent = {local.date().isoformat(), (local - timedelta(days=1)).date().isoformat()}
    for path in snapshot_paths(places):
        size, _ = sizes(path)
        age = _age(str(path), path.stat().st_mtime, now, seen, boot, uptime_s)
        why = [*reasons.get(path, ()), *(["it is today's or yesterday's snapshot"] if path.name in recent else [])]
        why += ["it is fresh"] if age < fresh_s else []
        items.append(Item(str(path), "snapshot", size, age, protected=tuple(why)))
    return items


def state_paths(path: Path) -> list[Path]:
    """Files and folders in a checkpoint that hold the state of the optimizer, its schedule and the random numbers; links are none."""
    found = [path / name for name in STATE_FILES] + [item for pattern in STATE_PATTERNS for item in sorted(path.glob(pattern))]
    return [item for item in dict.fromkeys(found) if item.exists() and not item.is_symlink()]


def sizes(path: Path) -> tuple[int, int]:
    """(bytes of everything below a folder, bytes of the optimizer's part of it); links are counted as nothing and not followed."""
    return _bytes(path), sum(_bytes(item) for item in state_paths(path))


def _bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder but the records of the ledger and of the store."""
    try:
        if not path.is_dir():
            return path.lstat().st_size
        total = 0
        for folder, _, files in os.walk(path, onerror=_raise, followlinks=False):
            for name in files:
                if name.startswith(RECORDS):
                    continue
                file = Path(folder, name)
                total += 0 if file.is_symlink() else file.lstat().st_size
        return total
    except FileNotFoundError:
        return 0  # it went meanwhile
    except OSError as error:
        raise storage_error(error, path, "measure") from error


def _raise(error: OSError) -> None:
    raise error


def _saved_at(path: Path) -> float:
    """Seconds since the epoch at which a checkpoint was saved: the sidecar's word, else the youngest of its marks."""
    try:
        record = read_sidecar(path)
        if record is not None:
            return parse_stamp(record.timestamp).timestamp()
    except (ModelwrightError, ValueError):
        pass  # a damaged sidecar says nothing of the age; the files do
    marks: list[Any] = [path / TRAINER_STATE, path / "manifest.json", path / "config.json", *path.glob("*.safetensors"), path]
    return max(mark.lstat().st_mtime for mark in marks if mark.exists())


def _age(key: str, saved_at: float, now: datetime, seen: Mapping[str, Sighting], boot: str, uptime_s: float) -> float:
    age = max(0.0, now.timestamp() - saved_at)
    first = seen.get(key)
    if first is not None and first.boot == boot:
        return min(age, first.age_s + max(0.0, uptime_s - first.uptime_s))
    return age
