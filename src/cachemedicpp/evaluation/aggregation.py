"""From the cells of the evaluation grid to curves, areas, best heuristic, harm and paired intervals. (specs/medic.md, 6.2, 6.4)

    table = score_table(cells, eps)              # cells: one per finished unit of `grid.grid_units`
    table.score("cachemedic", 0.16)              # mean over tasks and types
    table_metrics(table, harms, comparisons)     # fields of metrics/task_metrics.json

`comparison.aggregate` does all of it, intervals included. A score is higher when better. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachemedicpp.evaluation.bootstrap import Interval
from cachemedicpp.evaluation.grid import DEFENCES, HEURISTICS, NO_DEFENCE, REPAIR, Unit, grid_units
from cachemedicpp.evaluation.outcomes import CHANCE, ExampleScore, TaskValue, task_value
from cachemedicpp.faults.events import NO_EVENT
from modelwright.errors import UsageError

GATED_TASKS = ("needle_long_context",)
"""Tasks that count only if the undamaged, undefended model has at least twice the accuracy of guessing. [C22]"""
_GATE_FACTOR = 2.0


@dataclass(frozen=True)
class Cell:
    """A finished unit and the scores of its examples, ordered by example index."""

    unit: Unit
    examples: tuple[ExampleScore, ...] = field(repr=False)

    @property
    def result(self) -> TaskValue:
        """Value, score and standard error of the cell."""
        return task_value(self.unit.task, self.examples)


# ---------------------------------------------------------------------- formulas


def area_under_curve(eps: Sequence[float], scores: Sequence[float]) -> float:
    """Trapezoid rule over the listed epsilons, not divided by their range; 0 for a single point."""
    pairs = zip(zip(eps, scores, strict=True), list(zip(eps, scores, strict=True))[1:], strict=False)
    return sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairs)


def best_heuristic(areas: Mapping[str, float]) -> str:
    """The heuristic with the largest area; among equals the first of `HEURISTICS`. Raises UsageError when there is none."""
    listed = [name for name in HEURISTICS if name in areas]
    if not listed:
        raise UsageError(f"No heuristic was evaluated; the grid needs {', '.join(HEURISTICS)}.")
    return max(listed, key=lambda name: areas[name])  # max keeps the first of equals


def mean_or_none(values: Iterable[float]) -> float | None:
    """The plain mean, None of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else None


# ---------------------------------------------------------------------- table


@dataclass(frozen=True)
class ScoreTable:
    """Every cell by its place. tasks, types, eps in grid order; `excluded` says why a task is not aggregated."""

    tasks: tuple[str, ...]
    types: tuple[str, ...]
    eps: tuple[float, ...]
    cells: Mapping[str, Cell]
    results: Mapping[str, TaskValue]
    excluded: Mapping[str, str]

    @property
    def counted(self) -> tuple[str, ...]:
        """The tasks that enter the aggregate."""
        return tuple(task for task in self.tasks if task not in self.excluded)

    def cell(self, task: str, defence: str, kind: str = NO_EVENT, epsilon: float | None = None) -> Cell:
        """The corrupted cell, or without epsilon the clean one."""
        return self.cells[_unit(task, defence, kind, epsilon).key]

    def result(self, task: str, defence: str, kind: str = NO_EVENT, epsilon: float | None = None) -> TaskValue:
        return self.results[_unit(task, defence, kind, epsilon).key]

    def score(self, defence: str, epsilon: float) -> float | None:
        """Mean over counted tasks and types of the corruption-stage scores; None when no task counts."""
        return mean_or_none(self.result(task, defence, kind, epsilon).score for task in self.counted for kind in self.types)

    def relative(self, defence: str, epsilon: float | None) -> float | None:
        """Mean over counted tasks (and types) of score / clean undefended score; a task with a clean score of 0 is left out.

        For a perplexity that is clean perplexity / perplexity. Without epsilon: of the clean cells.
        """
        kinds = (NO_EVENT,) if epsilon is None else self.types
        clean = {task: self.result(task, NO_DEFENCE).score for task in self.counted}
        return mean_or_none(
            self.result(task, defence, kind, epsilon).score / clean[task] for task in self.counted if clean[task] > 0 for kind in kinds
        )

    def area(self, defence: str) -> float | None:
        """Area under the score curve of a defence; None when no task counts."""
        scores = [self.score(defence, value) for value in self.eps]
        known = [score for score in scores if score is not None]
        return area_under_curve(self.eps, known) if len(known) == len(self.eps) else None


def score_table(cells: Iterable[Cell], eps: Sequence[float]) -> ScoreTable:
    """Put cells in their places and decide which tasks count.

    Raises UsageError naming cells that the grid lacks, or cells of one task with different examples (nothing could be
    paired).
    """
    by_key = {cell.unit.key: cell for cell in cells}
    units = [cell.unit for cell in by_key.values()]
    tasks = tuple(dict.fromkeys(unit.task for unit in units))
    types = tuple(dict.fromkeys(unit.corruption_type for unit in units if unit.stage == "corr"))
    missing = [unit.key for unit in grid_units(tasks, types, eps) if unit.key not in by_key]
    if missing or not tasks:
        named = ", ".join(missing[:3]) or "all of them"
        raise UsageError(f"The grid lacks {len(missing)} of its cells (first: {named}); run the evaluation to its end before aggregating.")
    for task in tasks:
        indices = {tuple(score.index for score in cell.examples) for cell in by_key.values() if cell.unit.task == task}
        if len(indices) > 1:
            raise UsageError(f"The cells of {task} hold different examples, so they cannot be compared in pairs; evaluate the task again.")
    results = {key: cell.result for key, cell in by_key.items()}
    table = ScoreTable(tasks, types, tuple(float(value) for value in eps), by_key, results, {})
    return ScoreTable(table.tasks, table.types, table.eps, by_key, results, _excluded(table))


