"""Position interpolation (`linear`): every frequency divided by s = L'/L (Chen et al. 2023, arXiv 2306.15595).

Needs fine-tuning: neighbouring tokens end up closer together than the model has ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelwright.errors import Fault
from scaler_wizard.context_methods.base import RopeMethod, Stretch
from scaler_wizard.context_methods.rope import frequencies, linear_frequencies


@dataclass(frozen=True)
class LinearOptions:
    """`linear` has no options: its factor is L'/L."""

    def faults(self) -> list[Fault]:
        return []


def realise(stretch: Stretch) -> dict[str, Any]:
    return {"rope_type": "linear", "rope_theta": stretch.settings.theta, "factor": stretch.factor}


def reference(stretch: Stretch, seq_len: int | None) -> tuple[list[float], float]:
    thetas = frequencies(stretch.settings.dimensions, stretch.settings.theta)
    return linear_frequencies(thetas, stretch.factor), 1.0


METHOD = RopeMethod("linear", LinearOptions, realise, reference)
