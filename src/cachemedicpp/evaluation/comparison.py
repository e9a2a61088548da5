"""Paired intervals on the evaluation grid: what each corruption harms, and what the repair gains. [C25] Needs no torch.

All cells of a task are resampled with the same draws, by item (examples that wrap around to the same line or review are
one item). The best heuristic is the one of the point estimates in every resample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cachemedicpp.evaluation.aggregation import (
    Cell,
    Comparison,
    Harm,
    ScoreTable,
    best_heuristic,
    score_table,
    table_metrics,
)
from cachemedicpp.evaluation.bootstrap import RESAMPLES, interval, resampled_ratios, stream_seed
from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS
from cachemedicpp.faults.events import NO_EVENT
from cachemedicpp.repair.spec import HEURISTICS


def aggregate(cells: Iterable[Cell], eps: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The grid's fields of `metrics/task_metrics.json`: curves, areas, best heuristic, relative score, harm, intervals.

    eps: the epsilons of the grid, rising. seed: the run's. Raises UsageError for an incomplete grid.
    """
    table = score_table(cells, eps)
    best = best_of(table)
    compared = (NO_DEFENCE, REPAIR) if best is None else (NO_DEFENCE, best, REPAIR)
    resampled = {task: _Resampled(table, task, compared, seed, resamples) for task in table.tasks}
    harms = [resampled[task].harm(kind, value) for task in table.tasks for kind in table.types for value in table.eps]
    comparisons = _comparisons(table, resampled, compared[:-1], harms)
    return table_metrics(table, harms, comparisons)


def best_of(table: ScoreTable) -> str | None:
    """The best heuristic by area under the curve; None when no task counts."""
    areas = {name: area for name in HEURISTICS if (area := table.area(name)) is not None}
    return best_heuristic(areas) if areas else None


class _Resampled:
    """The resampled means of one task: per cell `[R]`, the loss per token (nats) or the accuracy."""

    def __init__(self, table: ScoreTable, task: str, defences: Sequence[str], seed: int, resamples: int) -> None:
        self.task = task
        self.is_perplexity = task in PERPLEXITY_TASKS
        cells = [cell for cell in table.cells.values() if cell.unit.task == task and cell.unit.defence in defences]
        sums = [_by_item(cell, self.is_perplexity) for cell in cells]
        numerators = np.stack([above for above, _ in sums], axis=1)
        denominators = np.stack([below for _, below in sums], axis=1)
        self.n = len(numerators)
        means = resampled_ratios(numerators, denominators, seed=stream_seed(seed, task), resamples=resamples)
        self._means = {cell.unit.key: means[:, column] for column, cell in enumerate(cells)}
        self._points = {cell.unit.key: float(above.sum() / below.sum()) for cell, (above, below) in zip(cells, sums, strict=True)}
        self._table = table

    def _key(self, defence: str, kind: str, epsilon: float | None) -> str:
        return self._table.cell(self.task, defence, kind, epsilon).unit.key

    def scores(self, defence: str, kind: str = NO_EVENT, epsilon: float | None = None) -> np.ndarray:
        """The resampled scores `[R]` of a cell."""
        means = self._means[self._key(defence, kind, epsilon)]
        return np.exp(-np.minimum(means, 80.0)) if self.is_perplexity else means

    def point(self, defence: str, kind: str = NO_EVENT, epsilon: float | None = None) -> float:
        return self._table.result(self.task, defence, kind, epsilon).score

    def harm(self, kind: str, epsilon: float) -> Harm:
        """What the undefended model loses against its clean cell."""
        clean, damaged = self._key(NO_DEFENCE, NO_EVENT, None), self._key(NO_DEFENCE, kind, epsilon)
        sign = 1.0 if self.is_perplexity else -1.0
        estimate = sign * (self._points[damaged] - self._points[clean])
        samples = sign * (self._means[damaged] - self._means[clean])
        return Harm(self.task, kind, epsilon, interval(estimate, samples, self.n))


def _by_item(cell: Cell, is_perplexity: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the examples of each item, in item order: of losses and tokens, or of right answers and examples."""
    items: dict[int, list[float]] = {}
    for score in cell.examples:
        held = items.setdefault(score.item, [0.0, 0.0])
        held[0] += score.value
        held[1] += score.tokens if is_perplexity else 1
    table = np.array([items[item] for item in sorted(items)])
    return table[:, 0], table[:, 1]


def _comparisons(table: ScoreTable, resampled: dict[str, _Resampled], rivals: Sequence[str], harms: Sequence[Harm]) -> list[Comparison]:
    found: list[Comparison] = []
    if table.counted:
        n = min(resampled[task].n for task in table.counted)
        for rival in rivals:
            ours, theirs = table.area(REPAIR), table.area(rival)
            if ours is not None and theirs is not None:
                samples = _areas(table, resampled, REPAIR) - _areas(table, resampled, rival)
                found.append(Comparison("robustness_auc", REPAIR, rival, interval(ours - theirs, samples, n)))
            samples = _clean(table, resampled, REPAIR) - _clean(table, resampled, rival)
            clean = [resampled[task].point(REPAIR) - resampled[task].point(rival) for task in table.counted]
            found.append(Comparison("clean_score", REPAIR, rival, interval(sum(clean) / len(clean), samples, n)))
    for harm in harms:
        task, place = resampled[harm.task], (harm.corruption_type, harm.epsilon)
        for rival in rivals:
            samples = task.scores(REPAIR, *place) - task.scores(rival, *place)
            difference = interval(task.point(REPAIR, *place) - task.point(rival, *place), samples, task.n)
            found.append(Comparison("score", REPAIR, rival, difference, harm.task, *place, harm.no_harm))
    return found


def _areas(table: ScoreTable, resampled: dict[str, _Resampled], defence: str) -> np.ndarray:
    """The resampled areas `[R]` of a defence: score curve by curve, tasks resampled apart."""
    curve = [
        np.mean([resampled[task].scores(defence, kind, eps) for task in table.counted for kind in table.types], axis=0) for eps in table.eps
    ]
    return np.asarray(np.trapezoid(np.stack(curve), x=np.asarray(table.eps), axis=0))


def _clean(table: ScoreTable, resampled: dict[str, _Resampled], defence: str) -> np.ndarray:
    return np.asarray(np.mean([resampled[task].scores(defence) for task in table.counted], axis=0))
