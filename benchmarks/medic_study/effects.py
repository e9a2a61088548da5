"""Paired effects over seeds and examples: what one defence gains on another, with an interval. Needs numpy, no torch.

Every run of the study scores the same test examples, so a gain is a table of one number per seed and example. Both are
resampled, seeds and examples each with their own draws (a two-way bootstrap, after Owen 2007), which is wider than
resampling either alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cachemedicpp.evaluation.bootstrap import Interval, interval
from modelwright.errors import UsageError

RESAMPLES = 10_000
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Scores:
    """One defence in one cell of one run: sums per item `[items]`.

    above: right answers, or for a perplexity the loss in nats with its sign turned, so that more is better. below: answers
    or tokens.
    """

    above: np.ndarray
    below: np.ndarray


@dataclass(frozen=True)
class Effect:
    """A gain over a rival: per token in nats, or a share of answers. n_seeds, n_items: what was resampled."""

    gain: Interval
    n_seeds: int
    n_items: int

    @property
    def verdict(self) -> Verdict:
        """`better` or `worse` when the whole 95 % interval lies on one side of 0."""
        return "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "undecided"

    def as_dict(self) -> dict[str, Any]:
        """The effect as JSON values."""
        return {**self.gain.as_dict(), "n_items": self.n_items, "n_seeds": self.n_seeds, "verdict": self.verdict}


def difference(ours: Sequence[Scores], theirs: Sequence[Scores]) -> tuple[np.ndarray, np.ndarray]:
    """Gain and weight per seed and item, both `[seeds, items]`. Raises UsageError when the two scored other examples."""
    if len(ours) != len(theirs) or not ours:
        raise UsageError(f"A paired comparison needs equally many runs on both sides; found {len(ours)} and {len(theirs)}.")
    below = np.stack([scores.below for scores in ours])
    others = np.stack([scores.below for scores in theirs])
    if below.shape != others.shape or not np.array_equal(below, others) or not np.array_equal(below, below[:1].repeat(len(below), 0)):
        raise UsageError("The runs scored different examples, so they cannot be compared in pairs; evaluate all with one configuration.")
    return np.stack([a.above - b.above for a, b in zip(ours, theirs, strict=True)]), below


def mean_effect(tables: Sequence[tuple[np.ndarray, np.ndarray]], seed: int = 0, resamples: int = RESAMPLES) -> Effect:
    """The mean gain over several cells of one task, `tables` from `difference`. Raises UsageError for none."""
    if not tables:
        raise UsageError("A mean over cells needs at least one cell.")
    gains, weights = np.mean([gain for gain, _ in tables], axis=0), tables[0][1]
    seeds, items = gains.shape
    rng = np.random.default_rng(seed)
    seed_counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(float)
    item_counts = rng.multinomial(items, np.full(items, 1 / items), size=resamples).astype(float)
    above = np.einsum("ri,ri->r", seed_counts @ gains, item_counts)
    below = np.einsum("ri,ri->r", seed_counts @ weights, item_counts)
    return Effect(interval(float(gains.sum() / weights.sum()), above / below, seeds * items), seeds, items)
