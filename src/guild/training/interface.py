"""What goes into the training of one file and what comes out; no training library is imported here. (specs/guild.md 2.1.4)

`guild.training.engine.TrainerEngine.run_job` takes a `TrainerConfig` and answers with a `TrainingResult`; it is the only way to model
code.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from guild.training.preview import Preview

Outcome = Literal["completed", "stopped", "skipped", "failed"]
Precision = Literal["fp32", "bf16", "bf16_mixed"]
"""fp32: weights and arithmetic. bf16: weights and arithmetic, half the memory. bf16_mixed: fp32 weights, bf16 arithmetic."""


@dataclass(frozen=True)
class Hyperparams:
    """How to train. batch_size: packed windows of a micro-batch. schedule_steps: optimizer steps of the campaign over which the learning
    rate falls; it stays at its floor afterwards. save_steps: optimizer steps between checkpoints inside a file, 0 for its end alone."""

    batch_size: int = 1
    gradient_accumulation: int = 16
    learning_rate: float = 2e-4
    warmup_steps: int = 100
    lr_scheduler: str = "cosine"
    schedule_steps: int = 10_000
    max_length: int = 2048
    max_grad_norm: float = 1.0
    precision: Precision = "bf16_mixed"
    gradient_checkpointing: bool = False
    packing: bool = True
    save_steps: int = 1000
    seed: int = 42
    optimizer: Mapping[str, Any] = field(default_factory=lambda: {"type": "adamw"})
    liger_kernel: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Monitoring:
    """How often things are looked at, in optimizer steps; 0 is never. status_every: the status document is written, at most once a second.
    eval_steps: the loss on held-out rows. micro_eval_every: exact answers to a few of them. preview_every: one answer, shown."""

    status_every: int = 2
    preview_every: int = 50
    eval_steps: int = 50
    micro_eval_every: int = 200


@dataclass(frozen=True)
class Data:
    """The file. schema: id of its rows' schema. generator: who made it, None when nobody says. validation_split and max_val: what is
    held out of training to measure on, the smaller of the two. masking: lowest and highest share of a batch that may go untrained, None
    for the limits of generator, profile and schema."""

    path: Path
    schema: str = "chat_sft_v1"
    generator: str | None = None
    skill: str | None = None
    level: int | None = None
    validation_split: float = 0.05
    max_val: int = 100
    masking: tuple[float, float] | None = None


@dataclass(frozen=True)
class ModelSource:
    """Where weights come from: `path` a folder, a hub id or `modelwright/tiny-*`. checkpoint: the campaign's checkpoint to go on from, with
    its optimizer; None at the campaign's beginning. fresh_optimizer: the checkpoint is another campaign's, of which weights and step are
    taken. rope_scaling: of the hero, for a base model that is loaded for the first time. device: `cpu` or `cuda[:n]`. start_step: the
    campaign's step, for a checkpoint that does not say its own."""

    path: str
    checkpoint: Path | None = None
    fresh_optimizer: bool = False
    rope_scaling: Mapping[str, Any] | None = None
    context_length: int | None = None
    device: str = "cpu"
    start_step: int = 0


@dataclass(frozen=True)
class Output:
    """Where things go: the campaign's checkpoints, its live status document, the run directory of this job."""

    checkpoints: Path
    status: Path
    run: Path


@dataclass(frozen=True)
class Environment:
    """Who trains what. job_id: a key that no other job has, here or elsewhere (`trained_files.job_key`); checkpoints name the file by it.
    prompt_date: the day in the base prompt, `YYYY-MM-DD`. former_per_step: windows of an optimizer step when the file was first begun, None
    when nobody knows; it counts for a checkpoint of the first format, which has steps alone."""

    hero_id: str
    campaign_id: str
    job_id: str
    prompt_date: str
    former_per_step: int | None = None


