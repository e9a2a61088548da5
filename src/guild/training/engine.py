"""The one training executor: a file in, a result out. (specs/guild.md 2.1.4; issue decision One training executor)

`TrainerEngine` keeps the campaign's model in memory between files. It never raises for what goes wrong in training, and a file that was
stopped, paused for good or skipped is never a success: its steps are saved, and the next call for it goes on behind them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from torch.utils.data import Subset

from guild.naming import checkpoint_name
from guild.training.file_data import FileData, load_file
from guild.training.file_trainer import FileTrainer, NonFiniteLossError, StepFigures, training_arguments
from guild.training.gpu_memory import begin_peak
from guild.training.interface import Begun, Hooks, LeaveError, Measured, Outcome, Progress, SavedCheckpoint, TrainerConfig, TrainingResult
from guild.training.model_session import ModelSession, close_session, open_session, save_session, session_key
from guild.training.preview import Preview, ask_row
from guild.training.profiles import get_profile
from guild.training.trained_files import TrainedPart, job_number
from guild.training.validation_loss import validation_loss
from modelwright.checkpoints import CheckpointStore
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import DiskFullError, ModelwrightError
from modelwright.files import sha256_file

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
        begin_peak()
        try:
            session = self._session_for(config)
            result = _FileRun(config, session, self.hooks, self._clock).run()
            if result.error_type:
                self.forget()  # steps that could not be saved are not part of the campaign
        except LeaveError as left:
            result = TrainingResult(False, left.outcome, session.step, 0.0)
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
        self.per_step = config.hyperparams.batch_size * config.hyperparams.gradient_accumulation
        self.start_step = session.step
        self.windows_before = self.done_before = self.total = 0
        self.outcome: Outcome = "completed"
        self.error: Exception | None = None
        self.losses: deque[float] = deque(maxlen=FINAL_STEPS)
        self.since_saved: list[float] = []
        self.saved: SavedCheckpoint | None = None
        self.data: FileData | None = None
        self.rate = 0.0
        self.tokens, self.seconds = 0, 0.0

    def run(self) -> TrainingResult:
        config, hyper = self.config, self.config.hyperparams
        known = self.session.files.get(self.job)
        if known is not None and known.complete and known.file_sha256 == sha256_file(config.data.path):
            return self._known_whole(known)
        with self.hooks.during("loading"):
            self.data = data = load_file(config, self.session)
        self._find_place(data, known)
        before = self._validate(data, self.bf16)
        warning = f"Training goes on at step {self.start_step} and {self.session.note}." if self.session.unexpected else ""
        self.hooks.begun(Begun(self.start_step, self.done_before, self.total, data.reports, before, warning))
        self.session.note, self.session.unexpected = "", False  # for the next file it is no news
        self.trainer = FileTrainer(
            model=self.session.model,
            arguments=training_arguments(hyper, config.output.run, device=config.model.device),
            windows=Subset(cast("Any", data.training), range(self.windows_before, len(data.training))),
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

    def _find_place(self, data: FileData, known: TrainedPart | None) -> None:
        """Where in the file to go on, in windows, which today's batch size and accumulation do not move; and how many steps are left of
        it. A file that is whole in these weights and has other bytes now is another file, and is trained from its beginning.

        Raises ModelwrightError when part of it is trained and the rest cannot be told.
        """
        name, windows = self.config.data.path.name, len(data.training)
        former = None if known is not None else self.session.former.get(job_number(self.job))
        if known is not None and not known.complete:
            if known.windows_sha256 != data.digest:
                raise ModelwrightError(
                    f"{name}: {known.steps} of its steps are trained, and the file or its preparation has changed since; what is left of "
                    "it cannot be told. Put the former file back, or queue this one under another name."
                )
            self.windows_before, self.done_before = known.windows, known.steps
        elif former is not None and former.windows_sha256 == data.digest:
            self.windows_before = former.windows(windows, self.config.environment.former_per_step, name)
            self.done_before = former.steps
        left = windows - self.windows_before
        self.total = self.done_before + -(-left // self.per_step)  # the last step may be a smaller one

    def _note_place(self, data: FileData, steps: int) -> None:
        """Write into the session what its weights contain of the file after so many steps of this attempt."""
        windows = min(self.windows_before + steps * self.per_step, len(data.training))
        self.session.files.pop(self.job, None)  # the last one trained stands last
        self.session.files[self.job] = TrainedPart(
            windows, len(data.training), self.done_before + steps, data.rows, data.digest, data.file_sha256
        )

    def _validate(self, data: FileData, bf16: bool) -> float | None:
        if data.validation is None:
            return None
        size = self.config.hyperparams.batch_size
        with self.hooks.during("evaluating"):
            return validation_loss(self.session.model, data.validation, data.collate, batch_size=size, bf16=bf16)

    # ---- the loop's steps ----------------------------------------------------------------------------------------

    def _after_step(self, figures: StepFigures) -> bool:
        """Take note of a step; whether to leave the loop."""
        done = self.done_before + figures.done
        self.session.step = figures.step
        assert self.data is not None
        self._note_place(self.data, figures.done)
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
            self._save(done)
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
            with self.hooks.during("evaluating"):
                asked = [preview for at in range(min(MICRO_ROWS, len(data.held))) if (preview := self._ask(data, at)) is not None]
            self.hooks.measured(Measured(step, asked=len(asked), exact=sum(preview.matches for preview in asked)))
        if due(step, often.preview_every):
            with self.hooks.during("evaluating"):
                preview = self._ask(data, (step // often.preview_every) % len(data.held))
            if preview is not None:
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

    def _save(self, done: int) -> SavedCheckpoint | None:
        """Make a checkpoint; None, and the outcome `stopped`, when the disk stays full."""
        data, part = self.data, self.session.files[self.job]
        assert data is not None
        complete, share = part.complete, part.windows / part.total
        value = self._validate(data, self.bf16) if complete else None
        mean = sum(self.since_saved) / len(self.since_saved) if self.since_saved else None
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
        told = record_fields(self.config, self.session.step, share, {"loss": mean, "eval_loss": value, "learning_rate": self.rate})
        path = None
        while path is None:
            try:
                with self.hooks.during("saving"):
                    path = save_session(self.session, self.store, name, metadata, told)
            except DiskFullError as error:
                if path is None and not self.hooks.disk_full(error):
                    self.outcome, self.error = "stopped", error
                    return None
        self.since_saved = []
        self.saved = SavedCheckpoint(path, self.session.step, done, self.total, share, complete, mean, value, self.rate)
        self.hooks.saved(self.saved)
        return self.saved

    def _known_whole(self, part: TrainedPart) -> TrainingResult:
        """The file is whole in these weights: the word that it was done got lost behind the checkpoint."""
        return TrainingResult(
            True, "completed", self.session.step, 0.0, part.steps, part.steps, 1.0, self.session.checkpoint, summary={"rows": part.rows}
        )

    def _result(self) -> TrainingResult:
        completed = self.outcome == "completed"
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        data = self.data
        assert data is not None
        summary: dict[str, Any] = {
            "start_step": self.start_step,
            "tokens": self.tokens,
            "train_seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else None,
            "longest_row": data.reports["encoding"]["longest"],
            "rows": data.rows,
            "validation_loss": None if self.saved is None else self.saved.val_loss,
        }
        return TrainingResult(
            success=completed,
            outcome=self.outcome,
            global_step=self.session.step,
            runtime_sec=0.0,
            done_steps=self.done_before if self.saved is None else self.saved.done,
            total_steps=self.total,
            share=self.windows_before / len(data.training) if self.saved is None else self.saved.share,
            last_checkpoint_path=self.session.checkpoint if self.saved is None else self.saved.path,
            final_loss=loss if loss is None or math.isfinite(loss) else None,
            summary=summary,
            error_message="" if self.error is None else str(self.error),
            error_type="" if self.error is None else error_type(self.error),
        )


def record_fields(config: TrainerConfig, step: int, share: float, figures: Mapping[str, float | None]) -> dict[str, Any]:
    """What `trainer_state.json` tells of a save beside the session, in Hugging Face's words where it has them: a ledger that was not told
    of it any more records it from there."""
    return {
        "epoch": share,
        "log_history": [{"step": step, "epoch": share, **{name: value for name, value in figures.items() if value is not None}}],
        "training_file": config.data.path.name,
        "skill_name": config.data.skill,
        "skill_level": config.data.level,
    }


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
