"""The finished runs of the study as tables, and what they say: each repair against no defence, the best heuristic, the control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.medic_study.effects import Effect, Scores, difference, mean_effect

from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS
from cachemedicpp.evaluation.progress import EXAMPLES, METRICS
from cachemedicpp.faults.events import NO_EVENT
from cachemedicpp.phases.layout import RESOLVED
from modelwright.errors import MissingFileError
from modelwright.files import read_json, read_jsonl, read_yaml

ARMS = {
    "main_contr": "A",
    "ablation_no_contr": "A without the contraction penalty",
    "family_b": "B",
    "family_c": "C",
    "token_gate": "D",
    "control_clean": "control: A trained without corruption",
}
"""What a run's name begins with, and what that repair is."""
CONTROL = "control_clean"
PEERS = {"control": CONTROL, "A": "main_contr"}
"""Other repairs that one is compared with, seed by seed, and the arm that holds each."""
Place = tuple[str, str, float]
"""(task, corruption type, epsilon); the clean cell has type `none` and epsilon 0."""


@dataclass(frozen=True)
class StudyRun:
    """One evaluated run. cells: defence → place → scores. harmed: places in which its undefended model lost measurably."""

    arm: str
    model: str
    seed: int
    best_heuristic: str
    cells: Mapping[str, Mapping[Place, Scores]]
    harmed: frozenset[Place]


def read_study(sweeps: Iterable[Path | str]) -> list[StudyRun]:
    """Every evaluated run of some sweeps' folders whose name begins like one of `ARMS`, in name order.

    Raises MissingFileError when there is none.
    """
    folders = [path.parents[1] for sweep in sweeps for path in sorted(Path(sweep).glob(f"*/{METRICS}"))]
    runs = [read_run(path) for path in folders if arm_of(path.name)]
    if not runs:
        raise MissingFileError("There is no evaluated run of the study yet; `python -m benchmarks.medic_study.run` makes them.")
    return runs


def arm_of(name: str) -> str | None:
    """The arm a run belongs to, by its name; None for another."""
    return next((arm for arm in ARMS if name.startswith(f"{arm}_seed")), None)


def read_run(folder: Path) -> StudyRun:
    """One run directory."""
    config, metrics = read_yaml(folder / RESOLVED), read_json(folder / METRICS)["metrics"]
    counted = [task for task in metrics["clean_metrics"] if task not in metrics["excluded_tasks"]]
    sums: dict[tuple[str, Place], dict[int, list[float]]] = {}
    for line in read_jsonl(folder / EXAMPLES).records:
        _, task, defence, kind, epsilon = line["unit_key"].split("|")
        items = sums.setdefault((defence, (task, kind, float(epsilon))), {})
        held = items.setdefault(line["item"], [0.0, 0.0])
        perplexity = task in PERPLEXITY_TASKS
        held[0] += -line["loss"] if perplexity else float(line["correct"])
        held[1] += line["tokens"] if perplexity else 1.0
    cells: dict[str, dict[Place, Scores]] = {}
    for (defence, place), items in sums.items():
        table = np.array([items[item] for item in sorted(items)])
        cells.setdefault(defence, {})[place] = Scores(table[:, 0], table[:, 1])
    harmed = frozenset(
        (cell["task"], cell["corruption_type"], float(cell["epsilon"])) for cell in metrics["harm"]["cells"] if not cell["no_harm"]
    )
    return StudyRun(
        arm=str(arm_of(folder.name)),
        model=config["model"]["name"],
        seed=config["seed"],
        best_heuristic=metrics["best_heuristic_name"],
        cells=cells,
        harmed=frozenset(place for place in harmed if place[2] > 0 and place[0] in counted),
    )


# ---------------------------------------------------------------------- comparisons


def compare(runs: Iterable[StudyRun]) -> list[dict[str, Any]]:
    """For every model and arm: harm, gains on each rival by task and by cell, and the price on clean caches."""
    found = []
    by_model: dict[str, list[StudyRun]] = {}
    for run in runs:
        by_model.setdefault(run.model, []).append(run)
    for model, own in by_model.items():
        harmed = harmed_places(own)
        peers = {word: {run.seed: run for run in own if run.arm == arm} for word, arm in PEERS.items()}
        for arm in ARMS:
            chosen = sorted((run for run in own if run.arm == arm), key=lambda run: run.seed)
            if chosen:
                found.append(compare_arm(model, arm, chosen, peers, harmed))
    return found


