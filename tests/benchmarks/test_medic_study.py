"""The medic study's arithmetic on hand-made runs: what is compared with what, and when a gain counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.medic_study.collect import ARMS, CONTROL, Place, StudyRun, arm_of, compare, harmed_places, read_study
from benchmarks.medic_study.drift import drift_rows
from benchmarks.medic_study.effects import Scores, difference, mean_effect
from benchmarks.medic_study.page import drift_lines, page
from benchmarks.medic_study.run import complete_arms

from cachemedicpp.paper.gate_readings import Drift, Reading
from modelwright.errors import MissingFileError, UsageError

TASK = "needle_long_context"
CLEAN: Place = (TASK, "none", 0.0)
HARMED: Place = (TASK, "gaussian", 1.0)
SPARED: Place = (TASK, "gaussian", 0.1)


def answers(*right: int) -> Scores:
    return Scores(np.array(right, float), np.ones(len(right)))


def made_run(arm: str, seed: int, repaired: Scores, undefended: Scores, clean: Scores) -> StudyRun:
    everything = answers(1, 1, 1, 1)
    cells = {
        "no_defense": {CLEAN: everything, SPARED: everything, HARMED: undefended},
        "smoothing": {CLEAN: everything, SPARED: everything, HARMED: undefended},
        "cachemedic": {CLEAN: clean, SPARED: everything, HARMED: repaired},
    }
    return StudyRun(arm, "a-model", seed, "smoothing", cells, frozenset({HARMED}))


def test_gain_counts_only_when_the_whole_interval_leaves_zero() -> None:
    half, whole, none = answers(1, 0, 1, 0), answers(1, 1, 1, 1), answers(0, 0, 0, 0)
    better = mean_effect([difference([whole] * 5, [none] * 5)])
    assert (better.verdict, better.gain.estimate, better.n_seeds, better.n_items) == ("better", 1.0, 5, 4)
    assert mean_effect([difference([none] * 5, [whole] * 5)]).verdict == "worse"
    mixed = mean_effect([difference([half, answers(0, 1, 0, 1)], [answers(0, 1, 0, 1), half])])
    assert (mixed.verdict, mixed.gain.estimate) == ("undecided", 0.0)
    assert mixed.gain.low < 0 < mixed.gain.high


def test_seeds_that_disagree_widen_the_interval_beyond_that_of_the_examples() -> None:
    rng = np.random.default_rng(3)
    base = [Scores(np.zeros(40), np.ones(40)) for _ in range(5)]
    steady = [Scores(np.full(40, 0.3) + rng.normal(0, 0.1, 40), np.ones(40)) for _ in range(5)]
    restless = [Scores(scores.above + shift, scores.below) for scores, shift in zip(steady, (-1.0, -0.5, 0.0, 0.5, 1.0), strict=True)]
    narrow, wide = mean_effect([difference(steady, base)]), mean_effect([difference(restless, base)])
    assert narrow.verdict == "better" and wide.verdict == "undecided"
    assert wide.gain.high - wide.gain.low > 5 * (narrow.gain.high - narrow.gain.low)


def test_cells_are_averaged_before_they_are_resampled() -> None:
    up, down = [answers(1, 1), answers(1, 1)], [answers(0, 0), answers(0, 0)]
    assert mean_effect([difference(up, down), difference(down, up)]).gain.estimate == 0.0


def test_runs_on_other_examples_are_refused() -> None:
    with pytest.raises(UsageError, match="different examples"):
        difference([answers(1, 0)], [Scores(np.zeros(2), np.full(2, 3.0))])
    with pytest.raises(UsageError, match="equally many"):
        difference([answers(1)], [answers(1), answers(0)])
    with pytest.raises(UsageError, match="at least one"):
        mean_effect([])


def test_each_arm_meets_no_defence_the_best_heuristic_and_the_control() -> None:
    damaged, half, whole = answers(0, 0, 0, 0), answers(1, 1, 0, 0), answers(1, 1, 1, 1)
    runs = [made_run("main_contr", seed, half, damaged, answers(1, 1, 1, 0)) for seed in (1, 2)]
    runs += [made_run(CONTROL, seed, damaged, damaged, whole) for seed in (1, 2)]
    ours, control = compare(runs)
    assert [row["rival"] for row in ours["pooled"]] == ["no defence", "best heuristic", "control"]
    assert all(row["estimate"] == 0.5 for row in ours["pooled"])
    assert [row["rival"] for row in control["pooled"]] == ["no defence", "best heuristic", "A"]
    assert ours["harm"] == [{"task": TASK, "harm": 1.0, "left": 0.5, "undone": 0.5, "cells": 1}]
    assert ours["clean"][0]["estimate"] == -0.25
    assert {(cell["type"], cell["epsilon"]) for cell in ours["cells"]} == {("gaussian", 1.0)}


def test_a_cell_counts_only_when_every_run_is_harmed_there() -> None:
    damaged, whole = answers(0, 0, 0, 0), answers(1, 1, 1, 1)
    runs = [made_run("main_contr", seed, whole, damaged, whole) for seed in (1, 2)]
    assert harmed_places(runs) == [HARMED]
    spared = StudyRun(runs[1].arm, runs[1].model, 2, "smoothing", runs[1].cells, frozenset())
    assert harmed_places([runs[0], spared]) == []
    assert compare([runs[0], spared])[0]["pooled"] == []


def test_damage_at_full_strength_counts_once() -> None:
    stronger: Place = (TASK, "gaussian", 2.0)
    damaged, whole = answers(0, 0, 0, 0), answers(1, 1, 1, 1)
    runs = []
    for seed in (1, 2):
        run = made_run("main_contr", seed, whole, damaged, whole)
        cells = {name: {**held, stronger: held[HARMED]} for name, held in run.cells.items()}
        runs.append(StudyRun(run.arm, run.model, seed, "smoothing", cells, frozenset({HARMED, stronger})))
    assert harmed_places(runs) == [HARMED]
    cells = {name: {**held, stronger: answers(0, 0, 1, 0)} for name, held in runs[0].cells.items()}
    other = StudyRun("main_contr", "a-model", 1, "smoothing", cells, frozenset({HARMED, stronger}))
    assert harmed_places([other, runs[1]]) == [HARMED, stronger]


def test_an_arm_without_all_seeds_is_named_and_left_out() -> None:
    entries = [{"model": "a", "repair": name, "seeds": list(range(count))} for name, count in (("A", 5), ("D", 1))]
    entries.append({"model": "b", "repair": "D", "seeds": [1]})
    whole, rest = complete_arms(entries)
    assert [(entry["model"], entry["repair"]) for entry in whole] == [("a", "A"), ("b", "D")]
    assert rest == ["a, D: 1 of 5 seeds are evaluated"]


def test_runs_are_sorted_into_arms_by_name_and_an_empty_folder_is_named(tmp_path: Path) -> None:
    assert arm_of("control_clean_seed1234") == CONTROL
    assert arm_of("holdout_contr_seed1234") is None
    assert set(ARMS) >= {"main_contr", "family_b", "family_c", "token_gate"}
    with pytest.raises(MissingFileError, match="medic_study"):
        read_study([tmp_path])


def reading(seed: int, undefended: float, clean_drift: float, response: float) -> Reading:
    drift = {
        "no_defense": {0.0: Drift(0.0, None), 1.0: Drift(undefended, undefended)},
        "best_heuristic": {},
        "cachemedic": {0.0: Drift(clean_drift, None), 1.0: Drift(clean_drift + response, response)},
    }
    return Reading("a-run", seed, "a-model", None, 0.5, (), frozenset(), {}, {}, {}, drift, True)


def test_response_is_told_apart_from_the_drift_of_a_clean_cache() -> None:
    (row,) = drift_rows("main_contr", [reading(seed, 0.4, 2.0, 0.1) for seed in (1, 2, 3)])
    assert row["drift"]["cachemedic"] == pytest.approx(2.1) and row["drift"]["no_defense"] == pytest.approx(0.4)
    assert row["response"]["cachemedic"] == pytest.approx(0.1)
    assert row["repaired_minus_undefended"]["high"] == pytest.approx(-0.3)
    assert row["delta"] == 1.0 and row["seeds"] == [1, 2, 3]
    assert "| `a-model` | A | 1 | 0.400 | 2.100 | 0.400 | 0.100 | **-0.300 [-0.300, -0.300]** |" in drift_lines([row])
    assert list(drift_lines([])) == []


def test_page_shows_gains_in_bold_only_when_decided() -> None:
    damaged, whole = answers(0, 0, 0, 0), answers(1, 1, 1, 1)
    runs = [made_run("main_contr", seed, whole, damaged, whole) for seed in (1, 2)]
    text = "\n".join(page({"results": compare(runs), "drift": [], "gates": [], "left_out": ["tiny_5m/x: torn"]}))
    whole_gain = "**+100.0 [+100.0, +100.0]**"
    assert f"| A | needle, points | 1 | 100 % | {whole_gain} | {whole_gain} | – | – | +0.0 [+0.0, +0.0] |" in text
    assert "| A | 1 / 0 / 0 |" in text
    assert "Left out: tiny_5m/x: torn" in text
