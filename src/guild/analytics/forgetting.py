"""Forgetting: abilities that were there and are not any more, by passives and by evaluations of mastered levels. (specs/guild.md 10.5)

Small sets wobble: 4 of 5 after 5 of 5 says nothing. Each ability's newest measurements are pooled until they have enough problems, and
compared with its best earlier measurements, pooled likewise; it counts as forgotten when the two 95 % Wilson intervals do not meet and the
accuracy fell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guild.analytics.documents import NO_DATA, Status
from guild.records.evaluation_records import Evaluation, Passive
from guild.records.intervals import Interval, wilson

ENOUGH = 20
"""Problems that a comparison needs on each side."""


@dataclass(frozen=True)
class Point:
    """Right answers of `total` at a step."""

    step: int
    correct: int
    total: int


@dataclass(frozen=True)
class Pool:
    """Measurements of one ability taken together, from `first_step` to `last_step`."""

    correct: int
    total: int
    first_step: int
    last_step: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> Interval:
        return wilson(self.correct, self.total)


def forgetting(passives: Sequence[Passive], evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The document. abilities: worst drop first; one that was not measured often enough has the verdict `unknown`."""
    series: dict[tuple[str, str], list[Point]] = {}
    for passive in passives:
        name = f"{passive.passive_id} {passive.mode} {passive.version}"
        series.setdefault(("passive", name), []).append(Point(passive.checkpoint_step, passive.correct, passive.total))
    for found in evaluations:
        point = Point(found.checkpoint_step, found.correct, found.total)
        series.setdefault(("skill", f"{found.skill} level {found.level}"), []).append(point)
    abilities = [{"kind": kind, "ability": name, **judge(points)} for (kind, name), points in sorted(series.items())]
    abilities.sort(key=lambda entry: -(entry["drop"] if entry["drop"] is not None else -2.0))
    judged = [entry for entry in abilities if entry["verdict"] != "unknown"]
    forgotten = [entry for entry in judged if entry["verdict"] == "forgotten"]
    status: Status = NO_DATA if not judged else "warning" if forgotten else "healthy"
    return {"status": status, "forgotten": len(forgotten), "judged": len(judged), "abilities": abilities}


def judge(points: Sequence[Point]) -> dict[str, Any]:
    """One ability's verdict: `forgotten`, `kept` or `unknown`, and the two pools it rests on."""
    ordered = sorted(points, key=lambda point: point.step)
    now, rest = newest_pool(ordered)
    best = None if now is None else best_pool(ordered[:rest])
    if now is None or best is None:
        return {"verdict": "unknown", "drop": None, "best": None, "now": None if now is None else _shown(now)}
    gone = now.accuracy < best.accuracy and now.interval.high < best.interval.low
    verdict = "forgotten" if gone else "kept"
    return {"verdict": verdict, "drop": best.accuracy - now.accuracy, "best": _shown(best), "now": _shown(now)}


def newest_pool(points: Sequence[Point]) -> tuple[Pool | None, int]:
    """The newest measurements with `ENOUGH` problems together, and how many measurements lie before them. points: by step."""
    total = 0
    for begin in range(len(points) - 1, -1, -1):
        total += points[begin].total
        if total >= ENOUGH:
            return _pool(points[begin:]), begin
    return None, 0


def best_pool(points: Sequence[Point]) -> Pool | None:
    """The run of consecutive measurements with just `ENOUGH` problems that has the highest accuracy, the newest of equal ones."""
    pools = []
    for end in range(len(points), 0, -1):
        pool, _ = newest_pool(points[:end])
        if pool is not None:
            pools.append(pool)
    return max(pools, key=lambda pool: (pool.accuracy, pool.last_step), default=None)


def _pool(points: Sequence[Point]) -> Pool:
    return Pool(sum(one.correct for one in points), sum(one.total for one in points), points[0].step, points[-1].step)


def _shown(pool: Pool) -> dict[str, Any]:
    interval = pool.interval
    return {
        "accuracy": pool.accuracy, "interval_low": interval.low, "interval_high": interval.high, "problems": pool.total,
        "first_step": pool.first_step, "last_step": pool.last_step,
    }  # fmt: skip
