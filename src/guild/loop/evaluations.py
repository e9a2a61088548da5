"""The daemon's part in evaluations: a process that works them off while some wait. (specs/guild.md 2.1.9; issue decision Base directory)

It holds the evaluated model in memory between two evaluations, ends itself when nothing waited for a while, and on a device that the
trainer uses too it takes nothing while a file is being trained.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guild.places import Places
from guild.processes import OwnProcess, find_holder, log_tail, start_process
from guild.records import events
from modelwright.clock import Clock
from modelwright.database import Database

if TYPE_CHECKING:
    from guild.loop.daemon import Daemon

KIND = "eval"
MODULE = "guild.eval_runner"
LOCK_FOLDER = "eval_runner"
LOG_NAME = "eval_runner.log"
FIRST_BACKOFF_S, LAST_BACKOFF_S = 10.0, 600.0


@dataclass
class Evaluations:
    """Called by the daemon in every round. interval_s: between the process's looks at the queue. idle_exit_s: it ends when nothing waited
    for so long."""

    interval_s: float = 5.0
    idle_exit_s: float = 60.0
    process: OwnProcess | None = None
    backoff_s: float = FIRST_BACKOFF_S
    not_before: float = float("-inf")

    def __call__(self, daemon: Daemon) -> None:
        self.look(daemon.db, daemon.places, daemon.clock)

    def look(self, db: Database, places: Places, clock: Clock) -> bool:
        """Start the process when an evaluation waits and none is at work; whether it was started. Raises StorageError."""
        self._reap(db, places, clock)  # also where none waits: an ended child is nothing to keep
        if db.row("SELECT 1 FROM jobs WHERE kind = ? AND state = 'queued' LIMIT 1", (KIND,)) is None:
            return False
        if clock.monotonic() < self.not_before or self.process is not None or find_holder(places.pids / LOCK_FOLDER) is not None:
            return False
        words = ["--daemon", "--interval", str(self.interval_s), "--idle-exit", str(self.idle_exit_s)]
        self.process = start_process([sys.executable, "-m", MODULE, "--base-dir", str(places.base), *words], places.logs / LOG_NAME)
        return True

    def _reap(self, db: Database, places: Places, clock: Clock) -> None:
        if self.process is None or self.process.alive():
            return
        code, self.process = self.process.exit_code, None
        if code in (0, None):
            self.backoff_s = FIRST_BACKOFF_S
            return
        self.not_before = clock.monotonic() + self.backoff_s
        text = f"The evaluator ended with {code}; the next one is started in {self.backoff_s:g} s. {log_tail(places.logs / LOG_NAME)}"
        self.backoff_s = min(2 * self.backoff_s, LAST_BACKOFF_S)
        events.record(db, "daemon.evaluator_ended", text, source="daemon", severity="error", data={"code": code}, clock=clock)


def dismiss_evaluator(places: Places, grace_s: float) -> None:
    """Ask a living evaluator to leave; its job returns to the queue."""
    found = find_holder(places.pids / LOCK_FOLDER)
    if found is not None:
        found.leave_in_order(grace_s)
