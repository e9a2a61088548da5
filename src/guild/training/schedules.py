"""The learning rate over a campaign, as arithmetic. (specs/guild.md 2.2.2)

A campaign has no end, and its step counter never restarts, so a schedule is over the campaign's optimizer steps: warm-up once, then down
to a floor that it keeps. Were it stretched over each file anew, the rate would jump at every seam; were it to end at zero, training would
stop in silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from guild.errors import UnknownNameError
from modelwright.errors import ConfigError, Fault

Kind = Literal["cosine", "linear", "constant"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FLOOR = 0.1


class UnknownSchedulerError(UnknownNameError):
    """No learning-rate schedule of that name."""

    kind = "lr_scheduler"


@dataclass(frozen=True)
class Schedule:
    """kind: how the rate falls. warmup_steps: optimizer steps over which it rises in equal parts, the first of them above 0.
    schedule_steps: the step of the campaign at which it has reached `floor`, a share of the full rate; `constant` never falls."""

    kind: Kind = "cosine"
    warmup_steps: int = 100
    schedule_steps: int = 10_000
    floor: float = FLOOR

    def factor(self, step: int) -> float:
        """Share of the full learning rate for the optimizer step that follows `step` steps of the campaign."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return 1.0
        way = min(1.0, (step - self.warmup_steps) / max(1, self.schedule_steps - self.warmup_steps))
        falling = 1 - way if self.kind == "linear" else 0.5 * (1 + math.cos(math.pi * way))
        return self.floor + (1 - self.floor) * falling


def schedule_of(kind: str, warmup_steps: int, schedule_steps: int, floor: float = FLOOR) -> Schedule:
    """A checked schedule. Raises UnknownSchedulerError, ConfigError with every number that cannot be."""
    known = next((name for name in KINDS if name == kind), None)
    if known is None:
        raise UnknownSchedulerError(kind, KINDS)
    numbers = (("warmup_steps", warmup_steps), ("schedule_steps", schedule_steps))
    faults = [Fault(name, str(value), "0 or more optimizer steps") for name, value in numbers if value < 0]
    if not 0 <= floor <= 1:
        faults.append(Fault("floor", str(floor), "a share of the learning rate from 0 to 1"))
    if faults:
        raise ConfigError(faults)
    return Schedule(known, warmup_steps, schedule_steps, floor)
