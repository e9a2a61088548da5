"""Formulas of the aggregation on tables worked out by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cachemedicpp.evaluation.aggregation import Cell, area_under_curve, best_heuristic, score_table
from cachemedicpp.evaluation.bootstrap import compare_seeds, paired_difference, resampled_ratios
from cachemedicpp.evaluation.comparison import aggregate
from cachemedicpp.evaluation.grid import DEFENCES, HEURISTICS, Unit, grid_units
from cachemedicpp.evaluation.outcomes import (
    ExampleScore,
    accuracy_error,
    example_score,
    perplexity,
    perplexity_error,
    perplexity_score,
    task_value,
)
from cachemedicpp.phases.metric_models import TaskMetrics
from modelwright.errors import UsageError

EPS = (0.0, 0.08, 0.16)
TYPES = ("gaussian", "quant_noise")


def choice(index: int, correct: bool, task: str = "sst2_prompted") -> ExampleScore:
    return ExampleScore(task, index, index, 2, 0.1 if correct else 2.0, correct, (-0.1, -2.0))


def text(index: int, loss: float, tokens: int) -> ExampleScore:
    return ExampleScore("wikitext2_ppl", index, index, tokens, loss, None, (-loss if math.isfinite(loss) else None,))


def accuracy_cell(unit: Unit, right: int, of: int = 10) -> Cell:
    return Cell(unit, tuple(choice(index, index < right, unit.task) for index in range(of)))


def grid(right: dict[tuple[str, float | None], int], task: str = "sst2_prompted", of: int = 10) -> list[Cell]:
    """A grid of one task; `right` gives correct answers by (defence, epsilon), epsilon None for the clean cell."""
    cells = []
    for unit in grid_units([task], TYPES, EPS):
        epsilon = None if unit.stage == "clean" else unit.epsilon
        cells.append(accuracy_cell(unit, right.get((unit.defence, epsilon), 5), of))
    return cells


def test_units_are_counted_named_and_ordered_as_the_specification_says() -> None:
    units = grid_units(["wikitext2_ppl", "sst2_prompted"], TYPES, EPS)
    assert len(units) == 2 * 6 * (1 + len(TYPES) * len(EPS))
    assert units[0].key == "clean|wikitext2_ppl|no_defense|none|0"
    assert units[6].key == "corr|wikitext2_ppl|no_defense|gaussian|0"
    assert Unit("corr", "sst2_prompted", "cachemedic", "gaussian", 0.1 + 0.2).key == "corr|sst2_prompted|cachemedic|gaussian|0.3"
    assert len({unit.key for unit in units}) == len(units)


def test_area_is_the_trapezoid_over_the_listed_points() -> None:
    assert area_under_curve((0, 0.08, 0.16), (1.0, 0.5, 0.0)) == pytest.approx(0.08 * 0.75 + 0.08 * 0.25)
    assert area_under_curve((0, 0.01, 0.16), (0.3, 0.3, 0.3)) == pytest.approx(0.16 * 0.3)
    assert area_under_curve((0.5,), (1.0,)) == 0


def test_best_heuristic_is_the_largest_area_and_the_first_listed_of_equals() -> None:
    """Acceptance 37."""
    areas = {"reset_clear": 0.1, "smoothing": 0.3, "masking_dropout": 0.3, "clipping_renorm": 0.2}
    assert best_heuristic(areas) == "smoothing"
    assert best_heuristic(dict.fromkeys(reversed(HEURISTICS), 0.5)) == "reset_clear"
    with pytest.raises(UsageError, match="No heuristic"):
        best_heuristic({})


def test_aggregate_on_a_table_worked_out_by_hand() -> None:
    """Acceptance 37, through the whole aggregation: curves, areas, clean means, relative score and harm."""
    right = {("no_defense", None): 8, ("no_defense", 0.0): 8, ("no_defense", 0.08): 6, ("no_defense", 0.16): 2}
    right |= {("cachemedic", None): 8, ("cachemedic", 0.0): 8, ("cachemedic", 0.08): 8, ("cachemedic", 0.16): 6}
    for name in ("smoothing", "clipping_renorm"):
        right |= {(name, None): 7, (name, 0.0): 7, (name, 0.08): 6, (name, 0.16): 6}
    found = aggregate(grid(right), EPS, seed=1, resamples=500)
    assert found["best_heuristic_name"] == "smoothing"
    assert found["score_vs_eps"] == {
        "eps": [0.0, 0.08, 0.16],
        "no_defense": pytest.approx([0.8, 0.6, 0.2]),
        "best_heuristic": pytest.approx([0.7, 0.6, 0.6]),
        "cachemedic": pytest.approx([0.8, 0.8, 0.6]),
    }
    assert found["robustness_auc"] == pytest.approx({"no_defense": 0.088, "best_heuristic": 0.1, "cachemedic": 0.12})
    assert found["heuristic_auc"]["smoothing"] == pytest.approx(found["heuristic_auc"]["clipping_renorm"])
    assert found["heuristic_auc"]["reset_clear"] == pytest.approx(0.08)
    assert found["clean_regression"]["no_defense"] == pytest.approx(0.8)
    assert found["clean_regression"]["masking_dropout"] == pytest.approx(0.5)
    assert found["relative_score"]["cachemedic"] == pytest.approx([1.0, 1.0, 0.75])
    assert found["harm"]["relative_loss"] == pytest.approx([0.0, 0.25, 0.75])
    losses = {(cell["corruption_type"], cell["epsilon"]): cell for cell in found["harm"]["cells"]}
    assert losses["gaussian", 0.16]["loss"]["estimate"] == pytest.approx(0.6)
    assert losses["gaussian", 0.16]["no_harm"] is False
    assert losses["gaussian", 0.0]["no_harm"] is True
    area = next(pair for pair in found["paired"] if pair["quantity"] == "robustness_auc" and pair["theirs"] == "no_defense")
    assert area["difference"]["estimate"] == pytest.approx(0.032)
    assert area["difference"]["low"] <= 0.032 <= area["difference"]["high"]
    assert {pair["theirs"] for pair in found["paired"]} == {"no_defense", "smoothing"}
    assert all(pair["no_harm"] for pair in found["paired"] if pair["epsilon"] == 0.0)
    json.dumps(found, allow_nan=False)
    TaskMetrics.model_validate({**found, "overhead": {}})


def test_perplexity_cells_enter_inverted_and_relative_to_the_clean_one() -> None:
    cells = []
    for unit in grid_units(["wikitext2_ppl"], ("gaussian",), (0.0, 0.5)):
        per_token = 2.0 if unit.epsilon == 0.5 and unit.defence == "no_defense" else 1.0
        cells.append(Cell(unit, tuple(text(index, per_token * tokens, tokens) for index, tokens in enumerate((4, 6, 10)))))
    found = aggregate(cells, (0.0, 0.5), seed=0, resamples=200)
    assert found["clean_metrics"]["wikitext2_ppl"]["no_defense"] == pytest.approx(math.e)
    assert found["score_vs_eps"]["no_defense"] == pytest.approx([math.exp(-1), math.exp(-2)])
    assert found["relative_score"]["no_defense"] == pytest.approx([1.0, math.exp(-1)])
    harm = found["harm"]["cells"][1]
    assert harm["loss"] == {"estimate": pytest.approx(1.0), "low": pytest.approx(1.0), "high": pytest.approx(1.0), "n": 3}
    assert harm["no_harm"] is False


def test_the_needle_counts_only_when_it_is_found_without_damage() -> None:
    def both(found: int) -> list[Cell]:
        needle = grid({("no_defense", None): found}, "needle_long_context")
        return grid({("no_defense", None): 8}) + needle

    blind = aggregate(both(4), EPS, seed=0, resamples=100)
    assert list(blind["excluded_tasks"]) == ["needle_long_context"]
    assert "0.400 is below 0.50" in blind["excluded_tasks"]["needle_long_context"]
    assert blind["clean_regression"]["no_defense"] == pytest.approx(0.8)
    seeing = aggregate(both(5), EPS, seed=0, resamples=100)
    assert seeing["excluded_tasks"] == {} and seeing["clean_regression"]["no_defense"] == pytest.approx(0.65)


def test_without_any_counted_task_the_aggregate_is_empty_and_valid() -> None:
    found = aggregate(grid({("no_defense", None): 1}, "needle_long_context"), EPS, seed=0, resamples=50)
    assert found["score_vs_eps"]["cachemedic"] == [None, None, None]
    assert found["robustness_auc"]["no_defense"] is None and found["best_heuristic_name"] == HEURISTICS[0]
    TaskMetrics.model_validate({**found, "overhead": {}})


def test_an_incomplete_grid_and_unpaired_cells_are_refused() -> None:
    cells = grid({})
    with pytest.raises(UsageError, match=r"lacks 1 of its cells .*clean\|sst2_prompted\|no_defense"):
        score_table(cells[1:], EPS)
    with pytest.raises(UsageError, match="different examples"):
        score_table([replace(cells[0], examples=cells[0].examples[1:]), *cells[1:]], EPS)


def test_values_scores_and_standard_errors_follow_their_formulas() -> None:
    assert perplexity(20.0, 10) == pytest.approx(math.exp(2))
    assert perplexity(1e9, 10) == math.exp(80) and perplexity(0.0, 0) == math.inf and perplexity(math.nan, 3) == math.inf
    assert perplexity_score(4.0) == 0.25 and perplexity_score(math.inf) == 0 and perplexity_score(0.0) == 1e8
    assert accuracy_error(0.7, 250) == pytest.approx(0.029, abs=1e-4)  # the specification's own example, section 11.3
    value = task_value("sst2_prompted", [choice(0, True), choice(1, False), choice(2, True), choice(3, True)])
    assert (value.value, value.score, value.tokens, value.examples) == (0.75, 0.75, 8, 4)
    assert value.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))


def test_perplexity_error_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(5)
    tokens = rng.integers(20, 60, 300)
    scores = [text(index, float(count * rng.normal(2.0, 0.4)), int(count)) for index, count in enumerate(tokens)]
    losses = np.array([[score.loss] for score in scores])
    samples = np.exp(resampled_ratios(losses, tokens[:, None].astype(float), seed=3, resamples=4000))
    assert perplexity_error(scores) == pytest.approx(float(samples.std()), rel=0.06)
    assert perplexity_error(scores[:1]) is None


def test_examples_that_wrap_around_do_not_pretend_to_be_independent() -> None:
    once = [choice(index, index % 4 != 0) for index in range(20)]
    twice = once + [replace(score, index=score.index + 20) for score in once]
    assert task_value("sst2_prompted", twice).standard_error == task_value("sst2_prompted", once).standard_error
    assert task_value("sst2_prompted", twice).items == 20


def test_example_records_survive_json_and_name_what_they_lack() -> None:
    for score in (choice(3, True), text(1, 12.5, 4), text(2, math.inf, 4)):
        record = json.loads(json.dumps(score.as_dict(), allow_nan=False))
        assert example_score(record) == replace(score, log_probabilities=tuple(record["log_probabilities"]))
    with pytest.raises(Exception, match="field tokens"):
        example_score({"task": "x", "example": 0, "item": 0, "loss": 1.0, "correct": None, "log_probabilities": []})


def test_bootstrap_is_seeded_paired_and_has_the_right_width() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 10, 400)
    ours, theirs = shared + rng.normal(0.5, 1, 400), shared
    first, again = paired_difference(ours.tolist(), theirs.tolist(), seed=4), paired_difference(ours.tolist(), theirs.tolist(), seed=4)
    assert first == again and first != paired_difference(ours.tolist(), theirs.tolist(), seed=5)
    error = (ours - theirs).std() / 20
    assert first.high - first.low == pytest.approx(2 * 1.96 * error, rel=0.05)  # unpaired it would be fourteen times as wide
    assert first.above_zero and first.n == 400
    with pytest.raises(UsageError, match="found 2 and 1"):
        paired_difference([1, 2], [1])


def test_seeds_are_compared_pair_by_pair() -> None:
    found = compare_seeds({1: 0.5, 2: 0.7, 3: 0.6}, {3: 0.5, 1: 0.3, 2: 0.4})
    assert found.differences == pytest.approx({1: 0.2, 2: 0.3, 3: 0.1})
    assert found.effect.estimate == pytest.approx(0.2) and found.sd == pytest.approx(0.1)
    assert found.effect.low == pytest.approx(0.1) and found.effect.high == pytest.approx(0.3)
    json.dumps(found.as_dict(), allow_nan=False)
    with pytest.raises(UsageError, match="no pair for: 2, 9"):
        compare_seeds({1: 0.5, 2: 0.1}, {1: 0.5, 9: 0.1})


def test_aggregation_needs_no_torch() -> None:
    code = "import sys, cachemedicpp.evaluation.comparison; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_defences_are_those_of_the_specification() -> None:
    assert DEFENCES == ("no_defense", "reset_clear", "smoothing", "masking_dropout", "clipping_renorm", "cachemedic")
