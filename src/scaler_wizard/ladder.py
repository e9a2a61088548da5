"""Steps 4 and 5: climb the ladder of context lengths, one rung at a time.

A rung is: the gate, the context method applied in place (always from the original context), one Trainer run, the
probes, the breaker's verdict, and promotion. Only a rung that passed is promoted; its checkpoints are `rung_<length>`
and `phase_<n>`. Resuming finds the first rung that is not promoted and goes on at its newest sound checkpoint.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaler_wizard.bootstrap import Runtime
from scaler_wizard.callbacks import vram_used
from scaler_wizard.circuit_breaker import CircuitBreaker
from scaler_wizard.draft_checks import method_options
from scaler_wizard.evaluation import ACCURACY_PROBE, EvaluationInterrupted, Evaluator, Measured, rung_scores
from scaler_wizard.gates import gate_reason, question, wait_at_gate
from scaler_wizard.outcomes import BreakerStop, CheckpointFailure
from scaler_wizard.preparation import Prepared, context_of, write_context
from scaler_wizard.progressive_context import ScoreBook, evaluation_lengths
from scaler_wizard.resolved import RungPlan
from scaler_wizard.rung_data import TextPool, tokens_of
from scaler_wizard.rung_training import RungTraining, halted
from scaler_wizard.session import Session


@dataclass(frozen=True)
class Climbed:
    """The result of the ladder: the last rung that passed, what was measured there, and why it ended early (or an empty
    string).
    """

    rung: RungPlan
    measured: Measured
    shortfall: str


class Ladder:
    """Climbs the rungs of one job. `base` is what was measured on the untouched model."""

    def __init__(
        self,
        session: Session,
        runtime: Runtime,
        prepared: Prepared,
        evaluator: Evaluator,
        breaker: CircuitBreaker,
        pool: TextPool,
        base: Measured,
        max_context: int | None,
    ) -> None:
        self.session = session
        self.prepared = prepared
        self.evaluator = evaluator
        self.breaker = breaker
        self.base = base
        self.max_context = max_context
        job = session.job
        self.book = ScoreBook(job.evaluation.floor_ratio, job.evaluation.halt_window)
        self.applied: Any = None
        self.training = RungTraining(session, runtime, prepared, evaluator, breaker, pool)

    def climb(self) -> Climbed:
        """Every rung in order.

        Raises BreakerStop, HumanStop, Paused, HardwareShortfall; LoadError for data that cannot fill a rung.
        """
        rungs = self.session.job.rungs
        last: Climbed | None = None
        previous: RungPlan | None = None
        for rung in rungs:
            measured = self._finished(rung)
            if measured is not None:
                self.session.at.step = self.session.offset(rung) + rung.steps
                self.session.at.tokens += tokens_of(rung)
            else:
                self.session.enter(rung)
                self.training.start_from(previous)
                self._gate(rung, previous)
                self.expand(rung)
                self.training.train(rung)
                measured = self._measure(rung)
                self._judge(rung, measured)
            scores = rung_scores(measured, self.base, rung, rungs[0].length)
            for name, score in scores.items():
                self.book.add(name, score)
            halting = self.book.halting()
            if halting and last is not None:
                floor = f"{self.book.floor_ratio:g} x its base score"
                shortfall = f"stopped below {rung.length} tokens: {', '.join(halting)} fell under {floor}"
                self.session.event("context/halted", length=rung.length, probes=halting)
                return self._back_to(replace(last, shortfall=shortfall))
            if not self.session.state.promoted(rung):
                self._promote(rung, measured, scores)
            last, previous = Climbed(rung, measured, ""), rung
        assert last is not None
        if (self.applied is None and last.rung.scale > 1) or not self.training.live_is(last.rung):
            return self._back_to(last)
        return last

    # ---- before training -----------------------------------------------------------------------------------------

    def _finished(self, rung: RungPlan) -> Measured | None:
        """What was measured at a rung that an earlier attempt promoted; None when the rung is still to do."""
        if not self.session.state.promoted(rung):
            return None
        return self.evaluator.kept(f"rung_{rung.length}")

    def _gate(self, rung: RungPlan, previous: RungPlan | None) -> None:
        before = None if previous is None else previous.length
        reason = gate_reason(self.session.job, rung, before, self.max_context)
        if reason is None or before is None or self.session.state.approved(rung.length):
            return
        approval = wait_at_gate(self.session, question(self.session.job, rung, before), reason)
        self.session.state.approve(rung.length, approval.actor, approval.reason)

    def expand(self, rung: RungPlan) -> None:
        """Apply the context method for `rung` in place, composed from the original context, after undoing the one
        before.
        """
        prepared, session = self.prepared, self.session
        if self.applied is not None:
            prepared.method.revert(prepared.model, self.applied)
            self.applied = None
        if rung.scale > 1:
            params = context_parameters(session, prepared, rung.length)
            self.applied = prepared.method.apply(prepared.model, params)
            session.event(
                "context/rung_start",
                length=rung.length,
                method=prepared.method.id,
                parameters=params["rope_parameters"],
            )
        else:
            session.event("context/rung_start", length=rung.length, method="none", parameters=None)
        session.log("context/scale", rung.scale)
        if session.job.evaluation.calibrate:
            self._calibrate(rung)

    def _calibrate(self, rung: RungPlan) -> None:
        """The calibration pass: perplexity of generated text right after the expansion; one that is not finite stops the run."""
        session = self.session
        try:
            with session.busy(f"calibrating at {rung.length} tokens"):
                value = self.evaluator.calibrate(rung.length)
        except EvaluationInterrupted as error:
            raise halted(session) from error
        session.log("context/calibration_perplexity", value, length=rung.length)
        telegram = self.breaker.check_step(session.at.step, loss=value)
        if telegram is not None:
            raise BreakerStop(f"The calibration pass at {rung.length} tokens failed: {telegram['reason']}.", telegram)

    # ---- after training ------------------------------------------------------------------------------------------

    def _measure(self, rung: RungPlan) -> Measured:
        session = self.session
        lengths = evaluation_lengths([other.length for other in session.job.rungs], rung.index)
        probes = list(dict.fromkeys([*rung.run_probes, ACCURACY_PROBE]))
        try:
            with session.busy(f"probing at {rung.length} tokens"):
                return self.evaluator.measure(f"rung_{rung.length}", lengths, probes)
        except EvaluationInterrupted as error:
            raise halted(session) from error

    def _judge(self, rung: RungPlan, measured: Measured) -> None:
        """Perplexity and accuracy of the finished rung to the breaker; a stop goes to a person where one is there to
        ask.
        """
        session = self.session
        perplexity, accuracy = measured.perplexity[rung.length], measured.accuracy(rung.length)
        session.note_perplexity(perplexity, accuracy)
        telegram = self.breaker.register(session.at.step, perplexity, accuracy, throughput=session.at.tokens_per_s, vram_used=vram_used())
        session.judged(telegram)
        if telegram["action"] != "stop":
            return
        if session.job.gate.mode in ("prompt", "cockpit") and "nonfinite" not in telegram["triggers"]:
            approval = wait_at_gate(session, telegram["canonical_sentence"], telegram["reason"])
            for trigger in telegram["triggers"]:
                record = self.breaker.override(trigger, approval.actor, approval.reason)
                session.event("human/override", actor=record.actor, trigger=record.trigger, reason=record.reason)
            return
        session.event("safety/stop", reason=telegram["reason"], length=rung.length)
        raise BreakerStop(f"Stopped by the circuit breaker: {telegram['reason']}.", telegram)

    def _promote(self, rung: RungPlan, measured: Measured, scores: dict[str, float]) -> None:
        """Make the rung's state permanent under its length and its phase, then say so in the run's metadata."""
        session = self.session
        begun = self.training.newest_checkpoint(rung)
        if begun is None:
            raise CheckpointFailure(f"The last checkpoint of the rung at {rung.length} tokens is gone or damaged; it cannot be promoted.")

        def fill(folder: Path) -> None:
            copy_state(begun.path, folder)
            write_context(folder, self.prepared.model, rung.length)

        metadata = {"rung": rung.index, "length": rung.length, "scores": scores, "tokens": session.at.tokens}
        for name in (f"rung_{rung.length}", f"phase_{rung.phase}"):
            session.save(name, fill, step=session.at.step, metadata=metadata)
        manifests = {name: session.store.get(name).manifest_sha256 for name in (f"rung_{rung.length}", f"phase_{rung.phase}")}
        session.state.promote(rung, scores, manifests, context_of(self.prepared.model).get("rope_parameters", {}))
        session.finished_phase(rung.phase, "completed", measured.accuracy(rung.length))
        self.training.prune(1)

    def _back_to(self, climbed: Climbed) -> Climbed:
        """Give the model the weights and the context of a rung that passed earlier."""
        self.training.load(f"rung_{climbed.rung.length}")
        self.session.live = climbed.rung.length
        self.session.at.rung = climbed.rung.length
        self.session.note_perplexity(climbed.measured.perplexity[climbed.rung.length], climbed.measured.accuracy(climbed.rung.length))
        prepared = self.prepared
        if self.applied is not None:
            prepared.method.revert(prepared.model, self.applied)
            self.applied = None
        if climbed.rung.scale > 1:
            self.applied = prepared.method.apply(prepared.model, context_parameters(self.session, prepared, climbed.rung.length))
        return climbed


def context_parameters(session: Session, prepared: Prepared, length: int) -> dict[str, Any]:
    """The configuration keys of the job's context method at `length` tokens."""
    scaling = session.job.scaling
    options = method_options(prepared.method.id, scaling.method_params, scaling.yarn_ramp)
    return prepared.method.parameters(prepared.base_config, length, **options)


def copy_state(source: Path, folder: Path) -> None:
    """Copy a checkpoint's files, its manifest left out: the store writes a new one."""
    for path in source.iterdir():
        if path.is_file() and path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)
