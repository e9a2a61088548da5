"""The ways in which the file is trained: through the guild, by its engine alone, by stock `transformers.Trainer`.

All of them start from the same weights, read the same windows in the same order, and use the same optimizer and schedule with the same
numbers, so that the same weights must come out.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.guild_common.houses import SCHEMA, make_house
from benchmarks.guild_overhead.steps import Block, HookTime, StepProbe

from guild.campaigns.effective_config import start_config
from guild.campaigns.pointer import require_active
from guild.queue.add import add_file
from guild.queue.marks import take
from guild.records.database import open_guild
from guild.trainer.job import Desk, train_one
from guild.training.engine import TrainerEngine
from guild.training.interface import Answer, Halt, Monitoring, Output, Progress, SavedCheckpoint, TrainerConfig, TrainingResult
from modelwright.clock import SYSTEM_CLOCK
from modelwright.control import signals_as_requests
from modelwright.files import make_folder
from modelwright.identity import current_identity


@dataclass(frozen=True)
class Work:
    """What is trained. rows: the file. model: fields of the hero's model. overrides: settings of the campaign."""

    rows: Path
    model: Mapping[str, Any]
    overrides: Mapping[str, Any]


# --- (a) through the guild


class TimedHooks:
    """The guild's hooks, with the time that the two of every step take."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.time = inner, HookTime()

    def progress(self, progress: Progress) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self._inner.progress(progress)
        self.time.wall.append(time.perf_counter() - wall)
        self.time.cpu.append(time.process_time() - cpu)

    def halt(self) -> Halt | None:
        wall, cpu = time.perf_counter(), time.process_time()
        answer: Halt | None = self._inner.halt()
        self.time.wall[-1] += time.perf_counter() - wall
        self.time.cpu[-1] += time.process_time() - cpu
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TimedEngine(TrainerEngine):
    """The guild's engine; keeps what it was told, what it answered, and the time of the hooks."""

    config: TrainerConfig
    result: TrainingResult
    time: HookTime

    def run_job(self, config: TrainerConfig) -> TrainingResult:
        timed = TimedHooks(self.hooks)
        self.hooks = timed
        self.config, self.time = config, timed.time
        self.result = super().run_job(config)
        return self.result


def through_the_guild(work: Work, root: Path) -> tuple[Block, TrainerConfig]:
    """As the trainer process does with a file of the queue, all settings of looking and telling at their defaults; the daemon is off.

    A house of its own each time, so that nothing grows. Returns also what the engine was told, for the other ways.
    """
    places = make_house(root / "house", model=work.model, overrides=work.overrides)
    folder = require_active(places)
    effective = start_config(places, folder)
    me = current_identity()
    with open_guild(places) as db, signals_as_requests() as signals:
        add_file(db, places, work.rows, copy=True, schema=SCHEMA)
        taken = take(db, places, me)
        assert taken is not None
        engine = TimedEngine()
        with StepProbe() as probe:
            begin = time.perf_counter()
            train_one(Desk(db, places, me, signals, SYSTEM_CLOCK, 0), engine, folder, effective, taken)
            total = time.perf_counter() - begin
        engine.forget()
    config = replace(engine.config, data=replace(engine.config.data, path=work.rows))  # its copy in the queue was moved on
    return Block(probe.wall, probe.cpu, total, _saved_weights(engine.result), engine.time), config


# --- (b) the engine alone


class NoHooks:
    """Hears nothing, asks for nothing."""

    def begun(self, begun: object) -> None: ...

    def during(self, work: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def halt(self) -> Halt | None:
        return None

    def paused(self, saved: SavedCheckpoint) -> Answer:
        return "stop"

    def disk_full(self, error: Exception) -> bool:
        return False

    def progress(self, progress: Progress) -> None: ...

    def measured(self, measured: object) -> None: ...

    def previewed(self, preview: object) -> None: ...

    def saved(self, saved: SavedCheckpoint) -> None: ...


def engine_alone(config: TrainerConfig, root: Path) -> Block:
    """`TrainerEngine.run_job` without any of the guild's hooks and without looks at held-out rows."""
    output = Output(root / "checkpoints", root / "status.json", make_folder(root / "run"))
    quiet = replace(
        config,
        output=output,
        monitoring=Monitoring(0, 0, 0, 0),
        hyperparams=replace(config.hyperparams, save_steps=0),
    )
    engine = TrainerEngine(NoHooks())
    with StepProbe() as probe:
        begin = time.perf_counter()
        result = engine.run_job(quiet)
        total = time.perf_counter() - begin
    engine.forget()
    return Block(probe.wall, probe.cpu, total, _saved_weights(result))


# --- (c) stock Trainer


def stock_trainer(config: TrainerConfig, root: Path, *, logging_steps: int) -> Block:
    """`transformers.Trainer` by hand: its own loop, clipping and bookkeeping, no saving, no evaluation, no bar.

    logging_steps: 500 is the library's default, 1 tells every step, as the guild does.
    """
    from transformers import Trainer, TrainingArguments

    from guild.training.file_data import load_file
    from guild.training.model_session import close_session, open_session

    hyper = config.hyperparams
    if hyper.gradient_checkpointing or hyper.precision == "bf16_mixed" or config.model.device != "cpu":
        raise ValueError("the benchmark compares plain trainings on the processor")
    with StepProbe() as probe, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        begin = time.perf_counter()
        session = open_session(config)
        data = load_file(config, session)
        arguments = TrainingArguments(
            output_dir=str(root),
            num_train_epochs=1,
            per_device_train_batch_size=hyper.batch_size,
            gradient_accumulation_steps=hyper.gradient_accumulation,
            learning_rate=hyper.learning_rate,
            max_grad_norm=hyper.max_grad_norm,
            train_sampling_strategy="sequential",
            logging_steps=logging_steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=True,
            seed=hyper.seed,
        )
        trainer = Trainer(
            model=session.model,
            args=arguments,
            train_dataset=data.training,
            data_collator=data.collate,
            optimizers=(session.optimizer, session.scheduler),
        )
        trainer.train()
        total = time.perf_counter() - begin
    weights = {name: tensor.detach().clone() for name, tensor in session.model.state_dict().items()}
    close_session(session)
    return Block(probe.wall, probe.cpu, total, weights)


WAYS: dict[str, Callable[[TrainerConfig, Path], Block]] = {
    "engine": engine_alone,
    "stock": lambda config, root: stock_trainer(config, root, logging_steps=500),
    "stock, every step logged": lambda config, root: stock_trainer(config, root, logging_steps=1),
}
"""Beside the guild: name → how it trains."""


def _saved_weights(result: TrainingResult) -> dict[str, Any]:
    from safetensors.torch import load_file

    if not result.success or result.last_checkpoint_path is None:
        raise RuntimeError(f"the training failed: {result.error_message}")
    return dict(load_file(result.last_checkpoint_path / "model.safetensors"))