@dataclass(frozen=True)
class TrainerConfig:
    """Everything one file's training needs."""

    data: Data
    model: ModelSource
    output: Output
    environment: Environment
    hyperparams: Hyperparams = field(default_factory=Hyperparams)
    monitoring: Monitoring = field(default_factory=Monitoring)
    profile: str = "emoji_think"
    locked: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, kept beside the run."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingResult:
    """What became of a file.

    success: every step of the file is trained and saved; never for a stopped or skipped one. global_step: optimizer steps of the campaign.
    done_steps, total_steps: of this file. share: of its windows that are trained and saved, 0 to 1. final_loss: mean over its last ten
    steps. summary: figures for records and pages.
    """

    success: bool
    outcome: Outcome
    global_step: int
    runtime_sec: float
    done_steps: int = 0
    total_steps: int = 0
    share: float = 0.0
    last_checkpoint_path: Path | None = None
    final_loss: float | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    error_message: str = ""
    error_type: str = ""


Halt = Literal["pause", "stop", "skip"]
Busy = Literal["loading", "evaluating", "saving"]
"""What takes its time beside steps: reading and encoding a file, looking at held-out rows, writing a checkpoint."""
Answer = Literal["resume", "stop", "skip"]


@dataclass(frozen=True)
class Progress:
    """One optimizer step, for whoever watches. step: of the campaign. done, total: of the file, of earlier attempts as many as they took.
    tokens: of the step, padding included. seconds: wall clock of the step."""

    step: int
    done: int
    total: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that is on disk. share: of the file's windows that it contains, 0 to 1. train_loss: mean since the one before. val_loss:
    on the file's held-out rows, None between its ends. complete: the file ends with it."""

    path: Path
    step: int
    done: int
    total: int
    share: float
    complete: bool
    train_loss: float | None
    val_loss: float | None
    learning_rate: float


@dataclass(frozen=True)
class Begun:
    """A file that is ready to be trained. reports: what was done to it, ready for JSON. val_loss: before its first step in this attempt.
    warning: a sentence when training does not go on as it should, else ""."""

    start_step: int
    done: int
    total: int
    reports: Mapping[str, Any]
    val_loss: float | None
    warning: str = ""


@dataclass(frozen=True)
class Measured:
    """The model on held-out rows of the file, inside it. val_loss: nats per trained token, None when not measured now. asked, exact: how
    many rows were asked and answered word for word."""

    step: int
    val_loss: float | None = None
    asked: int = 0
    exact: int = 0


class LeaveError(Exception):
    """Raised by hooks before a file's first step: it is not to be begun. halt: `stop` or `skip`."""

    def __init__(self, halt: Halt) -> None:
        self.halt = halt
        super().__init__(f"the file is left before its first step ({halt})")

    @property
    def outcome(self) -> Outcome:
        return "skipped" if self.halt == "skip" else "stopped"


class Hooks(Protocol):
    """What the engine tells the outside and asks of it, all from the training thread."""

    def begun(self, begun: Begun) -> None:
        """Before the first step. May raise LeaveError."""
        ...

    def during(self, work: Busy) -> AbstractContextManager[None]:
        """Around whatever may take long between two steps. While a file is loaded it may raise LeaveError."""
        ...

    def halt(self) -> Halt | None:
        """After every step: what was asked for, if anything."""
        ...

    def paused(self, saved: SavedCheckpoint) -> Answer:
        """A pause is saved: wait here, and say how it goes on."""
        ...

    def disk_full(self, error: Exception) -> bool:
        """A checkpoint did not fit: wait here; True to try again, False to stop with the one before."""
        ...

    def progress(self, progress: Progress) -> None:
        """After every step."""
        ...

    def measured(self, measured: Measured) -> None:
        """Held-out rows were looked at."""
        ...

    def previewed(self, preview: Preview) -> None:
        """A held-out row was asked."""
        ...

    def saved(self, saved: SavedCheckpoint) -> None:
        """A checkpoint was made."""
        ...
