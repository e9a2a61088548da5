"""Step 5 of one rung: where it begins, its Trainer run, its step checkpoints, and one retry when memory runs out.

`RungTraining` knows which weights the model has. A rung begins with those of the rung before it, or at its own newest
sound checkpoint; what a failed attempt counted (tokens, evaluations, the breaker's window) is taken back with it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelwright.checkpoints import Checkpoint
from modelwright.errors import Paused
from scaler_wizard.bootstrap import Runtime
from scaler_wizard.callbacks import callbacks_for
from scaler_wizard.circuit_breaker import CircuitBreaker
from scaler_wizard.evaluation import Evaluator
from scaler_wizard.outcomes import CheckpointFailure, HardwareShortfall, HumanStop, ran_out_of_memory
from scaler_wizard.preparation import Prepared
from scaler_wizard.resolved import RungPlan
from scaler_wizard.rung_data import TextPool, tokens_of, training_windows
from scaler_wizard.session import Session
from scaler_wizard.training import RungTrainer, training_arguments

STEP_CHECKPOINTS_KEPT = 2


class RungTraining:
    """Trains the rungs of one job on one model."""

    def __init__(
        self,
        session: Session,
        runtime: Runtime,
        prepared: Prepared,
        evaluator: Evaluator,
        breaker: CircuitBreaker,
        pool: TextPool,
    ) -> None:
        self.session = session
        self.runtime = runtime
        self.prepared = prepared
        self.evaluator = evaluator
        self.breaker = breaker
        self.pool = pool
        self.resumed = session.run.attempt == 1  # whether the metrics already say where this attempt goes on

    # ---- weights -------------------------------------------------------------------------------------------------

    def live_is(self, rung: RungPlan) -> bool:
        """Whether the model has the weights of `rung`, promoted or about to be."""
        return self.session.live == rung.length

    def start_from(self, previous: RungPlan | None) -> None:
        """Give the model the weights that a rung begins with, unless it has them already."""
        if previous is None:
            self.load("phase_0")
        elif not self.live_is(previous):
            self.load(f"rung_{previous.length}")
            self.session.live = previous.length

    def load(self, name: str) -> None:
        """Adapter weights of a promoted checkpoint.

        Raises CheckpointFailure when it is missing or damaged.
        """
        store = self.session.store
        faults = store.verify(name)
        if faults:
            raise CheckpointFailure(f"The run cannot go on: {faults[0]} Roll back to an earlier phase, or start a new run.")
        self.prepared.strategy.load(self.prepared.model, store.get(name).path)

    # ---- training ------------------------------------------------------------------------------------------------

    def train(self, rung: RungPlan) -> None:
        """Train `rung` to its last step, from its newest sound checkpoint or from the weights the model has.

        Raises BreakerStop, HardwareShortfall; HumanStop or Paused once a halt is saved.
        """
        session = self.session
        begun = self._begin(rung)
        if not self.resumed:
            session.metrics.resumed(session.at.step)
            session.event("run/resumed", at_step=session.at.step, checkpoint=None if begun is None else begun.name)
            self.resumed = True
        if begun is not None and session.at.step - session.offset(rung) >= rung.steps:
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

    def _begin(self, rung: RungPlan) -> Checkpoint | None:
        """The checkpoint to go on from (None: the rung's beginning); step, tokens and breaker stand as they stood there."""
        session = self.session
        self.breaker.reset(rung.length)
        begun = self.newest_checkpoint(rung)
        step = 0
        session.at.tokens = sum(tokens_of(other) for other in session.job.rungs if other.index < rung.index)
        if begun is not None:
            step = int(begun.metadata["step_in_rung"])
            self.breaker.restore(begun.metadata["breaker"])
            session.at.tokens = int(begun.metadata["tokens"])
        session.at.step = session.offset(rung) + step
        return begun

    def _run_trainer(self, rung: RungPlan, begun: Checkpoint | None) -> None:
        """One Trainer run; running out of memory is met once, with a smaller micro-batch and more accumulation."""
        words = self._tried(rung, begun)
        if not words:
            return
        session, place = self.session, "machine" if self.runtime.cpu else "GPU"
        if rung.micro_batch_size < 2 or session.was_halved(rung):
            raise HardwareShortfall(
                f"The {place} ran out of memory at {rung.length} tokens with a micro-batch of {rung.micro_batch_size} ({words}). "
                "Use a shorter target, --gradient-checkpointing on, or a smaller model."
            )
        self._free()
        smaller = session.halve(rung)
        session.event("hardware/out_of_memory", length=rung.length, micro_batch=smaller.micro_batch_size, reason=words)
        begun = self._begin(rung)
        session.at.perplexities = []
        if begun is None:
            self.load("phase_0" if rung.index == 0 else f"rung_{session.job.rungs[rung.index - 1].length}")
        session.metrics.resumed(session.at.step)
        words = self._tried(smaller, begun)
        if words:
            raise HardwareShortfall(
                f"The {place} ran out of memory at {rung.length} tokens even with a micro-batch of {smaller.micro_batch_size} ({words}). "
                "Use a shorter target, --gradient-checkpointing on, or a smaller model."
            )

    def _tried(self, rung: RungPlan, begun: Checkpoint | None) -> str:
        """Train; "" when it went well, the allocator's words when memory ran out. Its frames, and the activations that
        they hold, are gone on return.
        """
        try:
            self.trainer_for(rung).train(resume_from_checkpoint=None if begun is None else str(begun.path))
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            return (str(error) or type(error).__name__).splitlines()[0]
        return ""

    def _free(self) -> None:
        """Give back what the failed Trainer held: its optimizer sits in reference cycles, gradients stay with the model."""
        import torch

        self.prepared.model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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

    # ---- step checkpoints ----------------------------------------------------------------------------------------

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
            self.prune(STEP_CHECKPOINTS_KEPT)

        return save

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` step checkpoints; phases and rungs stay."""
        steps = [found for found in self.session.store.list() if found.name.startswith("checkpoint-")]
        for found in steps[: max(0, len(steps) - keep)]:
            self.session.store.discard(found.name)

    def newest_checkpoint(self, rung: RungPlan) -> Checkpoint | None:
        """The newest checkpoint inside `rung` whose every byte verifies; damaged ones are reported and passed over."""
        store = self.session.store
        inside = [found for found in store.list() if found.metadata.get("rung") == rung.index and "step_in_rung" in found.metadata]
        inside = [found for found in inside if found.name.startswith("checkpoint-")]
        for found in sorted(inside, key=lambda item: -int(item.metadata["step_in_rung"])):
            faults = store.verify(found.name)
            if not faults:
                return found
            self.session.event("checkpoint/damaged", name=found.name, reason=faults[0])
        return None


def step_name(step: int) -> str:
    """Checkpoint name of a step of the whole job."""
    return f"checkpoint-{step}"


def halted(session: Session) -> Exception:
    """The exception that a halt turns into once everything is saved."""
    halt = session.halt
    assert halt is not None
    if halt.kind == "pause":
        return Paused("request")
    return HumanStop(f"{'Aborted' if halt.kind == 'abort' else 'Stopped'} by {halt.actor}: {halt.reason}.", halt.kind, halt.actor)


def _short(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in ("length", "histogram")}
