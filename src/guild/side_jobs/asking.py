"""Making a run of another room stop: asked through the run contract, then by SIGTERM, then by force, each after its time. (G5)"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Literal

from guild.side_jobs.adoption import Present
from guild.side_jobs.job_folder import JobFolder
from modelwright.clock import Clock
from modelwright.control import ask
from modelwright.errors import ModelwrightError
from modelwright.heartbeat import read_heartbeat

Wish = Literal["release", "hold", "cancel", "overdue"]
"""Why it shall stop: the runner leaves (the job goes on later), a person pauses it, it is cancelled, its time is over."""
RANK: dict[Wish, int] = {"hold": 0, "release": 1, "overdue": 2, "cancel": 3}


@dataclass
class Asking:
    """One wish and how far it has come. since: monotonic seconds of the last step. stage: 0 nothing yet, 1 asked, 2 SIGTERM, 3 killed."""

    wish: Wish
    reason: str
    grace_s: float
    clock: Clock
    stage: int = 0
    since: float = 0.0

    def step(self, folder: JobFolder, present: Present) -> str:
        """Do what is due now; a sentence when something harder was done, else ""."""
        now = self.clock.monotonic()
        if self.stage == 0:
            self.since = now
            self.stage = 1 if self._ask(folder) else 2
            if self.stage == 2:
                _signal(present, signal.SIGTERM)
            return ""
        if now - self.since < self.grace_s or self.stage == 3:
            return ""
        self.since, self.stage = now, self.stage + 1
        if self.stage == 2:
            _signal(present, signal.SIGTERM)
            return f"It did not answer within {self.grace_s:g} s and gets SIGTERM."
        _signal(present, signal.SIGKILL)
        return f"It did not end within {self.grace_s:g} s after SIGTERM and is killed with its group."

    def _ask(self, folder: JobFolder) -> bool:
        """Whether the request could be put before a run that reads it; one that is not so far yet gets a signal instead."""
        room = folder.room
        kind = room.cancels if self.wish in ("cancel", "overdue") else room.asks
        run = folder.run
        if not kind or run is None or read_heartbeat(run).liveness != "alive":
            return False
        try:
            ask(run, kind, body={"reason": self.reason}, actor="guild", clock=self.clock)
        except ModelwrightError:
            return False  # it cannot be written, on a full disk for instance: a signal needs no disk
        return True


def _signal(present: Present, number: int) -> None:
    """To the whole group where there is one, else to the process; a stranger is never met."""
    if present.process is None:
        return
    if not (present.group and present.process.signal_group(number)):
        present.process.signal(number)
