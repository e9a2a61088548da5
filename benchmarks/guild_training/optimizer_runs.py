"""One file trained with one optimizer: by the guild's engine, stopped half way and gone on with, and by a stock `transformers.Trainer`.

Both see the same windows in the same order from the same weights at a constant rate, so their losses must agree step by step, behind the
guild's resume too: an optimizer whose state were lost there would leave the stock Trainer's curve.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.guild_training.figures import rates
from benchmarks.guild_training.memory_watch import MemoryWatch, live_optimizer
from benchmarks.guild_training.subjects import Size, Subjects

from guild.training.interface import (
    Answer,
    Begun,
    Busy,
    Data,
    Environment,
    Halt,
    Hyperparams,
    Measured,
    ModelSource,
    Monitoring,
    Output,
    Progress,
    SavedCheckpoint,
    TrainerConfig,
    TrainingResult,
)  # fmt: skip
from guild.training.preview import Preview

OPTIMIZERS = ("adamw", "muon", "adamw_8bit", "paged_adamw_8bit")
STOCK_NAMES = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
"""What stock Trainer calls them; it has no Muon, so the guild's is handed to it."""
PROMPT_DATE = "2026-01-31"
WEIGHT_DECAY, MAX_GRAD_NORM = 0.01, 1.0


class Watch:
    """Hooks that keep the end of every step, its loss and tokens, and stop after the share `stop_at` of the file, None for its end."""

    def __init__(self, stop_at: float | None, on_begun: Callable[[], object] = lambda: None) -> None:
        self.stop_at, self.on_begun = stop_at, on_begun
        self.ends: list[float] = []
        self.steps: list[Progress] = []
        self.begins: Begun | None = None
        self.state: dict[str, Any] = {}

    def during(self, work: Busy) -> AbstractContextManager[None]:
        return nullcontext()

    def begun(self, begun: Begun) -> None:
        self.begins = begun
        self.on_begun()
        self.ends.append(time.perf_counter())

    def halt(self) -> Halt | None:
        last = self.steps[-1]
        return "stop" if self.stop_at is not None and last.done == int(last.total * self.stop_at) else None

    def paused(self, saved: SavedCheckpoint) -> Answer:
        return "stop"

    def disk_full(self, error: Exception) -> bool:
        return False

    def progress(self, progress: Progress) -> None:
        self.ends.append(time.perf_counter())
        self.steps.append(progress)

    def measured(self, measured: Measured) -> None:
        pass

    def previewed(self, preview: Preview) -> None:
        pass

    def saved(self, saved: SavedCheckpoint) -> None:
        self.state = live_optimizer()

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.steps]

    @property
    def timing(self) -> tuple[list[float], list[int]]:
        return self.ends, [step.tokens for step in self.steps]


def trainer_config(size: Size, subjects: Subjects, kind: str, device: str, checkpoint: Path | None) -> TrainerConfig:
    """The file under one optimizer at a constant rate; each optimizer has folders of its own."""
    folder = Path(subjects.root) / "runs" / kind
    (folder / "run").mkdir(parents=True, exist_ok=True)
    return TrainerConfig(
        data=Data(subjects.rows, generator="bin"),
        model=ModelSource(str(subjects.model), checkpoint, device=device),
        output=Output(folder / "checkpoints", folder / "status.json", folder / "run"),
        environment=Environment("benchmark", "optimizers", "rows", PROMPT_DATE),
        hyperparams=Hyperparams(
            batch_size=1,
            gradient_accumulation=size.accumulation,
            learning_rate=size.learning_rate,
            warmup_steps=0,
            lr_scheduler="constant",
            max_length=size.max_length,
            max_grad_norm=MAX_GRAD_NORM,
            precision=size.precision,  # type: ignore[arg-type]  # a size's is one of them
            save_steps=0,
            optimizer={"type": kind, "adamw": {"weight_decay": WEIGHT_DECAY}},
        ),
        monitoring=Monitoring(eval_steps=0, preview_every=0, micro_eval_every=0),
        profile="emoji_think",
    )


def guild_run(size: Size, subjects: Subjects, kind: str, device: str) -> dict[str, Any]:
    """The guild's engine: half of the file, a checkpoint, a new engine, the other half."""
    from guild.training.engine import TrainerEngine
    from guild.training.optimizers.optional import missing_packages
    from guild.training.quiet import quiet_libraries

    quiet_libraries()
    memory = MemoryWatch(device)
    first = Watch(0.5)
    config = trainer_config(size, subjects, kind, device, None)
    engine = TrainerEngine(first)
    half = engine.run_job(config)
    row: dict[str, Any] = {"side": "guild", "optimizer": kind}
    if half.outcome == "failed":
        named = bool(missing_packages(kind)) and half.error_type == "LoadError"
        return row | {"outcome": "refused" if named else "failed", "error_type": half.error_type, "message": half.error_message}
    row |= {"peak": memory.read(), "before_bytes": memory.before}
    engine.forget()
    del engine
    memory.reset()
    saved = half.last_checkpoint_path
    assert saved is not None
    second = Watch(None, on_begun=lambda: shutil.rmtree(saved))  # two checkpoints of a large model fill a disk
    engine = TrainerEngine(second)
    rest = engine.run_job(trainer_config(size, subjects, kind, device, saved))
    return row | _told(half, rest, first, second) | {"resumed_peak": memory.read()}


