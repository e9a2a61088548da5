"""The daemon's life after its start: one round after the other until it is asked to leave. (specs/guild.md 2.1.1, 2.1.3)

A round takes in the inbox, takes back what dead processes held, starts a trainer when files wait, and does the chores. Between rounds it
looks at signals and at the trainer twice a second, which costs next to nothing. A trainer that stands still is the watchdog's business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from guild.campaigns.pointer import require_active
from guild.control.forward import forward_signals
from guild.control.signals import active
from guild.control.state import write_state
from guild.loop.blocking import Blocking
from guild.loop.chores import Chores
from guild.loop.disk_room import DiskRoom, words_of
from guild.loop.evaluations import dismiss_evaluator
from guild.loop.start import SOURCE, Started
from guild.loop.trainer_process import find_trainer, start_trainer, trainer_words
from guild.loop.trainer_sight import held_by
from guild.loop.watchdog import Watchdog
from guild.places import PRIORITIES
from guild.processes import OwnProcess
from guild.queue.disk import REFUSE_BELOW
from guild.queue.inbox import Untold, process_inbox
from guild.queue.marks import mark_returned
from guild.queue.payload import TRAIN_FILE
from guild.queue.recovery import recover_queue
from guild.records import events, jobs
from guild.records.checkpoint_record import CampaignId
from guild.records.turns import whose_turn
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.control import SignalFlag
from modelwright.errors import ModelwrightError

TICK_S = 0.5
FIRST_BACKOFF_S = 5.0
LAST_BACKOFF_S = 300.0
GRACE_S = 120.0
_OWN: tuple[events.Family, ...] = ("daemon",)

SideWork = Callable[["Daemon"], None]
"""Further work of a round: generation, side jobs."""


@dataclass
class Daemon:
    """A daemon that has started. poll_s: seconds between rounds. grace_s: how long a trainer may take to save and leave. trainer_arguments:
    passed on to it. side_work: called in every round, for what is not training; on_leaving: at the end. say: where lines for people go.
    minimum_free: bytes of disk below which no file is begun."""

    started: Started
    signals: SignalFlag
    poll_s: float
    grace_s: float = GRACE_S
    trainer_arguments: tuple[str, ...] = ()
    side_work: tuple[SideWork, ...] = ()
    on_leaving: tuple[Callable[[], object], ...] = ()
    say: Callable[[str], None] = lambda line: print(line, flush=True)
    clock: Clock = SYSTEM_CLOCK
    paused: bool = False
    trainer: OwnProcess | None = None
    backoff_s: float = FIRST_BACKOFF_S
    not_before: float = float("-inf")
    minimum_free: int = REFUSE_BELOW
    _since: int = 0
    _left_in_inbox: Untold = field(default_factory=Untold)
    _chores: Chores = field(init=False)
    _watchdog: Watchdog = field(init=False)
    _blocking: Blocking = field(init=False)
    _disk: DiskRoom = field(init=False)
    _low: bool = False

    def __post_init__(self) -> None:
        started = self.started
        self.trainer = started.trainer
        self.places, self.db = started.places, started.db
        self._since = events.last_id(self.db)
        self._chores = Chores(self.db, self.places, self.clock, started.config.snapshot_time)
        self._watchdog = Watchdog(started.config.watchdog, self.clock)
        self._blocking = Blocking(self.db, self.places, self.clock)
        self._disk = DiskRoom(self.places.base, self.minimum_free)

    def run(self, *, until_empty: bool = False) -> str:
        """Live until asked to leave; returns why. until_empty: leave too when nothing is left to train."""
        while True:
            self.round()
            if until_empty and self.trainer is None and not self._any_waits():
                return self._leave("nothing is left to train")
            deadline = self.clock.monotonic() + self.poll_s
            while self.clock.monotonic() < deadline:
                reason = self.tick()
                if reason:
                    return self._leave(reason)
                if self.trainer is None and self._may_train():
                    break  # something to train came in: no need to wait for the round
                self.clock.sleep(min(TICK_S, self.poll_s))
            else:
                reason = self.tick()
                if reason:
                    return self._leave(reason)

    def round(self) -> None:
        """One round of work. What fails is told and tried again in the next."""
        self._guarded("inbox", self._take_in)
        self._look_at_trainer()
        self._guarded("recovery", lambda: recover_queue(self.db, self.places, clock=self.clock))
        self._guarded("queue", self._look_at_depth)
        for work in self.side_work:
            self._guarded("side_work", lambda work=work: work(self))  # type: ignore[misc]
        if self.trainer is None and self._may_train():
            self._start_trainer()
        self._guarded("campaign", lambda: self._chores.do(CampaignId(*require_active(self.places).key)))
        for line in self._chores.said:
            self.say(line)
        self._chores.said.clear()

    def tick(self) -> str:
        """Look at signals and trainer; why the daemon should leave, or ""."""
        if self.signals:
            return f"{self.signals.name} arrived"
        if (self.places.base / ".stop").exists():
            (self.places.base / ".stop").unlink(missing_ok=True)
            return "a stop was asked for"
        self._look_at_trainer()
        self._guarded("watchdog", lambda: self._watchdog.look(self))
        self._guarded("blocking", self._blocked)
        if self._stop_was_asked():
            return "a stop was asked for"
        if any(active(self.places).values()) and not self._trains():
            return self._act_on_signals()
        return ""

    # ---- signals ---------------------------------------------------------------------------------------------------

    def _act_on_signals(self) -> str:
        """Signals while no file is trained: the trainer, when one does, takes them itself."""
        forwarded = forward_signals(self.places, None, paused=self.paused, clock=self.clock)
        for signal, sentence in forwarded.discarded:
            self._tell("daemon.signal_discarded", sentence, signal=signal.kind)
        if forwarded.stop is not None:
            return f"a stop was asked for: {forwarded.stop.reason}"
        if forwarded.paused and not self.paused:
            reason = next((signal.reason for signal in forwarded.held if signal.kind == "pause"), "")
            self._dismiss_trainer()
            write_state(self.places, "paused", reason=reason, clock=self.clock)
            self._tell("daemon.paused", f"Paused: {reason}. No file is begun until a resume.")
        elif self.paused and not forwarded.paused:
            write_state(self.places, "idle", clock=self.clock)
            self._tell("daemon.resumed", "Files are trained again.")
        self.paused = forwarded.paused
        return ""

    def _blocked(self) -> None:
        sentence = self._blocking.look()
        if sentence:
            self.say(sentence)

    def _stop_was_asked(self) -> bool:
        """Whether the trainer was asked to stop since the last look, and said so."""
        page = events.read_after(self.db, self._since, families=_OWN)
        self._since = page.last
        return any(event.type == "daemon.stop_asked" for event in page.events)

    def _trains(self) -> bool:
        """Whether a living trainer holds a file."""
        if self.trainer is None:
            return False
        held = jobs.list_jobs(self.db, kinds=(TRAIN_FILE,), states=("running", "paused")).jobs
        return any(job.owner is not None and job.owner.pid == self.trainer.identity.pid for job in held)

    # ---- the trainer -----------------------------------------------------------------------------------------------

    def _look_at_trainer(self) -> None:
        if self.trainer is None or self.trainer.alive():
            return
        gone, self.trainer = self.trainer, None
        if self._watchdog.ended(self, gone):
            return
        code, pid = gone.exit_code, gone.identity.pid
        recover_queue(self.db, self.places, clock=self.clock)
        if code in (0, None):
            self.backoff_s = FIRST_BACKOFF_S
            return
        self.not_before = self.clock.monotonic() + self.backoff_s
        words = trainer_words(self.places)
        text = f"The trainer (process {pid}) ended with {code}; the next one is started in {self.backoff_s:g} s. {words}".strip()
        self._tell("daemon.trainer_ended", text, severity="error", code=code)
        self.backoff_s = min(2 * self.backoff_s, LAST_BACKOFF_S)
        write_state(self.places, "idle", reason=f"The trainer ended with {code}", clock=self.clock)

    def _start_trainer(self) -> None:
        try:
            self.trainer = find_trainer(self.places) or start_trainer(self.places, self.trainer_arguments)
        except ModelwrightError as error:
            self.not_before = self.clock.monotonic() + self.backoff_s
            self.backoff_s = min(2 * self.backoff_s, LAST_BACKOFF_S)
            self._tell("daemon.trainer_not_started", str(error), severity="error")
            return
        self._tell("daemon.trainer_started", f"A trainer is at work (process {self.trainer.identity.pid}).")

    def _dismiss_trainer(self) -> None:
        trainer, self.trainer = self.trainer, None
        if trainer is None or not trainer.alive() or trainer.leave_in_order(self.grace_s):
            return
        self._tell("daemon.trainer_killed", f"The trainer did not leave within {self.grace_s:g} s and was killed.", severity="error")
        self._guarded("recovery", lambda: self._return_file_of(trainer))

    def _return_file_of(self, killed: OwnProcess) -> None:
        """Give back what a trainer held that was killed here: that is no fault of the file and no mark against it."""
        job = held_by(self.db, killed.identity)
        if job is not None and job.owner is not None and not killed.alive():
            mark_returned(self.db, self.places, job.id, job.owner, clock=self.clock)

    # ---- inner -----------------------------------------------------------------------------------------------------

    def _take_in(self) -> None:
        allowed = self.started.config.validation.allow_default
        result = process_inbox(self.db, self.places, allow_default=allowed, clock=self.clock)
        for name in result.queued:
            self.say(f"{name} is queued.")
        for name, faults in result.rejected.items():
            self.say(f"{name} is rejected: {faults[0] if faults else ''}")
        for sentence in self._left_in_inbox.of(result.left):
            self._tell("queue.left_in_inbox", sentence, severity="warning")

    def _may_train(self) -> bool:
        """Whether a file waits, nothing holds it up, and no other room's run is before it on the trainer's device."""
        ready = not self.paused and self._any_waits() and self.clock.monotonic() >= self.not_before
        return bool(ready) and whose_turn(self.db, "trainer") in (None, TRAIN_FILE) and self._has_room()

    def _has_room(self) -> bool:
        room, news = self._disk.look()
        if news is not None:
            type, sentence, severity = words_of(news)
            self._tell(type, sentence, severity=severity)
        return room

    def _look_at_depth(self) -> None:
        """Say once, whenever it comes to that, that the queue runs low; the one generation authority looks for itself."""
        waiting, threshold = self._waiting(), self.started.config.auto_generate.threshold
        if (waiting <= threshold) != self._low:
            self._low = waiting <= threshold
            if self._low:
                text = f"The queue runs low: {waiting} files wait (threshold {threshold})."
                events.record(self.db, "queue.low", text, source=SOURCE, data={"waiting": waiting}, clock=self.clock)

    def _any_waits(self) -> bool:
        """Asked at every tick: one index look-up, however many files were ever trained."""
        return self.db.row("SELECT 1 FROM jobs WHERE kind = ? AND state = 'queued' LIMIT 1", (TRAIN_FILE,)) is not None

    def _waiting(self) -> int:
        counted = jobs.counts(self.db)
        return sum(counted.levels[level] for level in PRIORITIES)

    def _leave(self, reason: str) -> str:
        """Ask the trainer to save and end, put the state right, and say why."""
        write_state(self.places, "stopping", reason=reason, clock=self.clock) if self.trainer is not None else None
        self._dismiss_trainer()
        dismiss_evaluator(self.places, self.grace_s)
        for work in self.on_leaving:
            self._guarded("leaving", work)
        recover_queue(self.db, self.places, clock=self.clock)
        write_state(self.places, "idle", reason=reason, clock=self.clock)
        self._tell("daemon.stopped", f"The daemon leaves: {reason}.", durable=True)
        return reason

    def _guarded(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except (ModelwrightError, OSError) as error:
            print(f"{what}: {error}", file=sys.stderr, flush=True)
            self._tell(f"daemon.{what}_failed", str(error), severity="error")

    def _tell(self, type: str, message: str, *, severity: events.Severity = "info", durable: bool = False, **data: object) -> None:
        self.say(message)
        events.record(self.db, type, message, source=SOURCE, severity=severity, data=data, durable=durable, clock=self.clock)