def harmed_places(runs: Sequence[StudyRun]) -> list[Place]:
    """The cells in which every run's undefended model was harmed, in the order of the grid; the same damage counts once.

    A type that has reached its full strength does the same at every larger epsilon. Such a cell repeats an earlier one, score by
    score, and would be counted twice.
    """
    kept: list[Place] = []
    for place in runs[0].cells[NO_DEFENCE]:
        same_kind = [other for other in kept if other[:2] == place[:2]]
        if all(place in run.harmed for run in runs) and not any(_same_damage(runs, place, other) for other in same_kind):
            kept.append(place)
    return kept


def _same_damage(runs: Sequence[StudyRun], place: Place, other: Place) -> bool:
    return all(np.array_equal(run.cells[NO_DEFENCE][place].above, run.cells[NO_DEFENCE][other].above) for run in runs)


def compare_arm(
    model: str, arm: str, runs: Sequence[StudyRun], peers: Mapping[str, Mapping[int, StudyRun]], harmed: Sequence[Place]
) -> dict[str, Any]:
    """One arm of one model. peers: the runs of `PEERS` by seed; a peer is compared with where every seed has one."""
    tasks = list(dict.fromkeys(place[0] for place in runs[0].cells[REPAIR]))
    rivals: dict[str, list[tuple[StudyRun, str]]] = {
        "no defence": [(run, NO_DEFENCE) for run in runs],
        "best heuristic": [(run, run.best_heuristic) for run in runs],
    }
    for word, by_seed in peers.items():
        if PEERS[word] != arm and all(run.seed in by_seed for run in runs):
            rivals[word] = [(by_seed[run.seed], REPAIR) for run in runs]
    ours = [(run, REPAIR) for run in runs]
    pooled, cells = [], []
    for rival, theirs in rivals.items():
        for task in tasks:
            places = [place for place in harmed if place[0] == task]
            if places:
                effect = mean_effect([gain_table(ours, theirs, place) for place in places])
                pooled.append({"rival": rival, "task": task, "cells": len(places), **effect.as_dict()})
            for place in places:
                effect = mean_effect([gain_table(ours, theirs, place)])
                cells.append({"rival": rival, "task": task, "type": place[1], "epsilon": place[2], **effect.as_dict()})
    clean = [{"task": task, **clean_effect(runs, task).as_dict()} for task in tasks]
    return {
        "model": model,
        "arm": arm,
        "repair": ARMS[arm],
        "seeds": [run.seed for run in runs],
        "best_heuristics": sorted({run.best_heuristic for run in runs}),
        "harm": [{"task": task, **values} for task, values in harm_by_task(runs, harmed).items()],
        "pooled": pooled,
        "cells": cells,
        "clean": clean,
    }


def gain_table(ours: Sequence[tuple[StudyRun, str]], theirs: Sequence[tuple[StudyRun, str]], place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Gain and weight `[seeds, items]` of one defence on another in one cell."""
    return difference([run.cells[name][place] for run, name in ours], [run.cells[name][place] for run, name in theirs])


def clean_effect(runs: Sequence[StudyRun], task: str) -> Effect:
    """The gain of the repair on undamaged caches; negative is its price."""
    place = (task, NO_EVENT, 0.0)
    return mean_effect([gain_table([(run, REPAIR) for run in runs], [(run, NO_DEFENCE) for run in runs], place)])


def harm_by_task(runs: Sequence[StudyRun], harmed: Sequence[Place]) -> dict[str, dict[str, float]]:
    """Per task with a harmed cell: mean harm of the undefended model over those cells, and the share that the repair undoes."""
    found: dict[str, dict[str, float]] = {}
    for task in dict.fromkeys(place[0] for place in harmed):
        places = [place for place in harmed if place[0] == task]
        clean = _mean(runs, NO_DEFENCE, (task, NO_EVENT, 0.0))
        harm = sum(clean - _mean(runs, NO_DEFENCE, place) for place in places) / len(places)
        left = sum(clean - _mean(runs, REPAIR, place) for place in places) / len(places)
        found[task] = {"harm": harm, "left": left, "undone": 1.0 - left / harm, "cells": len(places)}
    return found


def _mean(runs: Sequence[StudyRun], defence: str, place: Place) -> float:
    scores = [run.cells[defence][place] for run in runs]
    return float(sum(score.above.sum() for score in scores) / sum(score.below.sum() for score in scores))
