"""The trainer's ears and voice while a file is trained: signals and requests in, records out. (specs/guild.md 2.1.3, 2.1.8, 4.1, 4.9)"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from guild.analytics.impact import open_impact
from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.pointer import active_key
from guild.control.state import Status, write_state
from guild.places import Places
from guild.queue.disk import disk_verdict
from guild.queue.marks import Taken
from guild.records import events, jobs, ledger
from guild.records.checkpoint_record import CampaignId, CheckpointFacts
from guild.trainer.dismissal import is_dismissal
from guild.trainer.wishes import Wish, Wishes, reason_of, wish_of
from guild.training.interface import Answer, Begun, Busy, Halt, LeaveError, Measured, Progress, SavedCheckpoint
from guild.training.preview import Preview
from guild.training.status import TrainingStatus
from modelwright.clock import Clock
from modelwright.control import SignalFlag
from modelwright.database import Database
from modelwright.errors import DiskFullError, ModelwrightError
from modelwright.files import write_json
from modelwright.identity import ProcessIdentity
from modelwright.rundir import RunDir

POLL_S = 0.25
"""Seconds between looks at signals while steps go by."""
PAUSED_POLL_S = 0.5
LEASE_EVERY_S = 10.0
SOURCE = "trainer"


@dataclass
class Watch:
    """Hooks of one file. minimum_free: bytes below which a full disk is not tried again. on_saved: called with every checkpoint after it
    is recorded. wishes: what was asked for and not yet done. stop_asked: the daemon is to stop with this trainer. dismissed: the watchdog
    wants this trainer gone, and nothing else. skip_asked: the file is to be put behind the others."""

    db: Database
    places: Places
    folder: CampaignFolder
    taken: Taken
    run: RunDir
    me: ProcessIdentity
    signals: SignalFlag
    status: TrainingStatus
    clock: Clock
    minimum_free: int
    rows: int
    on_saved: Callable[[SavedCheckpoint], None] = lambda saved: None
    lost: str = ""
    cancelled: bool = False
    stop_asked: bool = False
    dismissed: bool = False
    skip_asked: bool = False
    reason: str = ""
    total: int = 0
    _looked: float = float("-inf")
    _leased: float = float("-inf")
    wishes: Wishes = field(init=False)

    def __post_init__(self) -> None:
        self.wishes = Wishes(self.places, self.run, self.clock)

    # ---- asked by the engine ---------------------------------------------------------------------------------------

    def halt(self) -> Halt | None:
        if self.signals:
            return self._stop(f"{self.signals.name} arrived")
        now = self.clock.monotonic()
        if now - self._looked < POLL_S:
            return None
        self._looked = now
        if not self._renew(now):
            return "stop"
        return cast("Halt | None", self._asked(paused=False))

    def leaving(self) -> Halt | None:
        """Whether to leave a file that makes no steps now, because it is loaded or waits for something; a pause waits for the next step."""
        if self.signals:
            return self._stop(f"{self.signals.name} arrived")
        if not self._renew(self.clock.monotonic()):
            return "stop"
        return cast("Halt | None", self._asked(paused=False, leaving=True))

    def paused(self, saved: SavedCheckpoint) -> Answer:
        jobs.pause(self.db, self.taken.job.id, self.me, position=self.position(saved.share), clock=self.clock)
        write_state(self.places, "paused", current_file=self.taken.path.name, reason=self.reason, clock=self.clock)
        self._event("training.paused", f"{self.taken.path.name} is paused at step {saved.step}: {self.reason}.", step=saved.step)
        self.wishes.answer("paused", step=saved.step)
        self.status.settle("idle")  # its words know no pause: the control state says that
        answer = self._wait(saved.step, f"paused: {self.reason}")
        if answer == "resume":
            jobs.resume(self.db, self.taken.job.id, self.me, clock=self.clock)
            write_state(self.places, "training", current_file=self.taken.path.name, clock=self.clock)
            self._event("training.resumed", f"{self.taken.path.name} goes on at step {saved.step}.", step=saved.step)
            self.wishes.answer("resumed", step=saved.step)
        return answer

    def disk_full(self, error: Exception) -> bool:
        """Wait until there is room, or until the file is to be left."""
        jobs.pause(self.db, self.taken.job.id, self.me, clock=self.clock)
        write_state(self.places, "paused", current_file=self.taken.path.name, reason="disk", clock=self.clock)
        self._event("training.disk_full", str(error), severity="error")
        self.status.settle("idle", error=str(error), error_type="disk")
        while True:
            self.clock.sleep(PAUSED_POLL_S)
            self.run.heartbeat().beat(status="paused", phase="training", step=self.status_step(), total=self.total, message="disk")
            if self.leaving() is not None:
                return False
            if disk_verdict(self.folder.path, refuse_below=self.minimum_free).verdict != "refuse":
                jobs.resume(self.db, self.taken.job.id, self.me, clock=self.clock)
                write_state(self.places, "training", current_file=self.taken.path.name, clock=self.clock)
                return True

    # ---- told by the engine ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def during(self, work: Busy) -> Iterator[None]:
        """Say that something else than steps is going on, and be alive meanwhile: nobody takes it for stalled."""
        self._leave_unbegun(work)
        heartbeat = self.run.heartbeat()
        now = heartbeat.snapshot
        phase, step, total = str(now.get("phase") or "loading"), int(now.get("step") or 0), now.get("total_steps")
        rate = now.get("throughput")
        with contextlib.suppress(DiskFullError):  # the save itself meets the full disk, and waits for room
            heartbeat.beat(status="running", phase=phase, step=step, total=total, throughput=rate, busy=work, force=True)
        try:
            with heartbeat.keepalive():
                yield
        finally:
            with contextlib.suppress(DiskFullError):
                heartbeat.beat(status="running", phase=phase, step=step, total=total, throughput=rate, force=True)
        self._leave_unbegun(work)

    def wait_while(self, busy: Callable[[], bool], message: str) -> None:
        """Hold the file unbegun for as long as `busy()`. Raises LeaveError when it is to be left meanwhile."""
        while busy():
            self._leave_unbegun("loading")
            self.run.heartbeat().beat(status="running", phase="loading", step=0, message=message)
            self.clock.sleep(PAUSED_POLL_S)

    def begun(self, begun: Begun) -> None:
        self._leave_unbegun("loading")
        self.total = begun.total
        self.run.heartbeat().beat(status="running", phase="training", step=begun.done, total=begun.total, campaign_step=begun.start_step)
        write_json(self.run.path / "reports.json", {"schema_version": 1, **begun.reports})
        self.status.begun(begun)
        left = begun.total - begun.done
        text = f"{self.taken.path.name}: {left} of {begun.total} steps to train, from step {begun.start_step} of the campaign."
        self._event("training.started", text, step=begun.start_step, steps=left)
        if begun.warning:
            self._event("training.optimizer_lost", begun.warning, severity="warning", step=begun.start_step)
        if begun.start_step < self.folder.campaign.current_step:
            behind = (
                f"The campaign was at step {self.folder.campaign.current_step} and goes on at step {begun.start_step}: the files trained "
                "in between are not in these weights. Those of the last week are in queue/recently_completed/."
            )
            self._event("training.steps_lost", behind, severity="warning", step=begun.start_step)
        if begun.val_loss is not None:
            self.run.metrics().log("validation/loss", begun.val_loss, begun.start_step)
        with self.told("data.impact_unknown"):
            self._open_impact(begun, left)

    def _open_impact(self, begun: Begun, left: int) -> None:
        payload = self.taken.job.payload
        open_impact(
            self.db,
            self.folder,
            job=self.taken.job.id,
            file=self.taken.path.name,
            owner=self.me,
            attempt=self.run.attempt,
            start_step=begun.start_step,
            steps_left=left,
            total_steps=begun.total,
            rows=self.rows,
            val_loss=begun.val_loss,
            skill=payload.get("skill"),
            level=payload.get("level"),
            clock=self.clock,
        )

    def progress(self, progress: Progress) -> None:
        metrics = self.run.metrics()
        metrics.log("train/loss", progress.loss, progress.step)
        metrics.log("train/grad_norm", progress.grad_norm, progress.step)
        metrics.log("train/learning_rate", progress.learning_rate, progress.step)
        rate = progress.tokens / progress.seconds if progress.seconds else None
        self.run.heartbeat().beat(
            status="running", phase="training", step=progress.done, total=progress.total, throughput=rate, campaign_step=progress.step
        )
        self.status.progress(progress)

    def measured(self, measured: Measured) -> None:
        if measured.val_loss is not None:
            self.run.metrics().log("validation/loss", measured.val_loss, measured.step)
        if measured.asked:
            self.run.metrics().log("validation/exact", measured.exact / measured.asked, measured.step)
        self.status.measured(measured)

    def previewed(self, preview: Preview) -> None:
        self.status.previewed(preview)

    def saved(self, saved: SavedCheckpoint) -> None:
        payload = self.taken.job.payload
        facts = CheckpointFacts(
            train_loss=saved.train_loss,
            val_loss=saved.val_loss,
            learning_rate=saved.learning_rate,
            epoch=saved.share,
            training_file=self.taken.path.name,
            skill_name=payload.get("skill"),
            skill_level=payload.get("level"),
            total_examples_trained=self.folder.campaign.total_examples + self.position(saved.share),
        )
        owner = CampaignId(self.folder.campaign.hero_id, self.folder.campaign.id)
        ledger.record(self.db, self.places, saved.path, facts=facts, campaign=owner, clock=self.clock)
        jobs.heartbeat(self.db, self.taken.job.id, self.me, position=self.position(saved.share), clock=self.clock)
        if saved.val_loss is not None:
            self.run.metrics().log("validation/loss", saved.val_loss, saved.step)
        self.run.heartbeat().beat(
            status="running", phase="training", step=saved.done, total=saved.total, latest_checkpoint=str(saved.path), force=True
        )
        self.status.saved(saved)
        self._event("training.saved", f"Step {saved.step} is saved as {saved.path.name}.", step=saved.step, severity="success")
        self.on_saved(saved)

    # ---- how it went on --------------------------------------------------------------------------------------------

    def settle(self, outcome: str, step: int) -> None:
        """Answer what was asked for, once the file came to rest."""
        self.wishes.close(outcome, stopped=self.stop_asked, step=step)

    @contextlib.contextmanager
    def told(self, type: str) -> Iterator[None]:
        """Within the block an error of ours becomes an event: a record beside the training never fails the training."""
        try:
            yield
        except ModelwrightError as error:
            self._event(type, str(error), severity="error")

    def position(self, share: float) -> int:
        """Rows that a share of the file's windows holds, as far as packing lets one say."""
        return round(self.rows * share)

    def status_step(self) -> int:
        return int(self.run.heartbeat().snapshot.get("step") or 0)

    # ---- inner -----------------------------------------------------------------------------------------------------

    def _wait(self, step: int, message: str) -> Answer:
        while True:
            self.clock.sleep(PAUSED_POLL_S)
            self.run.heartbeat().beat(status="paused", phase="training", step=self.status_step(), total=self.total, message=message)
            if self.signals:
                self._stop(f"{self.signals.name} arrived")
                return "stop"
            if not self._renew(self.clock.monotonic()):
                return "stop"
            asked = self._asked(paused=True)
            if asked == "resume":
                return "resume" if self._still_active() else "stop"
            if asked in ("stop", "skip"):
                return "skip" if asked == "skip" else "stop"

    def _asked(self, *, paused: bool, leaving: bool = False) -> Wish | None:
        """What to do now, of all that is asked for. leaving: nothing but leaving the file is possible at this moment."""
        for signal, sentence in self.wishes.collect(paused=paused, leaving=leaving):
            self._event("training.signal_discarded", sentence, signal=signal.kind)
        found = self.wishes.next(paused=paused, leaving=leaving)
        if found is None:
            return None
        wish, request = found
        self.reason = reason_of(request)
        if wish == "stop":
            self._note_stops()
        self.skip_asked |= wish == "skip"
        if wish == "pause":  # from here on a resume has something to act on
            write_state(self.places, "training", current_file=self.taken.path.name, reason=self.reason, pending="pause", clock=self.clock)
        if wish in ("stop", "skip"):
            word: Status = "stopping" if wish == "stop" else "skipping"
            write_state(self.places, word, current_file=self.taken.path.name, reason=self.reason, clock=self.clock)
        return wish

    def _leave_unbegun(self, work: Busy) -> None:
        """Raise LeaveError when a file that is being loaded is to be left: no step of it is worth waiting for."""
        halt = self.leaving() if work == "loading" else None
        if halt is not None:
            raise LeaveError(halt)

    def _still_active(self) -> bool:
        """Whether the campaign is the active one still: a switch pauses, moves the pointer and resumes. (2.3.2)"""
        now = active_key(self.places)
        if now is not None and now.key == self.folder.key:
            return True
        self.reason = "another campaign is active now"
        return False

    def _note_stops(self) -> None:
        dismissals = [is_dismissal(request) for request in self.wishes.taken if wish_of(request) == "stop"]
        self.dismissed |= any(dismissals)
        self.stop_asked |= not all(dismissals)

    def _stop(self, reason: str) -> Halt:
        """A signal arrived. It is meant for this trainer; the daemon stops with it when a stop lies before the run as well."""
        self.reason = reason
        self.wishes.collect_requests()
        self.wishes.take_stops()
        self._note_stops()
        write_state(self.places, "stopping", current_file=self.taken.path.name, reason=reason, clock=self.clock)
        return "stop"

    def _renew(self, now: float) -> bool:
        """Keep holding the job; False when it must not be worked on any more."""
        if now - self._leased < LEASE_EVERY_S:
            return not self.lost and not self.cancelled
        self._leased = now
        try:
            held = jobs.heartbeat(self.db, self.taken.job.id, self.me, clock=self.clock)
        except jobs.NotHeldError as error:
            self.lost = str(error)
            return False
        self.cancelled = held.cancel_asked
        return not self.cancelled

    def _event(self, type: str, message: str, *, severity: events.Severity = "info", **data: Any) -> None:
        told = {"file": self.taken.path.name, "campaign": "/".join(self.folder.key), **data}
        job = self.taken.job.id
        events.record(self.db, type, message, source=SOURCE, severity=severity, job=job, data=told, clock=self.clock)
