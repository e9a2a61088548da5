"""Small training files, settings and a listener for the guild's training engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
)  # fmt: skip
from guild.training.preview import Preview

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def write_rows(path: Path, count: int = 48, *, first: int = 0) -> Path:
    """Chat rows that name their schema: the number after a number."""
    rows = []
    for i in range(first, first + count):
        asked, wanted = NUMBERS[i % 10], NUMBERS[(i + 1) % 10]
        rows.append({"schema_id": "chat_sft_v1", "messages": [
            {"role": "user", "content": f"Round {i // 10}: which number follows {asked}?"},
            {"role": "assistant", "content": f"After {asked} comes {wanted}, and that is the whole answer to it."},
        ]})  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trainer_config(
    folder: Path, data: Path, *, job: str = "1", checkpoint: Path | None = None, model: str = "modelwright/tiny-0.4m", **hyper: Any
) -> TrainerConfig:
    """Settings under which 48 rows are some ten steps on a processor."""
    settings = Hyperparams(**{
        "batch_size": 1, "gradient_accumulation": 2, "learning_rate": 1e-3, "warmup_steps": 2, "schedule_steps": 100, "max_length": 256,
        "precision": "fp32", "save_steps": 0, **hyper,
    })  # fmt: skip
    (folder / "run").mkdir(parents=True, exist_ok=True)
    return TrainerConfig(
        data=Data(data),
        model=ModelSource(model, checkpoint),
        output=Output(folder / "checkpoints", folder / "status.json", folder / "run"),
        environment=Environment("tiny", "campaign-001", job, "2026-01-31"),
        hyperparams=settings,
        monitoring=Monitoring(),
        profile="none",
    )


def at(config: TrainerConfig, checkpoint: Path | None) -> TrainerConfig:
    """The same settings going on from a checkpoint."""
    return replace(config, model=replace(config.model, checkpoint=checkpoint))


@dataclass
class Listener:
    """Writes down what it is told; asks to halt by `when(progress)`; answers a pause by `answer`."""

    when: Callable[[Progress], Halt | None] = lambda progress: None
    answer: Answer = "resume"
    more_disk: bool = False
    steps: list[Progress] = field(default_factory=list)
    checkpoints: list[SavedCheckpoint] = field(default_factory=list)
    begins: list[Begun] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    measurements: list[Measured] = field(default_factory=list)
    busy: list[Busy] = field(default_factory=list)

    @contextmanager
    def during(self, work: Busy) -> Iterator[None]:
        self.busy.append(work)
        yield

    def begun(self, begun: Begun) -> None:
        self.begins.append(begun)

    def halt(self) -> Halt | None:
        return self.when(self.steps[-1])

    def paused(self, saved: SavedCheckpoint) -> Answer:
        return self.answer

    def disk_full(self, error: Exception) -> bool:
        self.full.append(str(error))
        return self.more_disk

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress)

    def measured(self, measured: Measured) -> None:
        self.measurements.append(measured)

    def previewed(self, preview: Preview) -> None:
        self.previews.append(preview)

    def saved(self, saved: SavedCheckpoint) -> None:
        self.checkpoints.append(saved)


def losses(listener: Listener) -> list[tuple[int, float]]:
    """Step and loss of every step, in order."""
    return [(progress.step, progress.loss) for progress in listener.steps]
