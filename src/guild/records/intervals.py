"""Confidence intervals of a share of right answers. (specs/guild.md 6.3; Wilson 1927, score interval without continuity correction)"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """`low` and `high` are shares from 0 to 1."""

    low: float
    high: float


def wilson(correct: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """The Wilson score interval of `correct` of `total` answers: all shares p with |correct/total - p| <= z·sqrt(p·(1 - p)/total).

    Unlike the textbook interval it stays within 0 and 1 and has a width at 0 of n and n of n, where small sets of problems often end.
    No answers say nothing: 0 to 1. Raises ValueError for counts or a confidence that cannot be.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"correct answers: found {correct} of {total}; allowed: 0 to {total}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: found {confidence}; allowed: more than 0 and less than 1")
    if total == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = correct / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * sqrt(share * (1 - share) / total + weight / (4 * total))
    low = 0.0 if correct == 0 else max(0.0, centre - half)  # exact at the ends, where rounding would leave 1e-17
    high = 1.0 if correct == total else min(1.0, centre + half)
    return Interval(low, high)
