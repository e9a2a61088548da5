"""Hugging Face's Trainer over the packed windows of one file.

Optimizer and schedule outlive the file: they belong to the campaign and are handed in. The step counter is the campaign's, so it begins
where the last file ended. Which windows are left, what is saved and when to leave is the engine's business, told by one callback.
Notation: B windows per micro-batch, T tokens per window.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from guild.training.interface import Hyperparams
from guild.training.state_files import restore_random_states


@dataclass(frozen=True)
class StepFigures:
    """One optimizer step. step: of the campaign. done: steps of this file so far in this call. loss: mean over the trained tokens. tokens:
    all tokens of the step's windows. seconds: wall clock of the step."""

    step: int
    done: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    seconds: float


class NonFiniteLossError(Exception):
    """The loss or its gradient is NaN or infinite; no weight was changed by it. (G10)"""

    def __init__(self, step: int, loss: float, grad_norm: float) -> None:
        self.step, self.loss, self.grad_norm = step, loss, grad_norm
        super().__init__(f"Step {step}: loss {loss}, gradient norm {grad_norm}; allowed: finite numbers. The step was not taken.")


def liger_enabled(section: Mapping[str, bool]) -> bool:
    """Whether a hero's `liger_kernel` section asks for the fused kernels; the package must then be there."""
    return bool(section.get("enabled"))


def liger_config(section: Mapping[str, bool]) -> dict[str, bool] | None:
    """The section in the words of the Liger package."""
    if not liger_enabled(section):
        return None
    named = {
        "fused_linear_cross_entropy": "fused_linear_cross_entropy",
        "fused_rms_norm": "rms_norm",
        "fused_swiglu": "swiglu",
        "fused_rope": "rope",
    }
    return {liger: bool(section.get(ours, True)) for ours, liger in named.items()}


def training_arguments(hyper: Hyperparams, folder: Path, *, device: str) -> TrainingArguments:
    """Trainer arguments for one pass over a file. Saving, logging and evaluation are the engine's, so the library's are off."""
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    prefix = "activation" if "activation_checkpointing" in fields else "gradient"
    checkpointing: dict[str, Any] = {
        f"{prefix}_checkpointing": hyper.gradient_checkpointing,
        f"{prefix}_checkpointing_kwargs": {"use_reentrant": False} if hyper.gradient_checkpointing else None,
    }
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=hyper.batch_size,
        gradient_accumulation_steps=hyper.gradient_accumulation,
        learning_rate=hyper.learning_rate,
        max_grad_norm=hyper.max_grad_norm,
        **checkpointing,
        bf16=hyper.precision == "bf16_mixed",
        use_cpu=device == "cpu",
        use_liger_kernel=liger_enabled(hyper.liger_kernel),
        liger_kernel_config=liger_config(hyper.liger_kernel),
        seed=hyper.seed,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        dataloader_num_workers=0,
        dataloader_pin_memory=device != "cpu",
        remove_unused_columns=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several visible devices must not turn one process into DataParallel
    return arguments


class FileTrainer(Trainer):
    """Trainer of the windows that are left of one file.

    start_step: the campaign's step before the first. after_step: called with the figures of every step; True leaves the loop.
    random_states: of the checkpoint that training goes on from, set just before the first step so that dropout repeats; None keeps the
    present ones.
    """

    def __init__(
        self,
        *,
        model: Any,
        arguments: TrainingArguments,
        windows: Dataset[Any],
        collate: Callable[[Any], dict[str, Any]],
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        start_step: int,
        after_step: Callable[[StepFigures], bool],
        random_states: dict[str, Any] | None = None,
    ) -> None:
        self.step_loss: torch.Tensor | None = None
        self.step_norm: torch.Tensor | float | None = None
        self.step_tokens = 0
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=windows,
            data_collator=collate,
            optimizers=(optimizer, scheduler),
            callbacks=[_Steps(self, start_step, after_step, random_states)],
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        self.step_tokens += inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_loss = loss if self.step_loss is None else self.step_loss + loss
        return loss

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        self.step_norm = torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm, foreach=True)
        return self.step_norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """No count per step: it costs a walk over every parameter, and nothing here reads it."""
        return 0


class _Steps(TrainerCallback):
    """Turns the library's counting into the campaign's, judges every step before it is taken, and hands its figures on."""

    def __init__(
        self, trainer: FileTrainer, start_step: int, after_step: Callable[[StepFigures], bool], states: dict[str, Any] | None
    ) -> None:
        self.trainer, self.start_step, self.after_step, self.states = trainer, start_step, after_step, states
        self.began = 0.0
        self.loss = self.norm = self.rate = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.global_step += self.start_step
        state.max_steps += self.start_step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.states is not None:  # here and no earlier: making the data loader draws a number
            restore_random_states(self.states)
            self.states = None
        self.began = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        self.loss = math.nan if trainer.step_loss is None else float(trainer.step_loss)
        self.norm = 0.0 if trainer.step_norm is None else float(trainer.step_norm)
        self.rate = float(trainer.optimizer.param_groups[0]["lr"])
        trainer.step_loss = None
        if not (math.isfinite(self.loss) and math.isfinite(self.norm)):
            raise NonFiniteLossError(state.global_step + 1, self.loss, self.norm)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        tokens, self.trainer.step_tokens = self.trainer.step_tokens, 0
        step = state.global_step
        figures = StepFigures(step, step - self.start_step, self.loss, self.norm, self.rate, tokens, time.perf_counter() - self.began)
        if self.after_step(figures):
            control.should_training_stop = True
        return control