def _excluded(table: ScoreTable) -> dict[str, str]:
    reasons = {}
    for task in table.tasks:
        needed = _GATE_FACTOR * CHANCE.get(task, 0.0)
        accuracy = table.result(task, NO_DEFENCE).value
        if task in GATED_TASKS and accuracy < needed:
            reasons[task] = f"undefended clean accuracy {accuracy:.3f} is below {needed:.2f}, twice chance"
    return reasons


def _unit(task: str, defence: str, kind: str, epsilon: float | None) -> Unit:
    return Unit("clean", task, defence, NO_EVENT, 0.0) if epsilon is None else Unit("corr", task, defence, kind, float(epsilon))


# ---------------------------------------------------------------------- result


@dataclass(frozen=True)
class Harm:
    """What one corruption does to the undefended model in one task.

    loss: accuracy lost, or for a perplexity the rise of the loss per token (nats); positive is harm. no_harm: the interval
    reaches 0 or below, so the cell decides nothing.
    """

    task: str
    corruption_type: str
    epsilon: float
    loss: Interval

    @property
    def no_harm(self) -> bool:
        return not self.loss.above_zero

    def as_dict(self) -> dict[str, Any]:
        place = {"task": self.task, "corruption_type": self.corruption_type, "epsilon": self.epsilon}
        return place | {"loss": self.loss.as_dict(), "no_harm": self.no_harm}


@dataclass(frozen=True)
class Comparison:
    """The repair against another defence. quantity: `robustness_auc`, `clean_score`, or the score of a single cell.

    no_harm: the cell is one in which nothing was harmed, and counts for no gate; None where that does not apply.
    """

    quantity: str
    ours: str
    theirs: str
    difference: Interval
    task: str | None = None
    corruption_type: str | None = None
    epsilon: float | None = None
    no_harm: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        place = {"task": self.task, "corruption_type": self.corruption_type, "epsilon": self.epsilon, "no_harm": self.no_harm}
        return {"quantity": self.quantity, "ours": self.ours, "theirs": self.theirs, **place, "difference": self.difference.as_dict()}


def table_metrics(table: ScoreTable, harms: Sequence[Harm], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The fields of `metrics` in `metrics/task_metrics.json` that come from the grid (all but the overhead)."""
    areas = {name: table.area(name) for name in DEFENCES}
    heuristic_areas = {name: area for name in HEURISTICS if (area := areas[name]) is not None}
    best = best_heuristic(heuristic_areas) if heuristic_areas else HEURISTICS[0]
    shown = {NO_DEFENCE: NO_DEFENCE, "best_heuristic": best, REPAIR: REPAIR}
    by_place = {(harm.task, harm.corruption_type, harm.epsilon): harm for harm in harms}
    return {
        "task_curves": [
            _curve_point(cell.unit, table.results[key], by_place) for key, cell in table.cells.items() if cell.unit.stage == "corr"
        ],
        "clean_metrics": {task: {name: _finite(table.result(task, name).value) for name in DEFENCES} for task in table.tasks},
        "clean_standard_errors": {
            task: {name: _finite(table.result(task, name).standard_error) for name in DEFENCES} for task in table.tasks
        },
        "score_vs_eps": {"eps": list(table.eps)} | {label: [table.score(name, eps) for eps in table.eps] for label, name in shown.items()},
        "best_heuristic_name": best,
        "heuristic_auc": {name: areas[name] for name in HEURISTICS},
        "robustness_auc": {label: areas[name] for label, name in shown.items()},
        "clean_regression": {name: mean_or_none(table.result(task, name).score for task in table.counted) for name in DEFENCES},
        "relative_score": {
            "eps": list(table.eps),
            "clean": {label: table.relative(name, None) for label, name in shown.items()},
            **{label: [table.relative(name, eps) for eps in table.eps] for label, name in shown.items()},
        },
        "harm": {
            "eps": list(table.eps),
            "relative_loss": [_lost(table.relative(NO_DEFENCE, eps)) for eps in table.eps],
            "cells": [harm.as_dict() for harm in harms],
        },
        "excluded_tasks": dict(table.excluded),
        "paired": [comparison.as_dict() for comparison in comparisons],
    }


def _curve_point(unit: Unit, result: TaskValue, harms: Mapping[tuple[str, str, float], Harm]) -> dict[str, Any]:
    harm = harms.get((unit.task, unit.corruption_type, unit.epsilon))
    return {
        "task": unit.task,
        "corruption_type": unit.corruption_type,
        "epsilon": unit.epsilon,
        "defense": unit.defence,
        "value": _finite(result.value),
        "score": _finite(result.score),
        "standard_error": _finite(result.standard_error),
        "examples": result.examples,
        "harm": None if harm is None else harm.loss.as_dict()["estimate"],
        "no_harm": None if harm is None else harm.no_harm,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


def _lost(relative: float | None) -> float | None:
    return None if relative is None else 1.0 - relative
