"""How much a training file helped, as one number from -1 to 1. (specs/guild.md 2.9)

    score = (0.5·(−Δloss) + 0.3·Δaccuracy + 0.2·(−Δval)) / (sum of the weights of the terms that are known)

Δaccuracy is a difference of shares. Losses have no common scale, so each Δ of a loss is taken relative to the larger of the two values:
(after − before) / max(before, after), which lies between -1 and 1, is -0.5 when a loss halves and +0.5 when it doubles. A term that was
not measured is left out and the others keep their proportions, so that scores with and without an evaluation can be compared; with no
term known there is no score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Classification = Literal["positive", "negative", "neutral"]
LOSS_WEIGHT, ACCURACY_WEIGHT, VALIDATION_WEIGHT = -0.5, 0.3, -0.2
NEUTRAL = 0.01
"""Scores within ±0.01 are neutral."""


@dataclass(frozen=True)
class Measurement:
    """What is known at one end of a file; None is not measured. loss, val_loss: nats per trained token. accuracy: a share."""

    loss: float | None = None
    accuracy: float | None = None
    val_loss: float | None = None


@dataclass(frozen=True)
class Score:
    """value: from -1 to 1, None when nothing was measured at both ends. terms: the names of those that count."""

    value: float | None
    terms: tuple[str, ...]

    @property
    def classification(self) -> Classification | None:
        """None for no score: unknown is not neutral."""
        return None if self.value is None else classify(self.value)


def impact_score(before: Measurement, after: Measurement) -> Score:
    """The score of what lies between two measurements."""
    parts = {
        "loss": (LOSS_WEIGHT, relative_change(before.loss, after.loss)),
        "accuracy": (ACCURACY_WEIGHT, delta(before.accuracy, after.accuracy)),
        "val_loss": (VALIDATION_WEIGHT, relative_change(before.val_loss, after.val_loss)),
    }
    known = {name: (weight, change) for name, (weight, change) in parts.items() if change is not None}
    if not known:
        return Score(None, ())
    total = sum(abs(weight) for weight, _ in known.values())
    return Score(sum(weight * change for weight, change in known.values()) / total, tuple(known))


def classify(score: float) -> Classification:
    """positive above 0.01, negative below -0.01."""
    if score > NEUTRAL:
        return "positive"
    return "negative" if score < -NEUTRAL else "neutral"


def delta(before: float | None, after: float | None) -> float | None:
    """after − before; None when either is unknown or no number."""
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return None
    return after - before


def relative_change(before: float | None, after: float | None) -> float | None:
    """(after − before) / max(before, after) of two losses, which are 0 or more; 0 when both are 0."""
    change = delta(before, after)
    if change is None or before is None or after is None:
        return None
    larger = max(abs(before), abs(after))
    return change / larger if larger else 0.0
