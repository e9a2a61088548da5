"""The watchdog over the daemon's own trainer: one that lives and makes no step is shown, then ended in order and begun anew.
(specs/guild.md G5, G11; parts.md, fault 7)

A live process that is silent is *stalled*, and a run is never taken from it: a second worker beside it would do more harm. That rule
stands for every run and every job of the house, and for the trainer too as long as it may still be at work. The watchdog adds one thing:
the daemon, which started or adopted the trainer and so answers for it, ends *this process* when it has stood still for too long. Only once
it is dead does its file go back. Two trainers are never at work.

| The trainer is at | counts as standing still after |
|---|---|
| steps of a file | `step_limit_s`, 10 minutes |
| a measurement on held-out rows or a preview; nothing, though a file waits that it could begin | `evaluating_limit_s`, 30 minutes |
| loading a model, reading and encoding a file, saving | never: how long these take is known by the disk alone |
| a pause (asked for, or a full disk), nothing to do, another job's turn on the device | never |
| halted by somebody (SIGSTOP, a debugger) | never: who halted it wants it so |

Whether its heartbeat is fresh does not matter, only whether steps are made. Time is counted between the watchdog's own looks, each
as two intervals at most, on the clock that no adjustment moves: what passes while the machine, its container or the daemon itself sleeps
is not held against the trainer.

After half the limit an event shows it as stalled. At the limit it is asked to save and leave, one look later it gets SIGTERM, and
SIGKILL when the daemon's grace is over; any sign of work on the way, a step or a save, starts the waiting again. Its file returns to
its level and goes on at its last checkpoint. A file that cost `restarts` trainers without a saved step between, or the last of so many
within `window_s` seconds, gets a failed attempt instead (the third parks it), and while so many ended lately no new trainer is begun.
"""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guild.campaigns.config_file import WatchdogSection
from guild.control.state import write_state
from guild.loop.trainer_sight import BETWEEN, EVALUATING, TRAINING, Sight, look_at
from guild.processes import OwnProcess
from guild.queue.marks import mark_failed
from guild.queue.recovery import recover_queue
from guild.records import events, jobs
from guild.trainer.dismissal import ask_to_leave
from modelwright.clock import Clock

if TYPE_CHECKING:
    from guild.loop.daemon import Daemon

SOURCE = "daemon"
UNKILLABLE_S = 60.0
"""Seconds after a SIGKILL at which a process that is still there is told of: it waits for a device in the kernel."""


@dataclass
class _Ending:
    """A trainer on its way out. sight: what it was at when it stood still. still_s: for how long. stage: what was done last. since: when,
    on the monotonic clock, or its last sign of work after that."""

    sight: Sight
    still_s: float
    since: float
    mark: tuple[Any, ...]
    stage: str = "asked"
    told: bool = False


