"""NTK-aware scaling (`ntk`): a larger base, b' = b s^(d/(d-2)) (Peng et al. 2024, arXiv 2309.00071, section 3.1).

The highest frequency keeps its speed and the lowest is divided by exactly s, so it works to a degree without
fine-tuning. What it really reaches lies below s: the option `factor` sets s above L'/L. transformers has no static NTK
type; the plain type with the new base is the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelwright.errors import Fault
from scaler_wizard.context_methods.base import RopeMethod, Stretch
from scaler_wizard.context_methods.rope import frequencies, ntk_base
from scaler_wizard.context_methods.validation import is_number


@dataclass(frozen=True)
class NtkOptions:
    """`factor`: the s of the formula, L'/L when None."""

    factor: float | None = None

    def faults(self) -> list[Fault]:
        if self.factor is None or (is_number(self.factor) and self.factor >= 1):
            return []
        return [
            Fault(
                "method_params.factor",
                repr(self.factor),
                "a number of at least 1",
                "leave it out to use target / original",
            )
        ]


def scaled_base(stretch: Stretch) -> float:
    """b' of this extension."""
    s = stretch.factor if stretch.options.factor is None else float(stretch.options.factor)
    return ntk_base(stretch.settings.theta, s, stretch.settings.dimensions)


def realise(stretch: Stretch) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": scaled_base(stretch)}


def reference(stretch: Stretch, seq_len: int | None) -> tuple[list[float], float]:
    return frequencies(stretch.settings.dimensions, scaled_base(stretch)), 1.0


METHOD = RopeMethod("ntk", NtkOptions, realise, reference, needs_finetune=False)
