"""What happens at every optimizer step beside training: telemetry, breaker, evaluation, control, checkpoints.

One callback per concern, called in the order of `callbacks_for`: the step is judged and recorded, then perhaps
evaluated, then requests are looked at, and last it is decided whether this step is saved, so that a checkpoint holds
all that came before it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from modelwright.errors import ModelwrightError
from scaler_wizard.evaluation import EvaluationInterrupted
from scaler_wizard.metrics_logger import PROFILES
from scaler_wizard.outcomes import BreakerStop
from scaler_wizard.resolved import RungPlan
from scaler_wizard.session import Session

if TYPE_CHECKING:
    from scaler_wizard.circuit_breaker import CircuitBreaker
    from scaler_wizard.evaluation import Evaluator
    from scaler_wizard.training import RungTrainer

THROUGHPUT_SMOOTHING = 0.1


class StepRecorder(TrainerCallback):
    """Judges loss and gradient norm before the optimizer uses them, and records every step.

    A value that is not finite raises BreakerStop before any weight changes.
    """

    def __init__(self, session: Session, breaker: CircuitBreaker, rung: RungPlan) -> None:
        self.session = session
        self.breaker = breaker
        self.offset = session.offset(rung)
        self.tokens = rung.length * rung.micro_batch_size * rung.gradient_accumulation
        self.every = session.job.safety.telemetry.log_every
        self.last = rung.steps
        self.norms = PROFILES[session.job.safety.telemetry.profile].norms
        self.trainer: RungTrainer | None = None
        self.started = 0.0
        self.loss = self.grad_norm = math.nan
        self.learning_rate = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.trainer is not None and self.trainer.step_loss is not None
        self.loss = float(self.trainer.step_loss)
        norm = self.trainer.step_grad_norm
        self.grad_norm = 0.0 if norm is None else float(norm)
        self.learning_rate = self.trainer.optimizer.param_groups[0]["lr"]
        self.trainer.step_loss = None
        telegram = self.breaker.check_step(self.offset + state.global_step + 1, loss=self.loss, grad_norm=self.grad_norm)
        if telegram is not None:
            raise BreakerStop(f"Stopped by the circuit breaker: {telegram['reason']}.", telegram)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        session, at = self.session, self.session.at
        rate = self.tokens / max(time.perf_counter() - self.started, 1e-9)
        at.step = self.offset + state.global_step
        at.tokens += self.tokens
        at.tokens_per_s = rate if at.tokens_per_s is None else at.tokens_per_s + THROUGHPUT_SMOOTHING * (rate - at.tokens_per_s)
        at.doing = "training"
        if self.due(state.global_step):
            self.record(rate)
        session.beat()

    def due(self, step: int) -> bool:
        """Whether the telemetry profile records this step: the first, the last and every `log_every`-th of a rung."""
        return step in (1, self.last) or step % self.every == 0

    def record(self, rate: float) -> None:
        session, at = self.session, self.session.at
        session.log("train/loss", self.loss)
        session.log("train/grad_norm", self.grad_norm)
        session.log("train/learning_rate", self.learning_rate)
        session.log("train/tokens", at.tokens)
        session.log("throughput/tokens_per_s", rate)
        if self.norms and self.trainer is not None:
            session.log("train/adapter_norm", adapter_norm(self.trainer.trained))


class GradientSetGuard(TrainerCallback):
    """Checks that the same tensors receive gradient before and after an evaluation.

    A forward pass in eval mode has been seen to cut adapters off from their gradient without any error; a run must not
    go on like that.
    """

    def __init__(self) -> None:
        self.trainer: RungTrainer | None = None
        self.expected: frozenset[int] | None = None
        self.due = True

    def evaluated(self) -> None:
        """Look again at the next step."""
        self.due = True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.due:
            return
        self.due = False
        assert self.trainer is not None
        found = frozenset(i for i, parameter in enumerate(self.trainer.trained) if parameter.grad is not None)
        if self.expected is None:
            self.expected = found
        if found != self.expected:
            raise ModelwrightError(
                f"After an evaluation {len(found)} of {len(self.expected)} trained tensors receive gradient: the run "
                "is stopped "
                "before it trains a part of the model only. Report this with the model's name and the quantisation in "
                "use."
            )


class EvaluationCallback(TrainerCallback):
    """Evaluation perplexity every `evaluation.eval_every` steps, fed to the breaker. The end of a rung is the
    pipeline's.
    """

    def __init__(self, session: Session, breaker: CircuitBreaker, evaluator: Evaluator, guard: GradientSetGuard, rung: RungPlan) -> None:
        self.session = session
        self.breaker = breaker
        self.evaluator = evaluator
        self.guard = guard
        self.rung = rung

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self.session.job.evaluation.eval_every
        step = state.global_step
        if not every or step % every or step >= self.rung.steps:
            return
        try:
            with self.session.busy(f"evaluating at {self.rung.length} tokens"):
                value = self.evaluator.quick(self.rung.length)
        except EvaluationInterrupted:  # the control callback, next in line, saves this step and leaves the loop
            self.session.event("evaluation/interrupted", at_step=self.session.at.step, length=self.rung.length)
            return
        self.guard.evaluated()
        at = self.session.at
        self.session.log("eval/perplexity", value, length=self.rung.length, split="held_out")
        self.session.note_perplexity(value)
        telegram = self.breaker.register(at.step, value, throughput=at.tokens_per_s, vram_used=vram_used())
        self.session.judged(telegram)
        if telegram["action"] == "stop":
            raise BreakerStop(f"Stopped by the circuit breaker: {telegram['reason']}.", telegram)


class ControlCallback(TrainerCallback):
    """Looks for requests and signals after every step; a halt saves this step and leaves the loop."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.session.poll()
        if self.session.halt is not None:
            control.should_save = True
            control.should_training_stop = True
        return control


class CheckpointCallback(TrainerCallback):
    """Saves every `training.save_every` steps and at the last step of a rung."""

    def __init__(self, session: Session, rung: RungPlan) -> None:
        self.every = session.job.training.save_every
        self.last = rung.steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        step = state.global_step
        if step == self.last or (self.every and step % self.every == 0):
            control.should_save = True
        return control


def callbacks_for(
    session: Session, breaker: CircuitBreaker, evaluator: Evaluator, rung: RungPlan
) -> tuple[list[TrainerCallback], tuple[StepRecorder, GradientSetGuard]]:
    """All callbacks of a rung in order, and the two that need to be told their trainer."""
    recorder = StepRecorder(session, breaker, rung)
    guard = GradientSetGuard()
    evaluation = EvaluationCallback(session, breaker, evaluator, guard, rung)
    return [guard, recorder, evaluation, ControlCallback(session), CheckpointCallback(session, rung)], (recorder, guard)


def adapter_norm(parameters: Sequence[Any]) -> float:
    """Euclidean norm over all trained tensors."""
    import torch

    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm([p.detach() for p in parameters]))))


def vram_used() -> float | None:
    """Used fraction of the GPU's memory, 0..1; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return 1 - free / total
