"""Paired bootstrap intervals, over examples within a run and over seeds between runs. Needs numpy, no torch.

Percentile intervals of 20,000 resamples (Efron and Tibshirani 1993, chapter 13), seeded, so equal input gives equal
intervals. Everything that is compared is resampled with the same draws; that is what makes it paired. [C25]
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from modelwright.errors import UsageError

RESAMPLES = 20_000
PERCENTILES = (2.5, 97.5)
_CHUNK = 2_000_000  # drawn numbers held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile interval. n: examples, items or seeds that were resampled."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def above_zero(self) -> bool:
        """Whether the whole interval is positive."""
        return self.low > 0

    def as_dict(self) -> dict[str, Any]:
        """The interval as JSON values; what is not finite is null."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def stream_seed(seed: int, name: str) -> tuple[int, int]:
    """A seed for numpy of the run's seed and the name of what is resampled (a task), equal in every process."""
    return seed, zlib.crc32(name.encode())


def resampled_ratios(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int | Sequence[int], resamples: int = RESAMPLES
) -> np.ndarray:
    """Ratio of sums, `sum numerator / sum denominator`, of every column in every resample of the rows: `[R, k]` float64.

    numerators, denominators: `[n, k]`, one row per example (or item), one column per quantity. A plain mean has ones below.
    All columns see the same resamples. Raises UsageError for fewer than one row or unequal shapes.
    """
    numerators, denominators = np.asarray(numerators, float), np.asarray(denominators, float)
    if numerators.ndim != 2 or numerators.shape != denominators.shape or not len(numerators):
        raise UsageError(f"Resampling needs two equal tables of at least one row; found {numerators.shape} and {denominators.shape}.")
    rng, n = np.random.default_rng(seed), len(numerators)
    size = max(1, min(resamples, _CHUNK // n))
    parts = []
    for first in range(0, resamples, size):
        rows = min(size, resamples - first)
        drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)
        parts.append((counts @ numerators) / (counts @ denominators))
    return np.concatenate(parts)


def interval(estimate: float, samples: np.ndarray, n: int) -> Interval:
    """The percentiles 2.5 and 97.5 of `samples` `[R]` beside `estimate`; infinite where a sample is not a number."""
    if np.isnan(samples).any() or math.isnan(estimate):
        return Interval(estimate, -math.inf, math.inf, n)
    low, high = np.percentile(samples, PERCENTILES)
    return Interval(float(estimate), float(low), float(high), n)


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], *, seed: int | Sequence[int] = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean of `ours - theirs` over the same examples. Raises UsageError for unequal or empty sequences."""
    if len(ours) != len(theirs) or not ours:
        raise UsageError(f"A paired comparison needs equally many values on both sides; found {len(ours)} and {len(theirs)}.")
    differences = (np.asarray(ours, float) - np.asarray(theirs, float))[:, None]
    samples = resampled_ratios(differences, np.ones_like(differences), seed=seed, resamples=resamples)[:, 0]
    return interval(float(differences.mean()), samples, len(differences))


@dataclass(frozen=True)
class SeedComparison:
    """A quantity of two kinds of run over the seeds that both have.

    effect: mean of ours - theirs with its interval. sd: sample standard deviation of the differences, None for one seed.
    differences: by seed.
    """

    effect: Interval
    sd: float | None
    differences: Mapping[int, float]

    def as_dict(self) -> dict[str, Any]:
        differences = {str(seed): value for seed, value in self.differences.items()}
        return {"effect": self.effect.as_dict(), "sd": self.sd, "differences": differences}


def compare_seeds(ours: Mapping[int, float], theirs: Mapping[int, float], *, seed: int = 0, resamples: int = RESAMPLES) -> SeedComparison:
    """Pair two sets of runs by seed and resample the seeds.

    Raises UsageError when the seeds differ, naming those without a partner, or when there is none.
    """
    lonely = sorted(set(ours) ^ set(theirs))
    if lonely or not ours:
        named = ", ".join(map(str, lonely)) or "none at all"
        raise UsageError(f"Runs are compared seed by seed, and there is no pair for: {named}. Run both kinds with every seed.")
    seeds = sorted(ours)
    effect = paired_difference([ours[one] for one in seeds], [theirs[one] for one in seeds], seed=seed, resamples=resamples)
    differences = {one: ours[one] - theirs[one] for one in seeds}
    sd = float(np.std(list(differences.values()), ddof=1)) if len(seeds) > 1 else None
    return SeedComparison(effect, sd, differences)
