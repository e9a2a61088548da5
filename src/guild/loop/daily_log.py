"""What the daemon says, kept by day: `logs/daemon_YYYYMMDD.log`. (specs/guild.md 2.1.1)

For a person who looks back; events in the database are the record. A line that cannot be written (a full disk) is said all the same.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import StorageError
from modelwright.files import make_folder

KEPT_FOR = timedelta(days=30)
_NAME = re.compile(r"daemon_(\d{8})\.log")


@dataclass
class DailyLog:
    """Calls are lines: they go to `say` and, with the time, into the file of the day. Old files go when a new one begins."""

    folder: Path
    say: Callable[[str], None]
    clock: Clock = SYSTEM_CLOCK
    _day: str = ""

    def __call__(self, line: str) -> None:
        self.say(line)
        now = self.clock.now()
        day = now.strftime("%Y%m%d")
        with contextlib.suppress(OSError, StorageError):
            if day != self._day:
                make_folder(self.folder)
                self._forget((now - KEPT_FOR).strftime("%Y%m%d"))
                self._day = day
            with open(self.folder / f"daemon_{day}.log", "a", encoding="utf-8") as file:
                file.write(f"{now:%H:%M:%S}Z {line}\n")

    def _forget(self, before: str) -> None:
        for path in self.folder.iterdir():
            named = _NAME.fullmatch(path.name)
            if named and named[1] < before:
                path.unlink()
