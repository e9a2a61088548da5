"""The one training executor: a file in, a result out. (specs/guild.md 2.1.4; issue decision One training executor)

`TrainerEngine` keeps the campaign's model in memory between files. It never raises for what goes wrong in training, and a file that was
stopped, paused for good or skipped is never a success: its steps are saved, and the next call for it goes on behind them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any, cast

from torch.utils.data import Subset

from guild.naming import checkpoint_name
from guild.training.file_data import FileData, load_file
from guild.training.file_trainer import FileTrainer, NonFiniteLossError, StepFigures, training_arguments
from guild.training.interface import Begun, Hooks, Measured, Outcome, Progress, SavedCheckpoint, TrainerConfig, TrainingResult
from guild.training.model_session import ModelSession, close_session, open_session, save_session, session_key
from guild.training.preview import Preview, ask_row
from guild.training.profiles import get_profile
from guild.training.validation_loss import validation_loss
from modelwright.checkpoints import CheckpointStore
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import DiskFullError, ModelwrightError

FINAL_STEPS = 10
"""Steps over which the last loss is a mean."""
MICRO_ROWS = 8
"""Held-out rows that a micro-evaluation asks."""


class TrainerEngine:
    """hooks: told of every step and asked how to go on; set them before a file is trained."""

    def __init__(self, hooks: Hooks | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.hooks = hooks
        self._clock = clock
        self._session: ModelSession | None = None

    def tokenizer(self, config: TrainerConfig) -> Any:
        """The tokenizer with which a file will be encoded. Raises LoadError, and what building the optimizer raises."""
        return self._session_for(config).tokenizer

    def run_job(self, config: TrainerConfig) -> TrainingResult:
        """Train one epoch of a file, or what is left of it."""
        if self.hooks is None:
            raise ValueError("set the engine's hooks before a file is trained")
        began = self._clock.monotonic()
        try:
            session = self._session_for(config)
            result = _FileRun(config, session, self.hooks, self._clock).run()
            if result.error_type:
                self.forget()  # steps that could not be saved are not part of the campaign
        except (ModelwrightError, NonFiniteLossError, RuntimeError, MemoryError, OSError, ValueError, ImportError) as error:
            step = 0 if self._session is None else self._session.step
            self.forget()  # its weights may have been half way through a step
            result = TrainingResult(
                success=False,
                outcome="failed",
                global_step=step,
                runtime_sec=0.0,
                error_message=str(error) or type(error).__name__,
                error_type=error_type(error),
            )
        return replace(result, runtime_sec=self._clock.monotonic() - began)

    def forget(self) -> None:
        """Drop the model; the next file loads it from its newest checkpoint."""
        if self._session is not None:
            close_session(self._session)
            self._session = None

    def _session_for(self, config: TrainerConfig) -> ModelSession:
        held = self._session
        if held is not None and (held.key != session_key(config) or held.checkpoint != config.model.checkpoint):
            self.forget()
        if self._session is None:
            self._session = open_session(config)
        return self._session


class _FileRun:
    """One call of `run_job`."""

    def __init__(self, config: TrainerConfig, session: ModelSession, hooks: Hooks, clock: Clock) -> None:
        self.config, self.session, self.hooks, self.clock = config, session, hooks, clock
        self.job = config.environment.job_id
        self.store = CheckpointStore(config.output.checkpoints, clock=clock)
        self.bf16 = config.hyperparams.precision == "bf16_mixed"
        self.start_step = session.step
        self.done_before = session.partial.get(self.job, 0)
        self.total = 0
        self.outcome: Outcome = "completed"
        self.error: Exception | None = None
        self.losses: deque[float] = deque(maxlen=FINAL_STEPS)
        self.since_saved: list[float] = []
        self.saved: SavedCheckpoint | None = None
        self.data: FileData | None = None
        self.rate = 0.0
        self.tokens, self.seconds = 0, 0.0

    def run(self) -> TrainingResult:
        if self.job in self.session.finished:
            return self._result()  # whole in these weights already: the word that it was done got lost
        config, hyper = self.config, self.config.hyperparams
        self.data = data = load_file(config, self.session)
        per_step = hyper.batch_size * hyper.gradient_accumulation
        self.total = -(-len(data.training) // per_step)
        self._check_unchanged(data)
        before = self._validate(data, self.bf16)
        self.hooks.begun(Begun(self.start_step, self.done_before, self.total, data.reports, before))
        self.trainer = FileTrainer(
            model=self.session.model,
            arguments=training_arguments(hyper, config.output.run, device=config.model.device),
            windows=Subset(cast("Any", data.training), range(self.done_before * per_step, len(data.training))),
            collate=data.collate,
            optimizer=self.session.optimizer,
            scheduler=self.session.scheduler,
            start_step=self.start_step,
            after_step=self._after_step,
            random_states=self.session.random_states,
        )
        self.session.random_states = None
        self.trainer.train()
        return self._result()

    def _check_unchanged(self, data: FileData) -> None:
        known = self.session.digests.get(self.job)
        if self.done_before and known is not None and known != data.digest:
            raise ModelwrightError(
                f"{self.config.data.path.name}: {self.done_before} of its steps are trained, and the file or its preparation has changed "
                "since; what is left of it cannot be told. Put the former file back, or queue this one under another name."
            )
        self.session.digests[self.job] = data.digest

    def _validate(self, data: FileData, bf16: bool) -> float | None:
        if data.validation is None:
            return None
        size = self.config.hyperparams.batch_size
        return validation_loss(self.session.model, data.validation, data.collate, batch_size=size, bf16=bf16)

    # ---- the loop's steps ----------------------------------------------------------------------------------------

    def _after_step(self, figures: StepFigures) -> bool:
        """Take note of a step; whether to leave the loop."""
        done = self.done_before + figures.done
        self.session.step = figures.step
        self.session.partial[self.job] = done
        self.losses.append(figures.loss)
        self.since_saved.append(figures.loss)
        self.rate = figures.learning_rate
        self.tokens += figures.tokens
        self.seconds += figures.seconds
        self.hooks.progress(
            Progress(
                figures.step, done, self.total, figures.loss, figures.grad_norm, figures.learning_rate, figures.tokens, figures.seconds
            )
        )
        if done >= self.total:
            self._finish()
            return True
        self._look(figures.step)
        halt = self.hooks.halt()
        if halt is not None:
            return self._halted(halt, done)
        every = self.config.hyperparams.save_steps
        if every and figures.step % every == 0:
            return self._save(done) is None
        return False

    def _look(self, step: int) -> None:
        """The loss on held-out rows, exact answers to some, and one of them shown, each at its steps."""
        data, often = self.data, self.config.monitoring
        if data is None or not len(data.held):
            return
        if due(step, often.eval_steps) and data.validation is not None:
            self.hooks.measured(Measured(step, val_loss=self._validate(data, self.bf16)))
        if due(step, often.micro_eval_every):
            asked = [preview for at in range(min(MICRO_ROWS, len(data.held))) if (preview := self._ask(data, at)) is not None]
            self.hooks.measured(Measured(step, asked=len(asked), exact=sum(preview.matches for preview in asked)))
        if due(step, often.preview_every) and (preview := self._ask(data, (step // often.preview_every) % len(data.held))) is not None:
            self.hooks.previewed(preview)

    def _ask(self, data: FileData, at: int) -> Preview | None:
        return ask_row(self.session.model, self.session.tokenizer, data.held[at], get_profile(self.config.profile))

    def _halted(self, halt: str, done: int) -> bool:
        saved = self._save(done)
        if saved is None:
            return True
        if halt == "pause":
            answer = self.hooks.paused(saved)
            if answer == "resume":
                return False
            halt = answer
        self.outcome = "skipped" if halt == "skip" else "stopped"
        return True

    def _finish(self) -> None:
        self.session.partial.pop(self.job, None)
        self.session.digests.pop(self.job, None)
        self.session.finished.append(self.job)
        if self._save(self.total) is None:
            self.session.finished.remove(self.job)

    def _save(self, done: int) -> SavedCheckpoint | None:
        """Make a checkpoint; None, and the outcome `stopped`, when the disk stays full."""
        complete = done >= self.total
        data = self.data
        assert data is not None
        value = self._validate(data, self.bf16) if complete else None
        name = checkpoint_name(self.session.step, self.clock.now())
        metadata = {
            "hero_id": self.config.environment.hero_id,
            "campaign_id": self.config.environment.campaign_id,
            "job_id": self.job,
            "file": self.config.data.path.name,
            "done_steps": done,
            "total_steps": self.total,
            "complete": complete,
            "prompt_date": self.config.environment.prompt_date,
        }
        while True:
            try:
                path = save_session(self.session, self.store, name, metadata)
                break
            except DiskFullError as error:
                if not self.hooks.disk_full(error):
                    self.outcome, self.error = "stopped", error
                    return None
        mean = sum(self.since_saved) / len(self.since_saved) if self.since_saved else None
        self.since_saved = []
        self.saved = SavedCheckpoint(path, self.session.step, done, self.total, complete, mean, value, self.rate)
        self.hooks.saved(self.saved)
        return self.saved

    def _result(self) -> TrainingResult:
        completed = self.outcome == "completed"
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        data = self.data
        summary: dict[str, Any] = {
            "start_step": self.start_step,
            "tokens": self.tokens,
            "train_seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else None,
            "longest_row": None if data is None else data.reports["encoding"]["longest"],
            "rows": None if data is None else data.rows,
            "validation_loss": None if self.saved is None else self.saved.val_loss,
        }
        return TrainingResult(
            success=completed,
            outcome=self.outcome,
            global_step=self.session.step,
            runtime_sec=0.0,
            done_steps=self.total if completed else 0 if self.saved is None else self.saved.done,
            total_steps=self.total,
            last_checkpoint_path=self.session.checkpoint if self.saved is None else self.saved.path,
            final_loss=loss if loss is None or math.isfinite(loss) else None,
            summary=summary,
            error_message="" if self.error is None else str(self.error),
            error_type="" if self.error is None else error_type(self.error),
        )


def error_type(error: BaseException) -> str:
    """A word for the kind of failure, for records and the crash classifier."""
    if isinstance(error, NonFiniteLossError):
        return "non_finite_loss"
    if isinstance(error, DiskFullError):
        return "disk"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    return type(error).__name__


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens now; never for 0."""
    return every > 0 and step % every == 0
