"""Levels over time: curriculum, learning history, and the skills as a vector. (specs/guild.md 2.7 row curriculum_optimization, 2.9)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from guild.analytics.documents import NO_DATA
from guild.records.evaluation_records import Evaluation

WINDOW = 3
"""Evaluations on each side of a trend."""
STEADY = 0.02
"""Share of accuracy within which a trend is steady."""
HISTORY = 200
Trend = Literal["improving", "declining", "steady", "unknown"]


def trend_of(evaluations: Sequence[Evaluation]) -> tuple[Trend, float | None]:
    """The trend of one skill at one level and its change: pooled accuracy of the newest (up to three) evaluations minus that of as many
    before. `unknown`, None with fewer than two. evaluations: by step."""
    size = min(WINDOW, len(evaluations) // 2)
    if not size:
        return "unknown", None
    change = _accuracy(evaluations[-size:]) - _accuracy(evaluations[-2 * size : -size])
    if abs(change) <= STEADY:
        return "steady", change
    return ("improving" if change > 0 else "declining"), change


def curriculum_optimization(evaluations: Sequence[Evaluation], mastered: Mapping[str, int], training: Mapping[str, int]) -> dict[str, Any]:
    """`skills{id: {level, training_level, accuracy, trend, …}}`. level: the highest mastered; training_level: the one that is trained
    now; both null where the curriculum says none. accuracy: of the newest evaluation at the training level, else of the highest level
    evaluated, which `evaluated_level` names."""
    shown = {}
    grouped = by_skill_and_level(evaluations)
    for skill in sorted({*mastered, *(skill for skill, _ in grouped)}):
        level = mastered.get(skill)
        levels = sorted(number for name, number in grouped if name == skill)
        wanted = training.get(skill)
        at = wanted if wanted in levels else levels[-1] if levels else None
        series = grouped.get((skill, at), []) if at is not None else []
        newest = series[-1] if series else None
        trend, change = trend_of(series)
        shown[skill] = {
            "level": level, "training_level": wanted, "evaluated_level": at, "trend": trend, "change": change,
            "accuracy": None if newest is None else newest.accuracy,
            "interval_low": None if newest is None else newest.interval_low,
            "interval_high": None if newest is None else newest.interval_high,
            "evaluations": len(series), "latest_step": None if newest is None else newest.checkpoint_step,
        }  # fmt: skip
    return {"status": "ok" if shown else NO_DATA, "skills": shown}


def learning_history(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """For each skill and level the accuracies by step (the newest 200), their trend and slope per 1000 steps."""
    skills: dict[str, dict[str, Any]] = {}
    for (skill, level), series in by_skill_and_level(evaluations).items():
        trend, change = trend_of(series)
        points = [(one.checkpoint_step, one.accuracy) for one in series]
        slope = slope_of(points)
        skills.setdefault(skill, {})[str(level)] = {
            "trend": trend, "change": change, "slope_per_1000_steps": None if slope is None else 1000 * slope,
            "points": [
                {"step": one.checkpoint_step, "accuracy": one.accuracy, "interval_low": one.interval_low,
                 "interval_high": one.interval_high, "problems": one.total, "timestamp": one.timestamp}
                for one in series[-HISTORY:]
            ],
        }  # fmt: skip
    return {"status": "ok" if skills else NO_DATA, "skills": skills}


def skill_radar(evaluations: Sequence[Evaluation], mastered: Mapping[str, int]) -> dict[str, Any]:
    """The skills as a vector: `axes[{skill, value, …}]`. value: problems answered right of all, over the newest evaluation of each level
    that was measured, from 0 to 1; null for a skill that was not."""
    grouped = by_skill_and_level(evaluations)
    axes = []
    for skill in sorted({*mastered, *(skill for skill, _ in grouped)}):
        newest = [series[-1] for (name, _), series in grouped.items() if name == skill]
        axes.append({
            "skill": skill, "value": _accuracy(newest) if newest else None, "mastered_level": mastered.get(skill),
            "levels_measured": len(newest), "problems": sum(one.total for one in newest),
        })  # fmt: skip
    return {"status": "ok" if any(axis["value"] is not None for axis in axes) else NO_DATA, "axes": axes}


def by_skill_and_level(evaluations: Iterable[Evaluation]) -> dict[tuple[str, int], list[Evaluation]]:
    """(skill, level) → its evaluations by step, the keys in order."""
    found: dict[tuple[str, int], list[Evaluation]] = {}
    for one in sorted(evaluations, key=lambda one: (one.skill, one.level, one.checkpoint_step)):
        found.setdefault((one.skill, one.level), []).append(one)
    return found


def slope_of(points: Sequence[tuple[float, float]]) -> float | None:
    """Least-squares slope of y over x: Σ(x−x̄)(y−ȳ) / Σ(x−x̄)²; None for fewer than two different x."""
    if not points:
        return None
    middle = sum(x for x, _ in points) / len(points)
    height = sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    return sum((x - middle) * (y - height) for x, y in points) / spread if spread else None


def _accuracy(evaluations: Sequence[Evaluation]) -> float:
    return sum(one.correct for one in evaluations) / sum(one.total for one in evaluations)
