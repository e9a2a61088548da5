"""The trainer as a process: started with its log, found again after the daemon died. (specs/guild.md G5, G8)"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from guild.places import Places
from guild.processes import OwnProcess, find_holder, log_tail, start_process

LOCK_FOLDER = "trainer"
LOG_NAME = "trainer.log"
MODULE = "guild.trainer.process"


def start_trainer(places: Places, arguments: Sequence[str] = ()) -> OwnProcess:
    """Start a trainer that outlives its starter; its words go to `logs/trainer.log`. Raises StorageError."""
    return start_process([sys.executable, "-m", MODULE, "--base-dir", str(places.base), *arguments], places.logs / LOG_NAME)


def find_trainer(places: Places) -> OwnProcess | None:
    """The trainer that holds the house's lock and lives; None when none does."""
    return find_holder(places.pids / LOCK_FOLDER)


def trainer_words(places: Places) -> str:
    """The last words of the trainer's log, for a message."""
    return log_tail(places.logs / LOG_NAME)
