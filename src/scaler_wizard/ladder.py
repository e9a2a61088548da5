"""Steps 4 and 5: climb the ladder of context lengths, one rung at a time.

A rung is: the gate, the context method applied in place (always from the original context), one Trainer run, the
probes, the breaker's verdict, and promotion. Only a rung that passed is promoted; its checkpoints are `rung_<length>`
and `phase_<n>`. Resuming finds the first rung that is not promoted and goes on at its newest sound checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelwright.checkpoints import Checkpoint
from modelwright.errors import Paused
from scaler_wizard.bootstrap import Runtime
from scaler_wizard.callbacks import callbacks_for, vram_used
from scaler_wizard.circuit_breaker import CircuitBreaker
from scaler_wizard.draft_checks import method_options
from scaler_wizard.evaluation import ACCURACY_PROBE, EvaluationInterrupted, Evaluator, Measured, rung_scores
from scaler_wizard.gates import gate_reason, question, wait_at_gate
from scaler_wizard.outcomes import BreakerStop, CheckpointFailure, HardwareShortfall, HumanStop
from scaler_wizard.preparation import Prepared, context_of, write_context
from scaler_wizard.progressive_context import ScoreBook, evaluation_lengths
from scaler_wizard.resolved import RungPlan
from scaler_wizard.rung_data import TextPool, tokens_of, training_windows
from scaler_wizard.session import Session
from scaler_wizard.training import RungTrainer, training_arguments

STEP_CHECKPOINTS_KEPT = 2


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
        self.runtime = runtime
        self.prepared = prepared
        self.evaluator = evaluator
        self.breaker = breaker
        self.pool = pool
        self.base = base
        self.max_context = max_context
        job = session.job
        self.book = ScoreBook(job.evaluation.floor_ratio, job.evaluation.halt_window)
        self.applied: Any = None
        self.resumed = session.run.attempt == 1  # whether the metrics already say where this attempt goes on

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
                self._start_from(previous)
                self._gate(rung, previous)
                self.expand(rung)
                self._train(rung)
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
        if (self.applied is None and last.rung.scale > 1) or not self._live_is(last.rung):
            return self._back_to(last)
        return last

    # ---- before training -----------------------------------------------------------------------------------------

    def _finished(self, rung: RungPlan) -> Measured | None:
        """What was measured at a rung that an earlier attempt promoted; None when the rung is still to do."""
        if not self.session.state.promoted(rung):
            return None
        return self.evaluator.kept(f"rung_{rung.length}")

    def _start_from(self, previous: RungPlan | None) -> None:
        """Give the model the weights that a rung begins with, unless it has them already."""
        if previous is None:
            self._load("phase_0")
        elif not self._live_is(previous):
            self._load(f"rung_{previous.length}")
            self.session.live = previous.length

    def _load(self, name: str) -> None:
        """Adapter weights of a promoted checkpoint.

        Raises CheckpointFailure when it is missing or damaged.
        """
        store = self.session.store
        faults = store.verify(name)
        if faults:
            raise CheckpointFailure(
                f"The run cannot go on: {faults[0]} Roll back to an earlier phase, or start a new run."
            )
        self.prepared.strategy.load(self.prepared.model, store.get(name).path)

    def _live_is(self, rung: RungPlan) -> bool:
        return self.session.live == rung.length

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
            value = self.evaluator.quick(rung.length)
            session.log("context/calibration_perplexity", value, length=rung.length)
            telegram = self.breaker.check_step(session.at.step, loss=value)
            if telegram is not None:
                raise BreakerStop(
                    f"The calibration pass at {rung.length} tokens failed: {telegram['reason']}.", telegram
                )

    # ---- training ------------------------------------------------------------------------------------------------

    def _train(self, rung: RungPlan) -> None:
        self.breaker.reset(rung.length)
        session = self.session
        begun = self._newest_checkpoint(rung)
        step = 0 if begun is None else int(begun.metadata["step_in_rung"])
        if begun is not None:
            self.breaker.restore(begun.metadata["breaker"])
            session.at.tokens = int(begun.metadata["tokens"])
        session.at.step = session.offset(rung) + step
        if not self.resumed:
            session.metrics.resumed(session.at.step)
            session.event("run/resumed", at_step=session.at.step, checkpoint=None if begun is None else begun.name)
            self.resumed = True
        if begun is not None and step >= rung.steps:
            self.prepared.strategy.load(self.prepared.model, begun.path)
            session.live = rung.length
            return
        self.evaluator.forget(f"rung_{rung.length}")
        session.live = None
        if rung.steps:
            self._run_trainer(session.halved(rung), begun)
        else:
            self._saver(rung)(lambda folder: self.prepared.strategy.save(self.prepared.model, folder), 0)
        session.live = rung.length
        if session.halt is not None:
            raise halted(session)

    def _run_trainer(self, rung: RungPlan, begun: Checkpoint | None) -> None:
        """One Trainer run; a GPU out of memory is met once, with half the micro-batch and twice the accumulation."""
        import torch

        try:
            self.trainer_for(rung).train(resume_from_checkpoint=None if begun is None else str(begun.path))
            return
        except torch.cuda.OutOfMemoryError as error:
            words = str(error).splitlines()[0]
        session = self.session
        if rung.micro_batch_size < 2 or session.was_halved(rung):
            raise HardwareShortfall(
                f"The GPU ran out of memory at {rung.length} tokens with a micro-batch of {rung.micro_batch_size} "
                f"({words}). "
                "Use a shorter target, --gradient-checkpointing on, or a smaller model."
            )
        torch.cuda.empty_cache()
        smaller = session.halve(rung)
        session.event("hardware/out_of_memory", length=rung.length, micro_batch=smaller.micro_batch_size, reason=words)
        begun = self._newest_checkpoint(rung)
        if begun is None:
            self._load("phase_0" if rung.index == 0 else f"rung_{session.job.rungs[rung.index - 1].length}")
            session.at.step = session.offset(rung)
        session.metrics.resumed(session.at.step if begun is None else int(begun.step or 0))
        try:
            self.trainer_for(smaller).train(resume_from_checkpoint=None if begun is None else str(begun.path))
        except torch.cuda.OutOfMemoryError as error:
            raise HardwareShortfall(
                f"The GPU ran out of memory at {rung.length} tokens even with half the micro-batch "
                f"({str(error).splitlines()[0]})."
            ) from error

    def trainer_for(self, rung: RungPlan) -> RungTrainer:
        """The Trainer of one rung with its data and every callback."""
        session, job = self.session, self.session.job
        windows = training_windows(self.pool, job, rung, self.prepared.pad_id)
        session.event("data/packed", length=rung.length, **_short(windows.report.as_dict()))
        callbacks, watchers = callbacks_for(session, self.breaker, self.evaluator, rung)
        runtime = self.runtime
        arguments = training_arguments(
            job,
            rung,
            session.path / "checkpoints",
            bf16=runtime.arithmetic.bf16,
            cpu=runtime.cpu,
            checkpointing=runtime.checkpointing,
        )
        trainer = RungTrainer(
            model=self.prepared.model,
            arguments=arguments,
            windows=windows,
            strategy=self.prepared.strategy,
            save=self._saver(rung),
            loss_chunk=None if self.prepared.whole_logits else job.training.loss_chunk,
            embedding_learning_rate=job.training.embedding_learning_rate,
            callbacks=callbacks,
        )
        for watcher in watchers:
            watcher.trainer = trainer
        return trainer

    def _saver(self, rung: RungPlan) -> Callable[[Callable[[Path], None], int], None]:
        session, offset = self.session, self.session.offset(rung)

        def save(fill: Callable[[Path], None], step: int) -> None:
            metadata = {
                "rung": rung.index,
                "length": rung.length,
                "step_in_rung": step,
                "tokens": session.at.tokens,
                "breaker": self.breaker.state(),
                "config_sha256": session.job.config_sha256,
            }
            session.save(step_name(offset + step), fill, step=offset + step, metadata=metadata)
            self._prune(STEP_CHECKPOINTS_KEPT)

        return save

    def _prune(self, keep: int) -> None:
        """Remove all but the newest `keep` step checkpoints; phases and rungs stay."""
        steps = [found for found in self.session.store.list() if found.name.startswith("checkpoint-")]
        for found in steps[: max(0, len(steps) - keep)]:
            self.session.store.discard(found.name)

    def _newest_checkpoint(self, rung: RungPlan) -> Checkpoint | None:
        """The newest checkpoint inside `rung` whose every byte verifies; damaged ones are reported and passed over."""
        store = self.session.store
        inside = [
            found
            for found in store.list()
            if found.metadata.get("rung") == rung.index and "step_in_rung" in found.metadata
        ]
        inside = [found for found in inside if found.name.startswith("checkpoint-")]
        for found in sorted(inside, key=lambda item: -int(item.metadata["step_in_rung"])):
            faults = store.verify(found.name)
            if not faults:
                return found
            self.session.event("checkpoint/damaged", name=found.name, reason=faults[0])
        return None

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
        telegram = self.breaker.register(
            session.at.step, perplexity, accuracy, throughput=session.at.tokens_per_s, vram_used=vram_used()
        )
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
        begun = self._newest_checkpoint(rung)
        if begun is None:
            raise CheckpointFailure(
                f"The last checkpoint of the rung at {rung.length} tokens is gone or damaged; it cannot be promoted."
            )

        def fill(folder: Path) -> None:
            copy_state(begun.path, folder)
            write_context(folder, self.prepared.model, rung.length)

        metadata = {"rung": rung.index, "length": rung.length, "scores": scores, "tokens": session.at.tokens}
        for name in (f"rung_{rung.length}", f"phase_{rung.phase}"):
            session.save(name, fill, step=session.at.step, metadata=metadata)
        manifests = {
            name: session.store.get(name).manifest_sha256 for name in (f"rung_{rung.length}", f"phase_{rung.phase}")
        }
        session.state.promote(rung, scores, manifests, context_of(self.prepared.model).get("rope_parameters", {}))
        session.finished_phase(rung.phase, "completed", measured.accuracy(rung.length))
        self._prune(1)

    def _back_to(self, climbed: Climbed) -> Climbed:
        """Give the model the weights and the context of a rung that passed earlier."""
        self._load(f"rung_{climbed.rung.length}")
        self.session.live = climbed.rung.length
        self.session.at.rung = climbed.rung.length
        prepared = self.prepared
        if self.applied is not None:
            prepared.method.revert(prepared.model, self.applied)
            self.applied = None
        if climbed.rung.scale > 1:
            self.applied = prepared.method.apply(
                prepared.model, context_parameters(self.session, prepared, climbed.rung.length)
            )
        return climbed


def context_parameters(session: Session, prepared: Prepared, length: int) -> dict[str, Any]:
    """The configuration keys of the job's context method at `length` tokens."""
    scaling = session.job.scaling
    options = method_options(prepared.method.id, scaling.method_params, scaling.yarn_ramp)
    return prepared.method.parameters(prepared.base_config, length, **options)


def step_name(step: int) -> str:
    """Checkpoint name of a step of the whole job."""
    return f"checkpoint-{step}"


def copy_state(source: Path, folder: Path) -> None:
    """Copy a checkpoint's files, its manifest left out: the store writes a new one."""
    for path in source.iterdir():
        if path.is_file() and path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)


def halted(session: Session) -> Exception:
    """The exception that a halt turns into once everything is saved."""
    halt = session.halt
    assert halt is not None
    if halt.kind == "pause":
        return Paused("request")
    return HumanStop(
        f"{'Aborted' if halt.kind == 'abort' else 'Stopped'} by {halt.actor}: {halt.reason}.", halt.kind, halt.actor
    )


def _short(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("length", "histogram")}
