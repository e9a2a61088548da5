"""The daemon's part in side jobs: a look in every round, and a process of its own for whatever is due. (specs/guild.md 2.1.1; item 35)

    Daemon(started, signals, poll, side_work=(SideJobs(),))

With nothing due a look is one small query. Runners are found by the lock of their kind, so a daemon that was killed and started again
meets those of the one before; runs and runners go on meanwhile.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guild.campaigns.config_file import installation_config
from guild.campaigns.pointer import active_key
from guild.places import Places
from guild.processes import OwnProcess, find_holder, log_tail, start_process
from guild.records import events, jobs
from guild.records.jobs import NewJob
from guild.side_jobs.handlers import carried_out_here
from guild.side_jobs.runner import EXIT_HELD, EXIT_NONE_TAKEN, MODULE, lock_folder
from guild.side_jobs.work import SOURCE
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.identity import current_identity, liveness

if TYPE_CHECKING:
    from guild.loop.daemon import Daemon

LOG_NAME = "side_jobs.log"
RETENTION_EVERY_S = 1800.0
REPORTS_EVERY_S = 300.0
FIRST_BACKOFF_S, LAST_BACKOFF_S, LAST_WAIT_S = 5.0, 600.0, 60.0


@dataclass
class _Kind:
    """A kind's runner as this process knows it. not_before: monotonic seconds before which no runner is started again."""

    runner: OwnProcess | None = None
    backoff_s: float = FIRST_BACKOFF_S
    not_before: float = float("-inf")


@dataclass
class SideJobs:
    """Called by the daemon in every round. kinds: those whose jobs are carried out, None for all that this installation can.
    arguments: for every runner. say: where lines for people go."""

    kinds: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ()
    retention_every_s: float = RETENTION_EVERY_S
    reports_every_s: float = REPORTS_EVERY_S
    say: Callable[[str], None] = lambda line: None
    _known: dict[str, _Kind] = field(default_factory=dict)
    _cleaned: float = float("-inf")
    _reported: float = float("-inf")

    def __call__(self, daemon: Daemon) -> None:
        self.look(daemon.db, daemon.places, daemon.clock)

    def look(self, db: Database, places: Places, clock: Clock) -> list[str]:
        """Ask for a retention pass and for reports when their time has come, and start a runner for every kind that needs one; returns
        those kinds.

        Raises what the store raises, and StorageError.
        """
        if self.kinds is None:
            self.kinds = carried_out_here()
        self._ask_for_retention(db, places, clock)
        self._ask_for_reports(db, places, clock)
        for kind, known in self._known.items():  # also where no job waits: an ended child is nothing to keep
            self._reap(db, places, kind, known, clock)
        started = []
        for kind in due(db, self.kinds):
            known = self._known.setdefault(kind, _Kind())
            if clock.monotonic() < known.not_before or find_holder(places.pids / lock_folder(places, kind)) is not None:
                continue
            if known.runner is not None and known.runner.alive():
                continue  # it has not taken its lock yet
            known.runner = start_runner(places, kind, self.arguments)
            self.say(f"A runner is at work on jobs of kind {kind} (process {known.runner.identity.pid}).")
            started.append(kind)
        return started

    def _ask_for_retention(self, db: Database, places: Places, clock: Clock) -> None:
        now = clock.monotonic()
        if "retention" not in (self.kinds or ()) or now - self._cleaned < self.retention_every_s:
            return
        self._cleaned = now
        if installation_config(places).retention.enabled:
            jobs.submit(db, NewJob("retention", {"reason": "the daemon's regular pass"}, key="retention"), clock=clock)

    def _ask_for_reports(self, db: Database, places: Places, clock: Clock) -> None:
        now = clock.monotonic()
        if "report" not in (self.kinds or ()) or now - self._reported < self.reports_every_s:
            return
        self._reported = now
        from guild.analytics.reports import due_reports

        campaign = active_key(places)
        key = None if campaign is None else f"{campaign.hero_id}/{campaign.campaign_id}"
        for name in due_reports(places, campaign=key, clock=clock) if key is not None else ():
            payload = {"name": name, "campaign": key, "reason": "its document is old"}
            jobs.submit(db, NewJob("report", payload, key=f"report:{key}:{name}"), clock=clock)

    def _reap(self, db: Database, places: Places, kind: str, known: _Kind, clock: Clock) -> None:
        """Take note of a runner that ended: one that failed is waited for before the next."""
        if known.runner is None or known.runner.alive():
            return
        code, known.runner = known.runner.exit_code, None
        if code in (0, None, EXIT_HELD):
            known.backoff_s = FIRST_BACKOFF_S
            return
        known.not_before = clock.monotonic() + known.backoff_s
        if code == EXIT_NONE_TAKEN:  # what it needs is in use; it is looked at again, ever less often
            known.backoff_s = min(2 * known.backoff_s, LAST_WAIT_S)
            return
        words = log_tail(places.logs / LOG_NAME)
        text = f"The runner of jobs of kind {kind} ended with {code}; the next one is started in {known.backoff_s:g} s. {words}"
        known.backoff_s = min(2 * known.backoff_s, LAST_BACKOFF_S)
        self.say(text)
        events.record(db, "daemon.runner_ended", text, source=SOURCE, severity="error", data={"kind": kind, "code": code}, clock=clock)


def due(db: Database, kinds: tuple[str, ...]) -> list[str]:
    """The kinds that need a runner: a job waits that could be taken now, or the process that held one is dead."""
    marks = ", ".join("?" * len(kinds))
    states = f"SELECT DISTINCT kind FROM jobs WHERE kind IN ({marks}) AND state IN ('queued', 'running', 'paused')"
    unfinished = [row["kind"] for row in db.rows(states, kinds)]
    if not unfinished:
        return []
    found = set(jobs.takeable(db, unfinished))
    here = current_identity()
    for job in jobs.list_jobs(db, kinds=unfinished, states=("running", "paused")).jobs:
        if job.owner is not None and liveness(job.owner, here) == "dead":
            found.add(job.kind)
    return [kind for kind in unfinished if kind in found]


def start_runner(places: Places, kind: str, arguments: tuple[str, ...] = ()) -> OwnProcess:
    """Start the runner of a kind as a process that outlives this one; its words go to `logs/side_jobs.log`. Raises StorageError."""
    words = [sys.executable, "-m", MODULE, "--base-dir", str(places.base), "--kind", kind, *arguments]
    return start_process(words, places.logs / LOG_NAME)


def leave(places: Places, grace_s: float = 120.0, *, kinds: tuple[str, ...] | None = None) -> list[str]:
    """Ask every living runner of this house to leave: runs save their state and their jobs return to the queue. For a daemon that shall
    leave nothing behind. Returns the kinds whose runner had to be killed after `grace_s` seconds, all together."""
    found = {kind: find_holder(places.pids / lock_folder(places, kind)) for kind in kinds or carried_out_here()}
    runners = {kind: runner for kind, runner in found.items() if runner is not None}
    for runner in runners.values():
        runner.signal(signal.SIGTERM)
    deadline = SYSTEM_CLOCK.monotonic() + grace_s
    late = [kind for kind, runner in runners.items() if not runner.wait(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))]
    for kind in late:
        runners[kind].signal(signal.SIGKILL)
    return late
