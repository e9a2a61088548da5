"""Gates 1 to 3 over many runs: paired intervals over seeds, harmed cells only, no verdict from too few seeds (specs/medic.md, 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cachemedicpp.evaluation.bootstrap import paired_difference
from cachemedicpp.paper.gate_readings import Drift, Place, Reading, read_runs
from cachemedicpp.paper.gates import decide_gates, gate_one, gate_three, gate_two, gates_document, gates_markdown
from helpers.medic_results import write_results
from modelwright.errors import MissingFileError, UsageError

HARMED: Place = ("sst2_prompted", "quant_noise", 0.32)
SPARED: Place = ("sst2_prompted", "gaussian", 0.32)
SMALL: Place = ("sst2_prompted", "quant_noise", 0.04)
SEEDS = range(5)


def reading(seed: int, *, gain: float = 0.1, spared_gain: float = 0.0, slope: float = 0.8, **changes: Any) -> Reading:
    """One task, two types; the repair gains `gain` on the harmed cell and `spared_gain` on the one that nothing harms."""
    places = (HARMED, SPARED, SMALL)
    base = {HARMED: 0.5 + 0.01 * seed, SPARED: 0.8, SMALL: 0.7}
    gains = {HARMED: gain + 0.005 * seed, SPARED: spared_gain, SMALL: 5 * gain}
    drift: dict[str, Mapping[float, Drift]] = {
        curve: {delta: Drift(value * delta, value * delta) for delta in (0.5, 1.0, 2.0)}
        for curve, value in (("no_defense", 1.0), ("best_heuristic", 3.0), ("cachemedic", slope), ("cachemedic_no_contr", 1.0))
    }
    scores = {
        "no_defense": base,
        "best_heuristic": {place: value + 0.02 for place, value in base.items()},
        "cachemedic": {place: value + 0.02 + gains[place] for place, value in base.items()},
    }
    clean = {"sst2_prompted": {"no_defense": 0.8, "best_heuristic": 0.7, "cachemedic": 0.795}}
    clean["wikitext2_ppl"] = {"no_defense": 10.0, "best_heuristic": 12.0, "cachemedic": 10.1}
    made = Reading(
        f"run_{seed}", seed, "toy", None, 0.5, places, frozenset({HARMED, SMALL}), scores, clean, {"sst2_prompted": 0.8}, drift, True
    )
    return replace(made, **changes)


def verdicts(gate: Any) -> list[str]:
    return [clause.verdict for clause in gate.clauses]


def test_gate_one_passes_when_every_clause_does() -> None:
    gate = gate_one([reading(seed) for seed in SEEDS])
    assert verdicts(gate) == ["pass"] * 5 and gate.verdict == "pass" and gate.seeds == tuple(SEEDS)
    (row,) = gate.clauses[1].rows  # neither the spared cell nor the one below epsilon 0.08
    gains = [0.1 + 0.005 * seed for seed in SEEDS]
    assert list(row.values.values()) == pytest.approx(gains)
    assert row.effect == paired_difference(list(row.values.values()), [0.0] * 5) and row.effect.estimate == pytest.approx(0.11)
    assert gate.clauses[2].rows[0].effect.estimate == pytest.approx(1.0)  # percent
    assert gate.clauses[3].rows[0].effect.estimate == pytest.approx(0.5)  # points
    assert [row.effect.estimate for row in gate.clauses[4].rows] == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"has_figures": False}, 0),
        ({"gain": -0.2}, 1),
        (
            {"clean": {"wikitext2_ppl": {"no_defense": 10.0, "cachemedic": 10.2}, "sst2_prompted": {"no_defense": 0.8, "cachemedic": 0.8}}},
            2,
        ),
        (
            {
                "clean": {
                    "wikitext2_ppl": {"no_defense": 10.0, "cachemedic": 10.0},
                    "sst2_prompted": {"no_defense": 0.8, "cachemedic": 0.78},
                }
            },
            3,
        ),
        ({"slope": 1.2}, 4),
    ],
)
def test_each_clause_can_fail_alone(changes: dict[str, Any], clause: int) -> None:
    gate = gate_one([reading(seed, **changes) for seed in SEEDS])
    assert verdicts(gate) == ["fail" if place == clause else "pass" for place in range(5)] and gate.verdict == "fail"


def test_a_gain_where_nothing_was_harmed_counts_for_nothing() -> None:
    gate = gate_one([reading(seed, gain=-0.2, spared_gain=0.5) for seed in SEEDS])
    assert gate.clauses[1].verdict == "fail"
    unharmed = gate_one([reading(seed, harmed=frozenset()) for seed in SEEDS])
    assert unharmed.clauses[1].verdict == "not measured" and "sst2_prompted at 0.32" in unharmed.clauses[1].note
    one_spared = [reading(seed, harmed=frozenset() if seed == 3 else frozenset({HARMED})) for seed in SEEDS]
    assert gate_one(one_spared).clauses[1].verdict == "not measured" and gate_one(one_spared).verdict == "undecided"


def test_a_cell_left_out_and_a_missing_counterpart_leave_the_gate_undecided() -> None:
    runs = [reading(seed) for seed in SEEDS]
    alone = [replace(run, drift={**run.drift, "cachemedic_no_contr": {}}) for run in runs]
    assert gate_one(alone).clauses[4].verdict == "not measured" and gate_one(alone).verdict == "undecided"
    without_task = [replace(run, clean={}) for run in runs]
    assert verdicts(gate_one(without_task))[2:4] == ["not measured"] * 2


def test_four_seeds_decide_nothing_and_a_spread_around_the_limit_neither() -> None:
    four = gate_one([reading(seed) for seed in range(4)])
    assert verdicts(four)[1:] == ["undecided"] * 4 and all(row.met for row in four.clauses[1].rows)
    wavering = gate_one([reading(seed, gain=0.3 if seed % 2 else -0.25) for seed in SEEDS])
    (row,) = wavering.clauses[1].rows
    assert row.effect.low < 0 < row.effect.high and row.verdict == "undecided" and wavering.verdict == "undecided"


def held_out(seed: int, split: str, lambda_contr: float, **changes: Any) -> Reading:
    return reading(seed, held_out=split, lambda_contr=lambda_contr, run_id=f"{split}_{lambda_contr}_{seed}", **changes)


def test_gate_two_needs_one_type_that_improves_and_a_lower_sensitivity() -> None:
    better = [held_out(seed, "loto_a", 0.5, gain=0.2) for seed in SEEDS] + [held_out(seed, "loto_a", 0.0) for seed in SEEDS]
    same = [held_out(seed, "loto_b", weight) for seed in SEEDS for weight in (0.5, 0.0)]
    gate = gate_two(better + same)
    assert verdicts(gate) == ["pass", "pass"]
    first, second = gate.clauses[0].rows
    assert first.effect.estimate == pytest.approx(3.0 * 0.1 / 0.8)  # over both harmed cells: (0.1 + 0.5) / 2, relative to 0.8
    assert second.verdict == "fail" and second.effect.estimate == pytest.approx(0.0)
    assert [row.what.split(":")[0] for row in gate.clauses[1].rows] == ["loto_a", "loto_a", "loto_b", "loto_b"]
    unstable = gate_two([replace(run, drift=reading(run.seed, slope=1.5).drift) for run in better])
    assert verdicts(unstable) == ["pass", "fail"] and unstable.verdict == "fail"
    lonely = gate_two(better[:5])
    assert verdicts(lonely) == ["not measured", "pass"] and "no pair" in lonely.clauses[0].note
    assert gate_two([]).verdict == "not measured"


def test_gate_three_needs_two_types() -> None:
    both = frozenset({HARMED, SPARED})
    runs = [reading(seed, harmed=both, spared_gain=0.1) for seed in SEEDS]
    assert verdicts(gate_three(runs)) == ["pass", "pass"] and len(gate_three(runs).clauses[0].rows) == 2
    one = gate_three([reading(seed) for seed in SEEDS])
    assert one.clauses[0].verdict == "fail" and "gaussian" in one.clauses[0].note
    assert gate_three([reading(seed, harmed=both, spared_gain=-0.1) for seed in SEEDS]).clauses[0].verdict == "fail"


# ---------------------------------------------------------------------- run directories


def test_gates_are_decided_over_run_directories(tmp_path: Path) -> None:
    main = [write_results(tmp_path / f"main_{seed}", seed=seed, recovered=0.8) for seed in SEEDS]
    (first,) = read_runs(main[:1])
    assert first.harmed and {kind for _, kind, _ in first.harmed} == {"quant_noise"} and first.seed == 0 and not first.has_figures
    holdout = {"eval.ood_protocol": "loto_holdout_quant_noise"}
    others = [
        write_results(tmp_path / f"out_{seed}_{weight}", seed=seed, recovered=share, overrides=holdout | {"train.lambda_contr": weight})
        for seed in SEEDS
        for weight, share in ((0.5, 0.9), (0.0, 0.2))
    ]
    gates = decide_gates(main, others)
    assert [gate.verdict for gate in gates] == ["fail", "pass", "not measured"]  # nobody has drawn the figures of gate 1 yet
    assert verdicts(gates[0]) == ["fail", "pass", "pass", "pass", "pass"] and gates[1].seeds == tuple(SEEDS)
    document = gates_document(gates)
    assert orjson.loads(orjson.dumps(document)) == document and document[1]["verdict"] == "pass"
    lines = gates_markdown(gates).splitlines()
    assert {line.count("|") for line in lines} == {7} and lines[0].startswith("| Gate |") and "**fail**" in lines[2]
    assert any("loto_holdout_quant_noise" in line and "| 5 | above 0 | pass |" in line for line in lines)


def test_missing_files_and_twice_the_same_seed_are_named(tmp_path: Path) -> None:
    run = write_results(tmp_path / "a")
    (run / "metrics/stability_metrics.json").unlink()
    with pytest.raises(MissingFileError, match=r"(?s)stability_metrics.json.*nowhere"):
        decide_gates([run, tmp_path / "nowhere"])
    twins = [write_results(tmp_path / name) for name in ("b", "c")]
    with pytest.raises(UsageError, match="seed 1234: b and c"):
        decide_gates(twins)
    other = write_results(tmp_path / "d", seed=2, overrides={"model.name": "modelwright/tiny-0.4m"})
    with pytest.raises(UsageError, match="different models"):
        decide_gates([twins[0], other])
    ablation = write_results(tmp_path / "e", overrides={"train.lambda_contr": 0.0})
    assert decide_gates([twins[0], ablation])[0].seeds == (1234,)  # a run without the penalty is no candidate of gate 1
