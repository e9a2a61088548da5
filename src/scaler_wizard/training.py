"""Step 5: one Trainer run per rung.

`RungTrainer` is Hugging Face's Trainer with what a long-context adapter run needs: cross-entropy that never holds all
logits, windows in a fixed order, its checkpoints written through the kernel's store (staged, digested, promoted whole),
and no per-step work that the run does not use. Notation: B windows per micro-batch, T tokens per window.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from modelwright.probes.quiet import dynamic_rope_modules, start_afresh
from scaler_wizard.chunked_loss import causal_lm_loss
from scaler_wizard.resolved import ResolvedJob, RungPlan
from scaler_wizard.strategies import ScalerStrategy

TRAINER_STATE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.pt"
SCHEDULER_FILE = "scheduler.pt"
RNG_FILE = "rng_state.pth"


def warmup_steps(job: ResolvedJob, steps: int) -> int:
    """Steps of linear warm-up in a rung of `steps`: as configured, and never more than a tenth of the rung."""
    return min(job.training.warmup_steps, math.floor(0.1 * steps))


def training_arguments(job: ResolvedJob, rung: RungPlan, directory: Path, *, bf16: bool, cpu: bool, checkpointing: bool) -> Any:
    """Trainer arguments of one rung.

    Logging and saving strategies are off: callbacks decide both. The seed differs from rung to rung, so that each rung
    draws its own dropout masks whether or not the run was interrupted before it.
    """
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    prefix = "activation" if "activation_checkpointing" in fields else "gradient"
    settings: dict[str, Any] = {
        f"{prefix}_checkpointing": checkpointing,
        f"{prefix}_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
    }
    training = job.training
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=rung.steps,
        per_device_train_batch_size=rung.micro_batch_size,
        gradient_accumulation_steps=rung.gradient_accumulation,
        learning_rate=rung.learning_rate,
        lr_scheduler_type=training.lr_scheduler,
        warmup_steps=warmup_steps(job, rung.steps),
        optim="adamw_torch_fused",
        adam_beta1=training.adam_beta1,
        adam_beta2=training.adam_beta2,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        seed=job.seed + rung.index,
        use_cpu=cpu,
        bf16=bf16,
        dataloader_num_workers=0,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
        **settings,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several visible devices must not turn one process into DataParallel
    return arguments


def stack_windows(windows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Windows of equal length as one micro-batch: each value [T] becomes [B, T]."""
    return {name: torch.stack([window[name] for window in windows]) for name in windows[0]}


class RungTrainer(Trainer):
    """Trainer of one rung.

    `save` writes a checkpoint: it is handed a function that fills a directory, and the step within the rung.
    `loss_chunk` is the number of positions whose logits are held at once; None lets the model compute its own loss.
    `step_loss` and `step_grad_norm` hold the figures of the optimizer step under way, as 0-d tensors.
    """

    def __init__(
        self,
        *,
        model: Any,
        arguments: Any,
        windows: Dataset[dict[str, torch.Tensor]],
        strategy: ScalerStrategy,
        save: Callable[[Callable[[Path], None], int], None],
        loss_chunk: int | None,
        embedding_learning_rate: float | None,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.strategy = strategy
        self.save_through = save
        self.loss_chunk = loss_chunk
        self.embedding_learning_rate = embedding_learning_rate
        self.optimizer: Any = None
        self.dynamic = bool(dynamic_rope_modules(model))
        self.trained = list(strategy.trainable_parameters(model))
        self.step_loss: torch.Tensor | None = None
        self.step_grad_norm: torch.Tensor | None = None
        super().__init__(model=model, args=arguments, train_dataset=windows, data_collator=stack_windows, callbacks=callbacks)
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole step

    # ---- data and loss -------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Summed token loss of a micro-batch divided by the predicted tokens of the whole step, a 0-d tensor."""
        if self.loss_chunk is None:
            loss = model(**inputs, use_cache=False, num_items_in_batch=num_items_in_batch).loss
        else:
            loss = causal_lm_loss(model, inputs, num_items_in_batch, self.loss_chunk)
        return (loss, None) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.dynamic:
            start_afresh(self.model)  # a micro-batch must not inherit the frequencies of a longer one before it
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.step_loss = loss if self.step_loss is None else self.step_loss + loss
        return loss

    # ---- optimizer -----------------------------------------------------------------------------------------------

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with up to two groups: adapters, and (with their own learning rate) embeddings and norms."""
        if self.optimizer is None:
            named = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
            whole = [parameter for name, parameter in named if ".modules_to_save." in name]
            adapters = [parameter for name, parameter in named if ".modules_to_save." not in name]
            groups: list[dict[str, Any]] = [{"params": adapters}]
            if whole:
                groups.append({"params": whole, "lr": self.embedding_learning_rate or self.args.learning_rate})
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls(groups, weight_decay=self.args.weight_decay, **options)
        return self.optimizer

    def _clip_grad_norm(self, model: Any) -> torch.Tensor:
        self.step_grad_norm = torch.nn.utils.clip_grad_norm_(self.trained, self.args.max_grad_norm, foreach=True)
        return self.step_grad_norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """No count per step: the library's figure is wrong for adapters and costs a walk over every parameter."""
        return 0

    # ---- checkpoints ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.save_through(self.write_state, self.state.global_step)

    def write_state(self, directory: Path) -> None:
        """Everything a bit-exact continuation needs: adapters, optimizer, schedule, random states, Trainer state."""
        self.strategy.save(self.model, directory)
        self._save_optimizer_and_scheduler(str(directory))
        self._save_rng_state(str(directory))
        self.state.save_to_json(str(directory / TRAINER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.strategy.load(self.model if model is None else model, Path(resume_from_checkpoint))
