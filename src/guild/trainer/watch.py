"""The trainer's ears and voice while a file is trained: signals and requests in, records out. (specs/guild.md 2.1.3, 2.1.8, 4.1, 4.9)"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from guild.analytics.impact import open_impact
from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.pointer import active_key
from guild.control.forward import forward_signals
from guild.control.state import Status, write_state
from guild.places import Places
from guild.queue.disk import disk_verdict
from guild.queue.marks import Taken
from guild.records import events, jobs, ledger
from guild.records.checkpoint_record import CampaignId, CheckpointFacts
from guild.training.interface import Answer, Begun, Halt, Measured, Progress, SavedCheckpoint
from guild.training.preview import Preview
from guild.training.status import TrainingStatus
from modelwright.clock import Clock
from modelwright.control import Request, SignalFlag
from modelwright.database import Database
from modelwright.errors import ModelwrightError
from modelwright.files import write_json
from modelwright.identity import ProcessIdentity
from modelwright.rundir import RunDir

POLL_S = 0.25
"""Seconds between looks at signals while steps go by."""
PAUSED_POLL_S = 0.5
LEASE_EVERY_S = 10.0
SOURCE = "trainer"
_HALTS: dict[str, Halt] = {"pause": "pause", "stop": "stop", "skip": "skip", "abort": "stop"}


@dataclass
class Watch:
    """Hooks of one file. minimum_free: bytes below which a full disk is not tried again. on_saved: called with every checkpoint after it
    is recorded. wanted: what was asked for and not yet done, with its request."""

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
    requests: list[Request] = field(default_factory=list)
    lost: str = ""
    cancelled: bool = False
    stop_asked: bool = False
    reason: str = ""
    total: int = 0
    _looked: float = float("-inf")
    _leased: float = float("-inf")

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
        return self._asked(paused=False)

    def paused(self, saved: SavedCheckpoint) -> Answer:
        jobs.pause(self.db, self.taken.job.id, self.me, position=self.position(saved.done), clock=self.clock)
        write_state(self.places, "paused", current_file=self.taken.path.name, reason=self.reason, clock=self.clock)
        self._event("training.paused", f"{self.taken.path.name} is paused at step {saved.step}: {self.reason}.", step=saved.step)
        self._answer("paused", step=saved.step)
        self.status.settle("paused")
        answer = self._wait(saved.step, f"paused: {self.reason}")
        if answer == "resume":
            jobs.resume(self.db, self.taken.job.id, self.me, clock=self.clock)
            write_state(self.places, "training", current_file=self.taken.path.name, clock=self.clock)
            self._event("training.resumed", f"{self.taken.path.name} goes on at step {saved.step}.", step=saved.step)
            self._answer("resumed", step=saved.step)
        return answer

    def disk_full(self, error: Exception) -> bool:
        """Wait until there is room, or until a stop is asked for."""
        jobs.pause(self.db, self.taken.job.id, self.me, clock=self.clock)
        write_state(self.places, "paused", current_file=self.taken.path.name, reason="disk", clock=self.clock)
        self._event("training.disk_full", str(error), severity="error")
        self.status.settle("paused", error=str(error), error_type="disk")
        while True:
            self.clock.sleep(PAUSED_POLL_S)
            self.run.heartbeat().beat(status="paused", phase="training", step=self.status_step(), total=self.total, message="disk")
            self._renew(self.clock.monotonic())
            if self.signals or self.lost or self._asked(paused=True) in ("stop", "skip"):
                return False
            if disk_verdict(self.folder.path, refuse_below=self.minimum_free).verdict != "refuse":
                jobs.resume(self.db, self.taken.job.id, self.me, clock=self.clock)
                write_state(self.places, "training", current_file=self.taken.path.name, clock=self.clock)
                return True

    # ---- told by the engine ----------------------------------------------------------------------------------------

    def begun(self, begun: Begun) -> None:
        self.total = begun.total
        write_json(self.run.path / "reports.json", {"schema_version": 1, **begun.reports})
        self.status.begun(begun)
        left = begun.total - begun.done
        text = f"{self.taken.path.name}: {left} of {begun.total} steps to train, from step {begun.start_step} of the campaign."
        self._event("training.started", text, step=begun.start_step, steps=left)
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
            epoch=saved.done / saved.total,
            training_file=self.taken.path.name,
            skill_name=payload.get("skill"),
            skill_level=payload.get("level"),
            total_examples_trained=self.folder.campaign.total_examples + self.position(saved.done),
        )
        owner = CampaignId(self.folder.campaign.hero_id, self.folder.campaign.id)
        ledger.record(self.db, self.places, saved.path, facts=facts, campaign=owner, clock=self.clock)
        jobs.heartbeat(self.db, self.taken.job.id, self.me, position=self.position(saved.done), clock=self.clock)
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
        self._answer(outcome, step=step)

    @contextlib.contextmanager
    def told(self, type: str) -> Iterator[None]:
        """Within the block an error of ours becomes an event: a record beside the training never fails the training."""
        try:
            yield
        except ModelwrightError as error:
            self._event(type, str(error), severity="error")

    def position(self, done: int) -> int:
        """Rows that `done` steps have trained, as far as packing lets one say."""
        return round(self.rows * done / self.total) if self.total else 0

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

    def _asked(self, *, paused: bool) -> Any:
        """The next thing that is asked for; what does not fit the moment is answered and passed over."""
        forwarded = forward_signals(self.places, self.run.path, paused=paused, clock=self.clock)
        for signal, sentence in forwarded.discarded:
            self._event("training.signal_discarded", sentence, signal=signal.kind)
        control = self.run.control()
        found = None
        for request in control.poll():
            wanted = "resume" if request.kind == "resume" else _HALTS.get(request.kind)
            fits = wanted is not None and (wanted == "resume") == paused if wanted in ("resume", "pause") else wanted is not None
            if not fits or found is not None:
                control.ack(request, "refused", reason=f"{request.kind}: the training is {'paused' if paused else 'running'}.")
                continue
            found = wanted
            self.reason = str(request.body.get("reason") or f"asked for by {request.actor}")
            self.requests.append(request)
            if wanted == "stop":
                self.stop_asked = True
            if wanted == "pause":  # from here on a resume has something to act on
                write_state(
                    self.places, "training", current_file=self.taken.path.name, reason=self.reason, pending="pause", clock=self.clock
                )
            if wanted in ("stop", "skip"):
                word: Status = "stopping" if wanted == "stop" else "skipping"
                write_state(self.places, word, current_file=self.taken.path.name, reason=self.reason, clock=self.clock)
        return found

    def _still_active(self) -> bool:
        """Whether the campaign is the active one still: a switch pauses, moves the pointer and resumes. (2.3.2)"""
        now = active_key(self.places)
        if now is not None and now.key == self.folder.key:
            return True
        self.reason = "another campaign is active now"
        return False

    def _stop(self, reason: str) -> Halt:
        self.stop_asked, self.reason = True, reason
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

    def _answer(self, outcome: str, **detail: Any) -> None:
        for request in self.requests:
            self.run.control().ack(request, outcome, **detail)
        self.requests = []

    def _event(self, type: str, message: str, *, severity: events.Severity = "info", **data: Any) -> None:
        told = {"file": self.taken.path.name, "campaign": "/".join(self.folder.key), **data}
        job = self.taken.job.id
        events.record(self.db, type, message, source=SOURCE, severity=severity, job=job, data=told, clock=self.clock)
