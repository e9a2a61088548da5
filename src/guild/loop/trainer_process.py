"""The trainer as a process: started with a session of its own, found again after the daemon died, asked to leave in order. (G5, G8)"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from guild import processes
from guild.places import Places
from guild.processes import OwnProcess, find_holder, start_process

LOCK_FOLDER = "trainer"
LOG_NAME = "trainer.log"
MODULE = "guild.trainer.process"

TrainerProcess = OwnProcess


def start_trainer(places: Places, arguments: Sequence[str] = ()) -> TrainerProcess:
    """Start a trainer that outlives its starter: a session of its own, output on `logs/trainer.log`. Raises StorageError."""
    return start_process([sys.executable, "-m", MODULE, "--base-dir", str(places.base), *arguments], places.logs / LOG_NAME)


def find_trainer(places: Places) -> TrainerProcess | None:
    """The trainer that holds the house's lock and lives; None when none does."""
    return find_holder(places.pids / LOCK_FOLDER)


def leave_in_order(trainer: TrainerProcess, grace_s: float) -> bool:
    """Ask it to finish its step, save and end; killed only when `grace_s` seconds have passed. Whether it ended by itself."""
    return trainer.leave_in_order(grace_s)


def log_tail(places: Places, lines: int = 3) -> str:
    """The last words of the trainer's log, for a message."""
    return processes.log_tail(places.logs / LOG_NAME, lines)
