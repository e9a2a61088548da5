"""The trainer's watch over a file that is held, without an engine: what it answers to signals and requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guild.campaigns.pointer import require_active
from guild.places import Places
from guild.queue.marks import take
from guild.queue.recovery import recover_queue
from guild.records.database import open_guild
from guild.trainer.watch import Watch
from guild.training.status import TrainingStatus
from helpers.guild_house import put
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.control import SignalFlag
from modelwright.identity import current_identity
from modelwright.rundir import RunDir


@contextmanager
def watching(places: Places, *, rows: int = 40, minimum_free: int = 0, clock: Clock = SYSTEM_CLOCK) -> Iterator[Watch]:
    """The watch of a file that this process holds in the active campaign."""
    put(places, "a.jsonl", rows, folder="queue/normal")
    folder = require_active(places)
    with open_guild(places) as db:
        recover_queue(db, places, quiet_s=0)
        taken = take(db, places, current_identity(), quiet_s=0)
        assert taken is not None
        with RunDir.create(folder.path / "runs" / "a", kind="toy", command=["train"]) as run:
            status = TrainingStatus(Path(run.path) / "status.json", "tiny", 256, 1, clock=clock, every_steps=1)
            yield Watch(db, places, folder, taken, run, current_identity(), SignalFlag(), status, clock, minimum_free, rows)
