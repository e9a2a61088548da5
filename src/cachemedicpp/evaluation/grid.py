"""The evaluation grid: which units there are, in which order, and what each is called. (specs/medic.md, 6.2) Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cachemedicpp.faults.events import NO_EVENT
from cachemedicpp.repair.spec import HEURISTICS

NO_DEFENCE, REPAIR = "no_defense", "cachemedic"
DEFENCES = (NO_DEFENCE, *HEURISTICS, REPAIR)
"""In the order of the grid."""

Stage = Literal["clean", "corr"]


@dataclass(frozen=True)
class Unit:
    """One unit of the evaluation: a task under one defence, clean or with one corruption at one epsilon."""

    stage: Stage
    task: str
    defence: str
    corruption_type: str
    epsilon: float

    @property
    def key(self) -> str:
        """`stage|task|defense|type|eps`, epsilon with 12 significant digits. What progress files are resumed by."""
        return f"{self.stage}|{self.task}|{self.defence}|{self.corruption_type}|{self.epsilon:.12g}"


def grid_units(tasks: Sequence[str], types: Sequence[str], eps: Sequence[float]) -> list[Unit]:
    """All units, `tasks * 6 * (1 + types * eps)`: per task the clean cells, then types, epsilons, defences (innermost)."""
    units = []
    for task in tasks:
        units += [Unit("clean", task, defence, NO_EVENT, 0.0) for defence in DEFENCES]
        units += [Unit("corr", task, defence, kind, float(value)) for kind in types for value in eps for defence in DEFENCES]
    return units
