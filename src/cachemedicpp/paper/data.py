"""The numbers behind figures, tables and report: points with standard errors, taken from the results of a run. No torch.

A standard error of a mean score is put together from those of its cells: cells of one task share their examples, so their
errors are averaged (an upper bound, whatever their correlation); tasks are independent, so theirs add in quadrature. The
score of a perplexity is its inverse, whose error is `se / perplexity^2` (delta method). (specs/medic.md, 6.4 and 9)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS
from cachemedicpp.evaluation.records import CURVES
from cachemedicpp.paper.inputs import RunResults

BEST = "best_heuristic"
NO_CONTRACTION = "cachemedic_no_contr"
SENSITIVITY_CURVES = {"baseline": NO_DEFENCE, "heuristics": BEST, "cachemedic": REPAIR, NO_CONTRACTION: NO_CONTRACTION}
"""Curves of the stability metrics by the names that the evaluation has for them."""


@dataclass(frozen=True)
class Point:
    """A measured value; error: one standard error, None where it is not known; y: None where nothing was measured."""

    x: float
    y: float | None
    error: float | None = None


@dataclass(frozen=True)
class SpeedPoint:
    """Clean score of a defence, with its standard error, and tokens decoded per second. form: of the repair that was timed."""

    clean: float | None
    clean_error: float | None
    tokens_per_sec: float | None
    form: str | None


def shown_name(results: RunResults, curve: str, heuristic: str | None = None) -> str:
    """What figures, tables and report call a curve; the best heuristic by its name too. heuristic: another one than the run's."""
    names = {
        NO_DEFENCE: "No defense",
        BEST: f"Best heuristic ({heuristic or results.best_heuristic})",
        REPAIR: "CacheMedic++",
        NO_CONTRACTION: "CacheMedic++ (lambda_contr=0)",
    }
    return names[curve]


def defence_of(results: RunResults, curve: str) -> str:
    """The defence behind a curve of the evaluation."""
    return results.best_heuristic if curve == BEST else curve


def counted_tasks(results: RunResults) -> list[str]:
    """The tasks that enter the aggregate."""
    excluded = results.metrics.get("excluded_tasks") or {}
    return [task for task in results.metrics["clean_metrics"] if task not in excluded]


# ---------------------------------------------------------------------- evaluation


def score_curves(results: RunResults) -> dict[str, list[Point]]:
    """Mean score over tasks and types at each epsilon, for each curve."""
    curves = results.metrics["score_vs_eps"]
    return {
        curve: [
            Point(eps, curves[curve][place], score_error(results, defence_of(results, curve), eps))
            for place, eps in enumerate(curves["eps"])
        ]
        for curve in CURVES
    }


def task_curves(results: RunResults, task: str) -> dict[str, list[Point]]:
    """The task's metric (perplexity or accuracy) at each epsilon, mean over the corruption types, for each curve."""
    found = {}
    for curve in CURVES:
        name = defence_of(results, curve)
        points = []
        for eps in results.metrics["score_vs_eps"]["eps"]:
            cells = cells_of(results, task=task, defence=name, eps=eps)
            points.append(Point(eps, _mean(cell["value"] for cell in cells), _mean(cell["standard_error"] for cell in cells)))
        found[curve] = points
    return found


def cells_of(
    results: RunResults, *, task: str | None = None, defence: str | None = None, kind: str | None = None, eps: float | None = None
) -> list[dict[str, Any]]:
    """The corrupted cells at the given place, in grid order."""
    asked = {"task": task, "defense": defence, "corruption_type": kind, "epsilon": eps}
    return [cell for cell in results.metrics["task_curves"] if all(value is None or cell[key] == value for key, value in asked.items())]


def score_error(results: RunResults, defence: str, eps: float | None) -> float | None:
    """Standard error of the mean score of a defence at an epsilon, or (None) on clean caches."""
    tasks = []
    for task in counted_tasks(results):
        if eps is None:
            value = results.metrics["clean_metrics"][task][defence]
            error = (results.metrics.get("clean_standard_errors") or {}).get(task, {}).get(defence)
            tasks.append(_of_score(task, value, error))
        else:
            cells = cells_of(results, task=task, defence=defence, eps=eps)
            tasks.append(_mean(_of_score(task, cell["value"], cell["standard_error"]) for cell in cells))
    known = [error for error in tasks if error is not None]
    return math.sqrt(sum(error**2 for error in known)) / len(known) if known and len(known) == len(tasks) else None


def clean_and_speed(results: RunResults) -> dict[str, SpeedPoint]:
    """Clean score and decoding speed of each curve."""
    found = {}
    for curve in CURVES:
        name = defence_of(results, curve)
        row = decode_row(results, name) or {}
        clean = results.metrics["clean_regression"].get(name)
        found[curve] = SpeedPoint(clean, score_error(results, name, None), row.get("decode_tokens_per_sec"), row.get("form"))
    return found


def decode_row(results: RunResults, defence: str) -> dict[str, Any] | None:
    """The row of the decode benchmark of a defence; of the repair in the form that serves."""
    rows = [row for row in results.metrics.get("decode_overhead") or () if row["defense"] == defence]
    if defence != REPAIR:
        return rows[0] if rows else None
    asked = results.config.repair.form
    by_form = {row["form"]: row for row in rows}
    order = (asked, "collapsed", "extended") if asked != "materialised" else ("collapsed", "extended")
    return next((by_form[form] for form in order if form in by_form), None)


# ---------------------------------------------------------------------- stability


def sensitivity_curves(results: RunResults) -> dict[str, list[Point]]:
    """Logit drift over the norm of the perturbation; without the curve of lambda_contr = 0 when there is no counterpart."""
    found: dict[str, list[Point]] = {}
    for stored, curve in SENSITIVITY_CURVES.items():
        points = [(point["delta_norm"], point.get(stored)) for point in results.sensitivity]
        if all(value is None for _, value in points):
            continue
        found[curve] = [
            Point(delta, None if value is None else value["value"], None if value is None else value.get("standard_error"))
            for delta, value in points
        ]
    return found


def amplification_reduction(results: RunResults) -> list[list[float | None]]:
    """Amplification without the repair minus with it, `[layers][heads]`; positive where the repair reduces it."""
    pairs = zip(results.amplification["baseline"], results.amplification["cachemedic"], strict=True)
    return [
        [None if before is None or after is None else before - after for before, after in zip(plain, repaired, strict=True)]
        for plain, repaired in pairs
    ]


# ---------------------------------------------------------------------- arithmetic


def known(points: Sequence[Point]) -> list[tuple[float, float, float]]:
    """(x, y, error) of the points that were measured; 0 for an error that is not known."""
    return [(point.x, point.y, point.error or 0.0) for point in points if point.y is not None]


def _of_score(task: str, value: float | None, error: float | None) -> float | None:
    """The standard error of a score, from value and standard error of the task's metric."""
    if value is None or error is None:
        return None
    return error / value**2 if task in PERPLEXITY_TASKS else error


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None of nothing and where one value is not known."""
    found = list(values)
    if not found or any(value is None for value in found):
        return None
    return sum(value for value in found if value is not None) / len(found)
