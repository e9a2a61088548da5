"""Is a quantised cache with a repair better than a plain one with as many bytes? Arithmetic on measured rows; needs no torch.

Quality is the KL divergence from the clean cache in nats, by text, and by seed where an operator was trained. Its logarithm falls
about linearly with the bits, so between two measured widths it is interpolated linearly, text by text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from cachemedicpp.evaluation.bootstrap import Interval, interval
from modelwright.errors import UsageError

RESAMPLES = 10_000
FLOOR = 1e-12
"""Nats below which a divergence counts as this; its logarithm is taken."""
TIME_SLACK = 1.15
"""A step that takes at most so many times as long counts as no slower: settings are timed one after the other, and that is the spread."""
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Point:
    """A plain setting. bits: for a cached number. kl: nats by text. ms: of a decode step. chosen_by: mean nats on validation text."""

    name: str
    bits: float
    kl: Sequence[float]
    ms: float
    chosen_by: float


@dataclass(frozen=True)
class Rival:
    """What a repair is compared with. how: `interpolated`, `measured` or `nearest`, the latter where no wider setting was measured."""

    name: str
    how: Literal["interpolated", "measured", "nearest"]
    bits: float
    kl: tuple[float, ...]


def at_bytes(curve: Sequence[Point], bits: float) -> Rival:
    """The plain method of `curve` at `bits` for a cached number.

    Beyond the measured widths the nearest one stands for it and keeps its own bits. Raises UsageError for an empty curve.
    """
    if not curve:
        raise UsageError("A comparison at equal bytes needs at least one plain setting; found none. Measure the plain settings first.")
    ordered = sorted(curve, key=lambda point: point.bits)
    for point in ordered:
        if abs(point.bits - bits) < 1e-9:
            return Rival(point.name, "measured", point.bits, tuple(point.kl))
    if bits < ordered[0].bits or bits > ordered[-1].bits:
        edge = ordered[0] if bits < ordered[0].bits else ordered[-1]
        return Rival(edge.name, "nearest", edge.bits, tuple(edge.kl))
    above = next(place for place, point in enumerate(ordered) if point.bits > bits)
    low, high = ordered[above - 1], ordered[above]
    share = (bits - low.bits) / (high.bits - low.bits)
    first, second = (np.log(np.maximum(np.asarray(point.kl, float), FLOOR)) for point in (low, high))
    kl = np.exp((1 - share) * first + share * second)
    return Rival(f"between {low.name} and {high.name}", "interpolated", bits, tuple(kl.tolist()))


def best_within(points: Sequence[Point], bits: float, ms: float) -> Rival | None:
    """The plain setting of any method that needs at most `bits` and `ms` and is best on validation text; None when none does.

    ms: of a decode step; see TIME_SLACK.
    """
    fitting = [point for point in points if point.bits <= bits + 1e-9 and point.ms <= TIME_SLACK * ms]
    if not fitting:
        return None
    best = min(fitting, key=lambda point: point.chosen_by)
    return Rival(best.name, "measured", best.bits, tuple(best.kl))


def crossed_interval(values: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of `values` (seeds by texts) with a 95 % percentile interval; seeds and texts are resampled, each on its own.

    One seed: over texts alone. n: texts. Raises UsageError for rows of unequal length or none.
    """
    if not values or not len(values[0]) or len({len(row) for row in values}) != 1:
        raise UsageError(f"Seeds need the same texts, at least one; found rows of {sorted({len(row) for row in values})} texts.")
    table = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    rows, columns = table.shape
    by_row = rng.multinomial(rows, np.full(rows, 1 / rows), size=resamples)  # [R, seeds], how often each is drawn
    by_column = rng.multinomial(columns, np.full(columns, 1 / columns), size=resamples)
    samples = ((by_row @ table) * by_column).sum(axis=1) / (rows * columns)
    return interval(float(table.mean()), samples, columns)


def verdict(difference: Interval) -> Verdict:
    """What an interval of `KL with repair - KL of the rival` says about the repair."""
    if difference.high < 0:
        return "better"
    return "worse" if difference.low > 0 else "undecided"


def against(repaired: Sequence[Sequence[float]], rival: Rival) -> dict[str, Any]:
    """`repaired` (nats, seeds by texts) beside its rival: difference with interval, ratio of the means, verdict."""
    difference = crossed_interval([[own - other for own, other in zip(row, rival.kl, strict=True)] for row in repaired])
    mean = float(np.mean(rival.kl))
    return {
        "rival": rival.name,
        "how": rival.how,
        "rival_bits_per_value": round(rival.bits, 3),
        "rival_kl": mean,
        "difference": difference.as_dict(),
        "ratio": float(np.mean(repaired)) / mean if mean > 0 else None,
        "verdict": verdict(difference),
    }


def comparisons(
    repaired: Sequence[Sequence[float]],
    own: Point,
    extra_bits: float,
    ms: dict[str, float],
    curve: Sequence[Point],
    points: Sequence[Point],
) -> list[dict[str, Any]]:
    """Every comparison of one repaired setting.

    own: the same setting without repair. extra_bits: of kept terms. ms: of a decode step by placement. curve: the method's plain
    settings; points: those of all methods. `same method`: at equal bytes. `any method`: at equal bytes and equal latency.
    """
    found = []
    rivals = [*points, replace(own, ms=0.0)]  # without its repair it cannot be slower, whatever the clock said
    for placement, bits in (("recomputed", own.bits), ("kept", own.bits + extra_bits)):
        row = {"placement": placement, "bits_per_value": round(bits, 3), "ms": ms[placement]}
        found.append({**row, "against": "same method", **against(repaired, at_bytes(curve, bits))})
        best = best_within(rivals, bits, ms[placement])
        if best is not None:
            found.append({**row, "against": "any method", **against(repaired, best)})
    return found
