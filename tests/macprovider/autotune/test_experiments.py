"""The decision rules of the experiments (specification 14), and experiments over scripted candidates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.tuning import Behaviour, Bench, Tuned, scripted_world, write_script
from macprovider.autotune.arguments import WrongArguments
from macprovider.autotune.experiments import rules as rules
from macprovider.autotune.experiments.command import parse_experiment
from macprovider.autotune.experiments.runs import EXPERIMENTS, Plan, body
from macprovider.autotune.run import execute

X, Y = "o/X-7B", "o/Y-3B"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, monkeypatch, capsys)


def experiment(bench: Bench, behaviours: dict[str, Behaviour], name: str, *flags: str, pairs: int = 2) -> Tuned:
    options, plan = parse_experiment([name, *bench.flags(*flags)])
    plan = Plan(plan.name, plan.models, pairs if name == "order-bias" else plan.pairs, 0.0)
    return bench.outcome(execute(options, scripted_world(write_script(bench.script, behaviours)), body(plan), name))


def test_oq_a_noise_decides_in_both_directions() -> None:
    noisy = rules.tie_epsilon({"m": [10.0, 11.0, 9.0]}, 0.02)
    assert not noisy.keep and "0.1" in noisy.advice and "raise" in noisy.advice
    quiet = rules.tie_epsilon({"m": [10.0, 10.01, 10.0]}, 0.02)
    assert not quiet.keep and "shrink" in quiet.advice
    assert rules.tie_epsilon({"m": [10.0, 10.1, 10.2]}, 0.02).keep
    assert not rules.tie_epsilon({"calm": [10.0, 10.1, 10.2], "noisy": [10.0, 12.0, 9.0]}, 0.02).keep


def test_oq_b_the_gap_of_medians() -> None:
    assert rules.discriminable_gap([10.0] * 10, 3, 0) == 0
    assert rules.replicates([10.0] * 10, 0.02).keep
    wide = rules.replicates([8.0, 12.0] * 5, 0.02)
    assert not wide.keep and "--stage2-replicates 5" in wide.advice
    assert rules.discriminable_gap([8.0, 12.0] * 5, 3, 0) == 4.0
    spread = [9.0, 9.5, 10.0, 10.5, 11.0]
    assert rules.discriminable_gap(spread, 5, 1) <= rules.discriminable_gap(spread, 1, 1)


def test_oq_c_eight_bits_must_win_everywhere() -> None:
    assert not rules.kv_axis({"a": {None: 10.0, 8: 9.9}, "b": {None: 5.0, 4: 4.0, 8: 6.0}}, 0.02).keep
    assert rules.kv_axis({"a": {None: 10.0, 8: 9.0}, "b": {8: 6.0}}, 0.02).keep
    assert rules.kv_axis({"a": {None: 10.0}}, 0.02).keep


@pytest.mark.parametrize(("wrong", "advice"), [(0, "keep"), (1, "keep"), (2, "replicates 2"), (4, "replicates 3")])
def test_oq_d_rates_decide(wrong: int, advice: str) -> None:
    verdicts = {f"m{number}": (True, number >= wrong) for number in range(20)}
    assert advice in rules.stage1_replicates(verdicts).advice
    mirrored = {model: (three, one) for model, (one, three) in verdicts.items()}
    assert advice in rules.stage1_replicates(mirrored).advice


def test_oq_e_one_mismatch_in_ten_is_enough() -> None:
    assert rules.order_bias([("a", "a")] * 10).keep
    assert not rules.order_bias([("a", "a")] * 9 + [("a", "b")]).keep
    assert rules.order_bias([("a", "a")] * 19 + [("a", "b")]).keep  # 5 % is not above 5 %
    biased = rules.order_bias([("a", "b")] * 10)
    assert "order or heat biases" in biased.advice and biased.figures["same_order_mismatches"] == 0
    noisy = rules.order_bias([("a", "b"), ("b", "b"), ("a", "a"), ("b", "a")])
    assert "and 8 of 12 in the same order: noise between these cells explains it" in noisy.advice and not noisy.keep


def test_order_bias_measures_both_orders(bench: Bench) -> None:
    slow: Behaviour = {"token_s": 0.03}
    done = experiment(bench, {f"{X} unset 1 256": slow}, "order-bias", "--model", X, "--max-batch-axis", "1,2", "--pairs", "10")
    assert done.code == 0 and done.run["experiment"] == "order-bias" and done.run["recommendation_json"] is None
    assert [row["max_batch"] for row in done.trials] == [1, 2, 2, 1] * 2 and {row["stage"] for row in done.trials} == {2}
    assert done.document["finding"]["keep"] is True and done.document["finding"]["figures"]["pairs"] == 2
    assert "keep the fixed order" in done.out


def test_the_other_experiments_write_rows_and_decide(bench: Bench) -> None:
    noise = experiment(bench, {}, "tie-epsilon", "--model", X, "--stage2-replicates", "3")
    assert noise.code == 0 and [row["replicates_n"] for row in noise.trials] == [3] and X in noise.document["finding"]["figures"]["cv"]
    gap = experiment(bench, {}, "replicates", "--model", X, "--stage2-replicates", "3")
    assert gap.code == 0 and gap.document["finding"]["figures"]["gap_tps"] >= 0
    kv = experiment(bench, {f"{X} 8 1 256": {"token_s": 0.05}}, "kv-axis", "--model", X, "--kv-bits-axis", "unset,8")
    assert kv.document["finding"]["figures"]["wins"] == {X: False}
    # the second measured request of Y fails, so one replicate and three disagree
    probes = experiment(bench, {Y: {"fail_at": [3]}}, "stage1-replicates", "--candidate-models", f"{X},{Y}")
    assert [(row["stage"], row["replicates_n"]) for row in probes.trials] == [(1, 1), (1, 3)] * 2
    assert probes.document["finding"]["figures"]["false_fit_rate"] == 0.5 and "--stage1-replicates 3" in probes.out
    report = bench.command("--report-only", "--db-path", str(bench.database))
    assert report.code == 2 and "no run yet" in report.err  # experiments are no tuning


def test_an_experiment_without_weights_measures_nothing(bench: Bench) -> None:
    done = experiment(bench, {X: {"pull": 4, "pull_log": "no network"}}, "kv-axis", "--model", X)
    assert done.code == 3 and "no network" in done.err and done.trials == []


def test_wrong_weights_end_an_experiment(bench: Bench) -> None:
    done = experiment(bench, {X: {"pull": 7, "pull_log": "a wrong digest."}}, "kv-axis", "--candidate-models", f"{X},{Y}")
    assert done.code == 7 and done.run["exit_reason"] == "pre_warm_integrity_failure" and "a wrong digest. The run stops" in done.err
    assert done.trials == []


def test_switches_of_tuning_are_told_to_mean_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    options, _ = parse_experiment(["kv-axis", "--kv-bits-axis", "8", "--quality-gate", "--prune", "--model", X])
    assert (options.quality_gate, options.prune) == (False, False)
    told = capsys.readouterr().err
    assert "--quality-gate has no meaning" in told and "--prune has no meaning" in told


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["order-bias"], "--model"),
        (["order-bias", "--model", X, "--pairs", "9"], "--pairs"),
        (["order-bias", "--model", X, "--pair-idle", "59"], "--pair-idle"),
        (["tie-epsilon", "--model", X, "--stage2-replicates", "2"], "--stage2-replicates"),
        (["kv-axis", "--model", f"{X},{Y}"], "--model"),
        (["kv-axis", "--model", X, "--report-only"], "--report-only"),
        (["thermal"], "experiment"),
        (["thermal", "--port", "0"], "--port"),
    ],
)
def test_wrong_flags_are_named(words: list[str], named: str) -> None:
    with pytest.raises(WrongArguments, match=named):
        parse_experiment(words)


def test_defaults_of_experiments() -> None:
    options, plan = parse_experiment(["order-bias", "--model", X])
    assert (plan.pairs, plan.pair_idle_s, plan.models) == (10, 60.0, (X,))
    assert parse_experiment(["tie-epsilon"])[0].stage2_replicates == 10
    assert replace(options, verbose=True).candidate_models == (X,)
    assert set(EXPERIMENTS) == {"tie-epsilon", "replicates", "kv-axis", "stage1-replicates", "order-bias"}
