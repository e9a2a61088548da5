"""What a campaign's training can be told, and within which ranges: the model of the effective configuration. (specs/guild.md 2.1.1, 2.1.5)

Every field here reaches the training process. Steps are optimizer steps, lengths are tokens.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from guild.campaigns.heroes import (
    Accumulation,
    BatchSize,
    Count,
    LearningRate,
    Liger,
    LoraRank,
    MaxLength,
    OptimizerName,
    Positive,
    Precision,
    ProfileName,
    SchedulerName,
    Share,
)
from guild.training.optimizers.settings import AboveZero, OptimizerParameters

_STRICT = ConfigDict(frozen=True, extra="forbid")

IDENTITY = ("hero_id", "campaign_id", "campaign_name", "output_dir", "starting_checkpoint", "current_step", "skills_focus")
"""Fields that the campaign's own document decides; no layer may set them."""
PLACES_OF_THIS_MACHINE = ("output_dir", "starting_checkpoint", "current_step", "model_path", "device")
"""Fields that say where or how far, not what: they stay out of the digest."""


class EffectiveConfig(BaseModel):
    """The configuration that one training of one campaign runs with.

    output_dir, starting_checkpoint: absolute paths. model_path: a folder, a hub id or `modelwright/tiny-*`. model_size_b: parameters in
    units of 10^9. schedule_steps: steps over which the learning rate falls. save_total_limit: checkpoints that keep their optimizer.
    device: `cpu` or `cuda[:n]`. max_val, validation_split: rows of a file held out to measure on, the smaller of the two.
    """

    model_config = _STRICT

    # whose training it is
    hero_id: str
    campaign_id: str
    campaign_name: str
    output_dir: str
    starting_checkpoint: str | None = None
    current_step: Count = 0
    skills_focus: tuple[str, ...] = ()

    # the model
    model_path: Annotated[str, Field(min_length=1)]
    base_model: Annotated[str, Field(min_length=1)]
    model_family: str
    model_architecture: Annotated[str, Field(min_length=1)]
    model_version: str = "1"
    model_size_b: AboveZero
    vocab_size: Positive
    context_length: Positive
    rope_scaling: dict[str, Any] | None = None
    precision: Precision
    load_in_4bit: bool = False
    chat_template: str = "chatml"
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")]

    # how it is trained
    profile: ProfileName = "emoji_think"
    max_length: MaxLength = 2048
    packing: bool = True
    batch_size: BatchSize = 1
    gradient_accumulation: Accumulation = 16
    learning_rate: LearningRate = 2e-4
    lr_scheduler: SchedulerName = "cosine"
    warmup_steps: Count = 100
    schedule_steps: Positive = 10_000
    max_grad_norm: AboveZero = 1.0
    optimizer: OptimizerName = "adamw"
    optimizer_settings: OptimizerParameters = OptimizerParameters()
    gradient_checkpointing: bool = False
    liger_kernel: Liger = Liger()
    seed: Count = 42
    qlora_enabled: bool = False
    qlora_r: LoraRank = 64
    qlora_alpha: Positive = 16
    qlora_dropout: Share = 0.05
    qlora_target_modules: tuple[str, ...] = ()

    # what is measured and kept
    validation_split: Share = 0.05
    max_val: Count = 100
    save_steps: Count = 1000
    save_total_limit: Positive = 3
    eval_steps: Count = 50
    full_eval_steps: Positive = 5000
    status_every: Count = 2
    preview_every: Count = 50
    micro_eval_every: Count = 200
    preview_backend: Annotated[str, Field(pattern=r"^(local|remote_3090)$")] = "local"

    @field_validator("optimizer")
    @classmethod
    def _one_name(cls, name: OptimizerName) -> OptimizerName:
        """The original's second name of the 8-bit AdamW is read and never kept."""
        return "adamw_8bit" if name == "adamw_bnb_8bit" else name

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_length > self.context_length:
            raise ValueError(
                f"a max_length ({self.max_length}) within the model's context_length ({self.context_length}); stretch the context first"
            )
        if self.load_in_4bit and not self.qlora_enabled:
            raise ValueError("load_in_4bit with qlora_enabled, since 4-bit weights cannot be trained themselves")
        return self

    @property
    def locked(self) -> dict[str, Any]:
        """The five fields that a campaign's lock guards, by the lock's names. (specs/guild.md 2.1.5)"""
        return {
            "base_model": self.base_model,
            "model_architecture": self.model_architecture,
            "max_context_length": self.max_length,
            "vocab_size": self.vocab_size,
            "model_version": self.model_version,
        }

    @property
    def optimizer_section(self) -> dict[str, Any]:
        """The `optimizer` section of 4.12: `type`, and the parameters by kind."""
        return {"type": self.optimizer, **self.optimizer_settings.model_dump()}
