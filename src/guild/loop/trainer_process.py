"""The trainer as a process: started with its log, found again after the daemon died. (specs/guild.md G5, G8)"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from guild.control.daemon import TRAINER_LOCK
from guild.places import Places
from guild.processes import OwnProcess, find_holder, log_tail, start_process
from modelwright.errors import storage_error
from modelwright.files import make_folder

LOG_NAME = "trainer.log"
MODULE = "guild.trainer.process"
MARK = "== a trainer starts =="
"""Stands in the log before the words of each."""


def start_trainer(places: Places, arguments: Sequence[str] = ()) -> OwnProcess:
    """Start a trainer that outlives its starter; its words go to `logs/trainer.log`. Raises StorageError."""
    note(places.logs / LOG_NAME, MARK)
    return start_process([sys.executable, "-m", MODULE, "--base-dir", str(places.base), *arguments], places.logs / LOG_NAME)


def find_trainer(places: Places) -> OwnProcess | None:
    """The trainer that holds the house's lock and lives; None when none does."""
    return find_holder(places.pids / TRAINER_LOCK)


def trainer_words(places: Places) -> str:
    """The last words of the newest trainer, for a message."""
    return log_tail(places.logs / LOG_NAME).rpartition(MARK)[2].strip()


def note(path: Path, line: str) -> None:
    """Append a line to a log. Raises StorageError."""
    make_folder(path.parent)
    try:
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{line}\n")
    except OSError as error:
        raise storage_error(error, path, "write") from error
