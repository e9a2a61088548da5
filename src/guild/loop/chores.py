"""What a daemon does beside training, each at its time: backups, old files, events and jobs, the daily snapshot. (specs/guild.md 2.1.1)

A snapshot is a copy of the newest checkpoint of the active campaign without the optimizer's state, once for each local date. Merging
adapters into a base model (the original's consolidation) is no chore here: the guild trains whole weights, of which there is nothing to
merge, so an original's `.last_consolidation` is left as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from guild.correction.staleness import demote_stale
from guild.places import Places
from guild.progression.hero_state import export_hero_state
from guild.progression.incidents import scan
from guild.progression.records_read import check_consistency
from guild.queue.retention import sweep_completed
from guild.records import backups, events, ledger
from guild.records.checkpoint_record import CampaignId
from guild.records.tidying import tidy
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.errors import ModelwrightError, storage_error
from modelwright.files import fsync_directory, make_folder

SWEEP_EVERY_S = 1800.0
LOOK_EVERY_S = 600.0
TIDY_EVERY_S = 86_400.0
OPTIMIZER_STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pt", "optimizer.bin")
SOURCE = "daemon"


@dataclass
class Chores:
    """Keeps the times of the chores of one daemon. snapshot_time: HH:MM in local time, once a day."""

    db: Database
    places: Places
    clock: Clock
    snapshot_time: str
    said: list[str] = field(default_factory=list)
    _swept: float = float("-inf")
    _backed_up: float = float("-inf")
    _looked: float = float("-inf")
    _tidied: float = float("-inf")
    _no_snapshot_on: date | None = None

    def __post_init__(self) -> None:
        for left in self.places.snapshots.glob(".*.new"):  # of a daemon that was killed while it copied
            shutil.rmtree(left, ignore_errors=True)

    def do(self, campaign: CampaignId) -> None:
        """Whatever is due; a chore that fails is told, and tried again at its next time."""
        now = self.clock.monotonic()
        if now - self._swept >= SWEEP_EVERY_S:
            self._swept = now
            self._guarded("sweep", self._sweep)
        if now - self._backed_up >= SWEEP_EVERY_S:
            self._backed_up = now
            self._guarded("backup", self._back_up)
        if now - self._tidied >= TIDY_EVERY_S:
            self._tidied = now
            self._guarded("tidy", lambda: tidy(self.db, clock=self.clock))
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._guarded("hero_state", lambda: export_hero_state(self.db, self.places, campaign, clock=self.clock))
            self._guarded("incidents", self._look_for_incidents)
        self._guarded("staleness", lambda: demote_stale(self.db, self.places, clock=self.clock))
        self._guarded("snapshot", lambda: self._snapshot(campaign))

    def _look_for_incidents(self) -> None:
        for opened in scan(self.db, self.places, check_consistency(self.db, self.places, clock=self.clock), clock=self.clock):
            self.said.append(f"Incident {opened.id}: {opened.title}")

    def _sweep(self) -> None:
        removed = sweep_completed(self.db, self.places, clock=self.clock)
        if removed:
            self._tell("data.swept", f"{len(removed)} files that were trained a week ago are deleted.", {"files": removed[:100]})

    def _back_up(self) -> None:
        if backups.due(self.places, clock=self.clock):
            made = backups.make(self.db, self.places, clock=self.clock)
            self._tell("daemon.backed_up", f"guild.db is copied to {made.path.name} and checked.", {})

    def _snapshot(self, campaign: CampaignId) -> None:
        local = self.clock.now().astimezone()
        if local.date() == self._no_snapshot_on or not snapshot_due(self.places, local, self.snapshot_time):
            return
        newest = ledger.get_latest(self.db, campaign)
        if newest is not None:
            made = take_snapshot(Path(newest.path), self.places.snapshots / local.date().isoformat())
            self._tell("vault.snapshot", f"Step {newest.step} is kept as the snapshot of {made.name}.", {"step": newest.step})

    def _guarded(self, name: str, chore: Callable[[], object]) -> None:
        try:
            chore()
        except (ModelwrightError, OSError) as error:
            self.said.append(str(error))
            events.record(self.db, f"daemon.{name}_failed", str(error), source=SOURCE, severity="error", clock=self.clock)
            if name == "snapshot":  # not again today
                self._no_snapshot_on = self.clock.now().astimezone().date()

    def _tell(self, type: str, message: str, data: dict[str, object]) -> None:
        self.said.append(message)
        events.record(self.db, type, message, source=SOURCE, data=data, clock=self.clock)


def snapshot_due(places: Places, local: datetime, at: str) -> bool:
    """Whether today's snapshot is still to be taken and its time has come. local: now, in local time."""
    hour, minute = (int(part) for part in at.split(":"))
    return (local.hour, local.minute) >= (hour, minute) and not (places.snapshots / local.date().isoformat()).exists()


def take_snapshot(checkpoint: Path, target: Path) -> Path:
    """Copy weights, tokenizer and records of a checkpoint, without the optimizer's state; whole or not at all. Raises StorageError."""
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        make_folder(temporary)
        for file in sorted(checkpoint.iterdir()):
            if file.is_file() and file.name not in OPTIMIZER_STATE and file.name != "manifest.json":
                shutil.copy2(file, temporary / file.name)
        for file in temporary.iterdir():
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(temporary)
        temporary.rename(target)
        fsync_directory(target.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise storage_error(error, target, "take the snapshot") from error
    return target
