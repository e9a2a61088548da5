"""What one run says about the gates: scores of its cells, which of them were harmed, clean values, sensitivities. No torch.

(specs/medic.md, 10)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.paper.data import BEST, NO_CONTRACTION, SENSITIVITY_CURVES, counted_tasks
from cachemedicpp.paper.figures import PARETO, SCORES, SENSITIVITY
from cachemedicpp.paper.inputs import RunResults, read_results
from modelwright.errors import MissingFileError

Place = tuple[str, str, float]
"""(task, corruption type, epsilon)."""
FIGURES = (SCORES, PARETO, SENSITIVITY)
"""The figures that gate 1 asks for."""


@dataclass(frozen=True)
class Drift:
    """A sensitivity: the mean logit drift at a norm from the clean undefended logits, and from the curve's own undisturbed ones.

    Only `response` answers the disturbance: a repair has moved the undisturbed logits too, and two drifts of different
    directions do not add, so a difference of values is no response either.
    """

    value: float
    response: float | None


@dataclass(frozen=True)
class Reading:
    """One run as the gates see it. Curves are `no_defense`, `best_heuristic` (this run's own) and `cachemedic`.

    held_out: the name of its leave-one-type-out split. places: every cell with epsilon > 0 of the tasks in the aggregate;
    harmed: those in which the undefended model is measurably harmed. scores: curve → cell → score. clean: task → curve →
    metric. drift: curve → norm → sensitivity, `cachemedic_no_contr` too where there is a counterpart.
    """

    run_id: str
    seed: int
    model: str
    held_out: str | None
    lambda_contr: float
    places: tuple[Place, ...]
    harmed: frozenset[Place]
    scores: Mapping[str, Mapping[Place, float]]
    clean: Mapping[str, Mapping[str, float]]
    clean_score: Mapping[str, float]
    drift: Mapping[str, Mapping[float, Drift]]
    has_figures: bool

    def relative_score(self, curve: str, places: Sequence[Place]) -> float:
        """Mean over cells of score / clean undefended score of the task, so that tasks of different scales count alike."""
        return sum(self.scores[curve][place] / self.clean_score[place[0]] for place in places) / len(places)


def read_runs(folders: Sequence[Path | str]) -> list[Reading]:
    """The reading of every run directory. Raises MissingFileError naming every missing or damaged file of all of them."""
    readings: list[Reading] = []
    faults: list[str] = []
    for folder in folders:
        try:
            readings.append(reading_of(read_results(Path(folder).absolute())))
        except MissingFileError as error:
            faults.append(str(error))
    if faults:
        raise MissingFileError("\n".join(faults))
    return readings


def reading_of(results: RunResults) -> Reading:
    """The reading of one run's results."""
    names = {NO_DEFENCE: NO_DEFENCE, BEST: results.best_heuristic, REPAIR: REPAIR}
    counted = counted_tasks(results)
    cells = {
        (_place(cell), cell["defense"]): cell for cell in results.metrics["task_curves"] if cell["epsilon"] > 0 and cell["task"] in counted
    }
    places = tuple(dict.fromkeys(place for place, _ in cells))
    return Reading(
        run_id=results.run_id,
        seed=results.config.seed,
        model=results.config.model.name,
        held_out=results.config.eval.ood_protocol,
        lambda_contr=results.config.train.lambda_contr,
        places=places,
        harmed=frozenset(place for place in places if cells[place, NO_DEFENCE]["no_harm"] is False),
        scores={curve: {place: float(cells[place, name]["score"] or 0.0) for place in places} for curve, name in names.items()},
        clean={
            task: {curve: value[name] for curve, name in names.items() if value.get(name) is not None}
            for task, value in results.metrics["clean_metrics"].items()
        },
        clean_score={task: _clean_score(task, results) for task in counted},
        drift={curve: _drifts(results, stored) for stored, curve in SENSITIVITY_CURVES.items()},
        has_figures=all((results.folder / name).is_file() for name in FIGURES),
    )


def _place(cell: Mapping[str, Any]) -> Place:
    return cell["task"], cell["corruption_type"], float(cell["epsilon"])


def _clean_score(task: str, results: RunResults) -> float:
    """The score of the undefended model on clean caches, the inverse of a perplexity."""
    from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS, perplexity_score

    value = results.metrics["clean_metrics"][task][NO_DEFENCE]
    if value is None:
        return 0.0
    return perplexity_score(value) if task in PERPLEXITY_TASKS else float(value)


def _drifts(results: RunResults, stored: str) -> dict[float, Drift]:
    found: dict[float, Drift] = {}
    if stored == NO_CONTRACTION and results.config.train.lambda_contr == 0:
        return found  # the run itself, which is no comparison
    for point in results.sensitivity:
        held = point.get(stored)
        if held is not None and held["value"] is not None:
            found[float(point["delta_norm"])] = Drift(held["value"], held.get("response"))
    return found
