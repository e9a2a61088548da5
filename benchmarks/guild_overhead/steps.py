"""The time of optimizer steps, taken the same way whoever trains, and what is made of it.

A step is what lies between the end of one `optimizer.step()` and the end of the next: callbacks, hooks, logging and data of a step, and
its arithmetic. torch itself calls the probe, so no trainer knows of it.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

SKIPPED = 5
"""Steps at the start of a block that are left out."""
RESAMPLES = 2000


class StepProbe:
    """Within the block, notes the moment at which every optimizer step of this process ends: wall clock and processor time, seconds."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def __enter__(self) -> StepProbe:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._handle = register_optimizer_step_post_hook(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _note(self, optimizer: Any, positional: Any, named: Any) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


@dataclass(frozen=True)
class HookTime:
    """Seconds that the hooks of each step took, by the wall clock and of the processor; the first entry is behind step 1."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """One training of the file in one way. wall, cpu: the moments of its steps' ends. total_s: of the whole call. weights: what came out,
    by name. hooks: for the guild alone."""

    wall: list[float]
    cpu: list[float]
    total_s: float
    weights: dict[str, Any]
    hooks: HookTime = HookTime()

    @property
    def steps(self) -> int:
        return len(self.wall)


def kept(steps: int, looks: Collection[int], skipped: int = SKIPPED) -> list[int]:
    """Which steps are compared, the same in every way: i stands for what lies between the ends of steps i and i + 1 (from 1).

    Left out are the first ones, and behind every step at which the guild evaluates or saves that very interval and the next one, whose
    caches were just used for something else. looks: intervals in steps at which that happens, 0 for never.
    """
    every = [often for often in looks if often]
    return [step for step in range(skipped + 1, steps) if not any(at % often == 0 for often in every for at in (step, step - 1))]


def durations(moments: Sequence[float], steps: Iterable[int]) -> list[float]:
    """Seconds of the given steps."""
    spans = [after - before for before, after in pairwise(moments)]
    return [spans[step - 1] for step in steps]


def look_seconds(block: Block, steps: Sequence[int], looks: Collection[int]) -> float | None:
    """What one stop for evaluation or saving takes beyond a step, mean over the block; None when there was none."""
    plain = statistics.mean(durations(block.wall, steps))
    stops = [step for step in range(SKIPPED + 1, block.steps) if any(often and step % often == 0 for often in looks)]
    return statistics.mean(durations(block.wall, stops)) - plain if stops else None


@dataclass(frozen=True)
class Ratio:
    """How much more one way takes than another, percent: the median over rounds of the ratio within a round, and its 95 % interval
    (rounds resampled)."""

    percent: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"percent": round(self.percent, 3), "low": round(self.low, 3), "high": round(self.high, 3)}


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Paired by round."""
    percents = [100 * (one / other - 1) for one, other in zip(ours, theirs, strict=True)]
    draw = random.Random("guild_overhead")
    medians = sorted(statistics.median(draw.choices(percents, k=len(percents))) for _ in range(RESAMPLES))
    return Ratio(statistics.median(percents), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1])


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How far two sets of weights of the same names lie apart: norm of the difference over the norm."""
    squares = norm = 0.0
    for name, tensor in one.items():
        squares += float(((tensor.double() - other[name].double()) ** 2).sum())
        norm += float((tensor.double() ** 2).sum())
    return float((squares / norm) ** 0.5)