@dataclass
class Watchdog:
    """Called by the daemon at every tick. settings: limits in seconds."""

    settings: WatchdogSection
    clock: Clock
    _looked: float = float("-inf")
    _mark: tuple[Any, ...] = ()
    _still_s: float = 0.0
    _told: bool = False
    _ending: _Ending | None = None
    _ends: deque[float] = field(default_factory=deque)
    _last: tuple[int, int] | None = None
    _alike: int = 0

    def look(self, daemon: Daemon) -> None:
        """Look when it is time, and do the next thing to a trainer that stands still. Raises what the store raises."""
        trainer = daemon.trainer
        if trainer is None or not self.settings.enabled:
            self._ending, self._mark = None, ()
            return
        now = self.clock.monotonic()
        if self._ending is not None:
            self._press(daemon, trainer, self._ending, now)
        elif now - self._looked >= self.settings.check_every_s:
            passed, self._looked = min(now - self._looked, 2 * self.settings.check_every_s), now
            self._count(daemon, trainer, passed, now)

    def ended(self, daemon: Daemon, trainer: OwnProcess) -> bool:
        """Told of every trainer that is gone: whether it was ended here. Its file is settled then, and the next trainer may begin.

        Raises what the store raises.
        """
        ending, self._ending, self._mark = self._ending, None, ()
        if ending is None:
            return False
        now = self.clock.monotonic()
        self._ends.append(now)
        while self._ends and now - self._ends[0] >= self.settings.window_s:
            self._ends.popleft()
        too_often = len(self._ends) > self.settings.restarts
        words = self._settle_file(daemon, ending, too_often)
        recover_queue(daemon.db, daemon.places, clock=self.clock)
        daemon.not_before = self._ends[0] + self.settings.window_s if too_often else now
        write_state(daemon.places, "idle", reason="The trainer stood still", clock=self.clock)
        text = f"The trainer (process {trainer.identity.pid}), which stood still, has ended. {words}"
        _tell(daemon, "daemon.trainer_replaced", text, "warning", **_named(ending.sight), restarts=len(self._ends))
        return True

    # ---- standing still --------------------------------------------------------------------------------------------

    def _count(self, daemon: Daemon, trainer: OwnProcess, passed: float, now: float) -> None:
        sight = look_at(daemon.db, daemon.places, trainer)
        mark, limit = (trainer.identity, *sight.mark), self._limit(sight.phase)
        if mark != self._mark or limit is None:
            self._mark, self._still_s, self._told = mark, 0.0, False
            return
        self._still_s += passed
        if self._still_s >= limit:
            self._begin(daemon, trainer, sight, now)
        elif self._still_s >= limit / 2 and not self._told:
            self._told = True
            text = f"{_standing(trainer, sight, self._still_s)} It is stalled, and ended when that lasts for {limit:g} s."
            _tell(daemon, "daemon.trainer_stalled", text, "warning", **_named(sight))

    def _limit(self, phase: str) -> float | None:
        """Seconds that a phase may last without a step; None for one that may last."""
        if phase == TRAINING:
            return self.settings.step_limit_s
        return self.settings.evaluating_limit_s if phase in (EVALUATING, BETWEEN) else None

    def _begin(self, daemon: Daemon, trainer: OwnProcess, sight: Sight, now: float) -> None:
        self._ending = _Ending(sight, self._still_s, now, sight.mark)
        text = f"{_standing(trainer, sight, self._still_s)} It is asked to save and leave."
        _tell(daemon, "daemon.trainer_stuck", text, "error", **_named(sight), phase=sight.phase, still_s=round(self._still_s, 1))
        if sight.run is not None:
            ask_to_leave(sight.run, f"no step for {self._still_s:.0f} s", clock=self.clock)

    # ---- on its way out --------------------------------------------------------------------------------------------

    def _press(self, daemon: Daemon, trainer: OwnProcess, ending: _Ending, now: float) -> None:
        sight = look_at(daemon.db, daemon.places, trainer)
        if sight.mark != ending.mark or self._limit(sight.phase) is None:
            ending.mark, ending.since = sight.mark, now  # it is at work again, or saves: it may take its time
            return
        waited = now - ending.since
        if ending.stage == "asked" and waited >= self.settings.check_every_s:
            ending.stage, ending.since = "terminated", now
            trainer.signal(signal.SIGTERM)
        elif ending.stage == "terminated" and waited >= daemon.grace_s:
            ending.stage, ending.since = "killed", now
            trainer.signal(signal.SIGKILL)
            text = f"The trainer (process {trainer.identity.pid}) did not leave within {daemon.grace_s:g} s and is killed."
            _tell(daemon, "daemon.trainer_killed", text, "error", **_named(ending.sight))
        elif ending.stage == "killed" and waited >= UNKILLABLE_S and not ending.told:
            ending.told = True
            text = (
                f"The trainer (process {trainer.identity.pid}) cannot be killed: it waits for a device in the kernel. While it lives no "
                "other one is started; look at that device, or restart the machine."
            )
            _tell(daemon, "daemon.trainer_unkillable", text, "error", **_named(ending.sight))

    def _settle_file(self, daemon: Daemon, ending: _Ending, too_often: bool) -> str:
        """Give the file that the dead trainer still holds a failed attempt when it is time; words on what becomes of it."""
        if ending.sight.job is None:
            return "It held no file."
        job = jobs.get(daemon.db, ending.sight.job.id)
        self._alike = self._alike + 1 if self._last == (job.id, job.position) else 1
        self._last = (job.id, job.position)
        held = job.state in ("running", "paused") and job.owner is not None and job.owner == ending.sight.job.owner
        if not held and job.position > ending.sight.job.position:
            return f"It saved first; {job.name} goes on behind its last step."
        if not held:
            return f"{job.name} goes on at its last checkpoint."
        if not too_often and self._alike <= self.settings.restarts:
            return f"{job.name} goes on at its last checkpoint."
        last = f"the trainer made no step for {ending.still_s:.0f} s (at: {ending.sight.phase}) and was ended"
        times = f", {self._alike} times without a saved step between" if self._alike > 1 else ""
        error = f"{last}{times}. If its steps really take so long, raise watchdog.step_limit_s"
        assert job.owner is not None
        settled = mark_failed(daemon.db, daemon.places, job.id, job.owner, error, clock=self.clock)
        self._last, self._alike = None, 0
        where = "is parked in queue/failed/" if settled.state == "failed" else f"waits in {settled.level}"
        return f"{job.name} is given back with a failed attempt ({settled.attempts}) and {where}: {error}."


def _standing(trainer: OwnProcess, sight: Sight, seconds: float) -> str:
    of = "" if sight.job is None else f" of {sight.job.name}"
    at = "" if sight.phase == TRAINING else f" (at: {sight.phase})"
    return f"The trainer (process {trainer.identity.pid}) lives and has made no step{of} for {seconds:.0f} s{at}."


def _named(sight: Sight) -> dict[str, Any]:
    """The file and the step that an event speaks of."""
    return {} if sight.job is None else {"file": sight.job.name, "job": sight.job.id, "step": sight.step}


def _tell(daemon: Daemon, type: str, message: str, severity: events.Severity, **data: Any) -> None:
    daemon.say(message)
    events.record(
        daemon.db, type, message, source=SOURCE, severity=severity, job=data.pop("job", None), data=data, durable=True, clock=daemon.clock
    )