def _told(half: TrainingResult, rest: TrainingResult, first: Watch, second: Watch) -> dict[str, Any]:
    """The two calls as one row of the result."""
    begun, resumed = first.begins, second.begins
    assert begun is not None
    losses = [*first.losses, *second.losses]
    packing = begun.reports["packing"]
    return {
        "outcome": "trained" if rest.success else "failed",
        "message": rest.error_message,
        "optimizer_info": begun.reports["optimizer"],
        "state": first.state,
        "resumed_state": second.state,
        "steps": len(losses),
        "losses": losses,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "validation_loss_first": begun.val_loss,
        "validation_loss_last": rest.summary.get("validation_loss"),
        "windows": packing["windows"],
        "mean_window": packing["tokens"] / packing["windows"],
        "resume": {
            "stopped_at": half.global_step,
            "began_at": None if resumed is None else resumed.start_step,
            "first_step": second.steps[0].step if second.steps else None,
            "last_step": rest.global_step,
            "total_steps": begun.total,
            "note": "" if resumed is None else resumed.reports["optimizer"]["note"],
        },
        **rates([first.timing, second.timing]),
    }


def stock_run(size: Size, subjects: Subjects, kind: str, device: str) -> dict[str, Any]:
    """Stock Trainer with its own optimizer of that name, over the same windows, without a break."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from guild.training.quiet import quiet_libraries

    quiet_libraries()
    memory = MemoryWatch(device)
    windows, collate = same_windows(size, subjects, kind, device)
    dtype = torch.bfloat16 if size.precision == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(subjects.model, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    ends: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    arguments = TrainingArguments(
        output_dir=str(Path(subjects.root) / "runs" / "stock"),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=size.accumulation,
        train_sampling_strategy="sequential",
        learning_rate=size.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        **({"optim": STOCK_NAMES[kind]} if kind in STOCK_NAMES else {}),
        gradient_checkpointing=False,
        bf16=size.precision == "bf16_mixed",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        remove_unused_columns=False,
        logging_strategy="steps",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=windows,
        data_collator=collate,
        optimizers=(_muon(model.to(device)) if kind not in STOCK_NAMES else None, None),
        callbacks=[Clock()],
    )
    row: dict[str, Any] = {"side": "stock Trainer", "optimizer": kind, "before_bytes": memory.before}
    try:
        trainer.train()
    except (RuntimeError, MemoryError) as error:  # torch's OutOfMemoryError is a RuntimeError
        if "out of memory" not in str(error).lower():
            raise
        return row | {"outcome": "failed", "error_type": "out_of_memory", "message": str(error).splitlines()[0]}
    padded = [-(-sum(window.pieces) // collate.multiple) * collate.multiple for window in windows.windows]
    tokens = [sum(padded[at : at + size.accumulation]) for at in range(0, len(padded), size.accumulation)]
    return row | {
        "outcome": "trained",
        "state": live_optimizer(),
        "steps": len(losses),
        "losses": losses,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "windows": len(windows),
        "mean_window": windows.tokens / len(windows),
        "peak": memory.read(),
        **rates([(ends, tokens)]),
    }


def same_windows(size: Size, subjects: Subjects, kind: str, device: str) -> tuple[Any, Any]:
    """The windows that the engine cuts the file into, by the same steps, and their collator."""
    from guild.training.chat_template import apply_template, marks_of
    from guild.training.collator import Collator
    from guild.training.encoding import encode_rows
    from guild.training.packing import training_windows
    from guild.training.preparation import DatasetPreparer
    from guild.training.profiles import get_profile
    from modelwright.loading import load_tokenizer, resolve_model

    config = trainer_config(size, subjects, kind, device, None)
    tokenizer = load_tokenizer(resolve_model(str(subjects.model)))
    profile = get_profile(config.profile)
    apply_template(tokenizer, profile)
    prepared = DatasetPreparer(profile, date.fromisoformat(PROMPT_DATE), seed=config.hyperparams.seed).prepare(subjects.rows)
    encoded = encode_rows(prepared.training, tokenizer, marks=marks_of(tokenizer), max_length=size.max_length)
    pad = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    return training_windows(encoded.documents, size.max_length, pad_id=pad, seed=config.hyperparams.seed), Collator(pad)


def _muon(model: Any) -> Any:
    from guild.training.optimizers.factory import build_optimizer
    from guild.training.optimizers.settings import optimizer_settings

    return build_optimizer(model, optimizer_settings({"type": "muon"}))[0]
