"""The study of memory faults: its arithmetic on hand-made rows, its detectors on known faults, and one whole quick run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from benchmarks.medic_common.subjects import Pairs
from benchmarks.medic_faults.defences import (
    PLAIN,
    TRAINED,
    calibrate,
    checksum_alarms,
    defend,
    gate_scores,
    gates,
    guard,
    range_alarms,
    remember,
    threshold,
)
from benchmarks.medic_faults.page import page, verdict_words
from benchmarks.medic_faults.patterns import KINDS, CacheShape, kind_named, strike_row, struck_blocks, trial_generator
from benchmarks.medic_faults.run import main
from benchmarks.medic_faults.summary import comparison_rows, detection_rows, with_all
from benchmarks.medic_faults.verdicts import auc, compare, over_kinds, paired_table, repair_summary, two_way_interval, verdict

from cachemedicpp import seeds
from cachemedicpp.evaluation.bootstrap import Interval
from cachemedicpp.faults.cache_faults import as_words, count_flipped_bits
from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec, TokenGateSpec
from modelwright.errors import ConfigError, UsageError
from modelwright.files import read_json

SHAPE = CacheShape(layers=3, tokens=64, size=16)


def stored(seed: int = 0, layers: int = 3) -> Pairs:
    generator = torch.Generator().manual_seed(seed)

    def one() -> torch.Tensor:
        return torch.randn(2, 2, 64, 8, generator=generator).to(torch.bfloat16)

    return [(one(), one()) for _ in range(layers)]


def struck(clean: Pairs, kind: str, row: int = 1, number: int = 5) -> tuple[Pairs, torch.Tensor]:
    """The cache after one fault, and where it is, bool `[layers, 2, B, N]`."""
    damaged = list(clean)
    chosen = kind_named(kind)
    strike_row(damaged, row, chosen, SHAPE, trial_generator(0, seeds.BENCHMARK, chosen, number))
    truth = [torch.stack([struck_blocks(a, b, 16) for a, b in zip(was, now, strict=True)]) for was, now in zip(clean, damaged, strict=True)]
    return damaged, torch.stack(truth)


# ---- arithmetic


def test_verdicts_follow_the_whole_interval() -> None:
    assert verdict(Interval(-0.2, -0.3, -0.1, 9)) == "better"
    assert verdict(Interval(0.2, 0.1, 0.3, 9)) == "worse"
    assert verdict(Interval(-0.2, -0.3, 0.0, 9)) == verdict(Interval(0.0, 0.0, 0.0, 9)) == "undecided"


def test_comparisons_are_paired_by_fault() -> None:
    theirs = [[0.0, 5.0, 0.1, 3.0]]
    steady = [[value - 0.1 for value in theirs[0]], [value - 0.3 for value in theirs[0]]]
    found = compare(steady, theirs)
    assert found["verdict"] == "better" and found["effect"]["estimate"] == pytest.approx(-0.2)
    assert found["by_seed"] == pytest.approx([-0.1, -0.3]) and -0.31 < found["effect"]["low"] < found["effect"]["high"] < -0.09
    assert compare(theirs, steady)["verdict"] == "worse"
    assert compare([[1.0, -1.0, 2.0, -2.0]], [[0.0] * 4])["verdict"] == "undecided"
    assert paired_table(steady, theirs).shape == (2, 4)
    with pytest.raises(UsageError, match="over the same trials"):
        paired_table([[1.0, 2.0]], theirs)
    with pytest.raises(UsageError, match="not finite"):
        compare([[math.nan] * 4], theirs)
    with pytest.raises(UsageError, match=r"found rows of \[1, 2\]"):
        compare([[1.0], [1.0, 2.0]], theirs)


def test_intervals_resample_seeds_and_trials() -> None:
    one = two_way_interval([[1.0, 2.0, 3.0, 4.0]])
    assert one.estimate == 2.5 and one.n == 4 and 1.0 < one.low < 2.5 < one.high < 4.0
    between = two_way_interval([[0.0] * 4, [1.0] * 4])
    assert (between.low, between.high) == (0.0, 1.0), "trials that agree still leave the spread of the seeds"
    assert two_way_interval([[7.0] * 5] * 3).low == 7.0
    assert two_way_interval([[1.0, 2.0, 3.0, 4.0]]) == one


def test_the_summary_of_hand_made_trials() -> None:
    found = repair_summary([[0.0, 0.5, 6.0, 0.0]], [[1, 0, 0, 1]], [[1, 1, 0, 1]], [[0.0, 0.2, 6.0, 0.3]])
    assert found["kl"]["estimate"] == pytest.approx(1.625) and found["kl_median"] == 0.25 and found["kl_worst"] == 6.0
    assert (found["unchanged"], found["harmed"], found["not_finite"]) == (0.5, 0.25, 0.25)
    assert over_kinds({"a": [[1.0, 3.0]], "b": [[3.0, 5.0]]}) == [[2.0, 4.0]]


def test_auc_counts_pairs() -> None:
    assert auc([0.9, 0.8], [0.1, 0.2, 0.3]) == 1.0 and auc([0.1], [0.5, 0.9]) == 0.0
    assert auc([0.5, 0.5], [0.5]) == 0.5 and auc([0.2, 0.6], [0.4]) == 0.5
    assert auc([], [0.1]) is None and auc([0.1], []) is None


def test_rows_of_hand_made_parts() -> None:
    names = [*PLAIN, *(one.name for one in TRAINED)]
    values = {name: [[0.0, 0.0]] if name == "recompute" else [[0.4, 0.6]] for name in names} | {"D": [[0.1, 0.1], [0.3, 0.3]]}
    ones = {name: [[1.0] * 2] * len(table) for name, table in values.items()}
    found = {"checksum": [2], "range": [1]} | {one.name: [1] for one in TRAINED} | {"D": [2, 0]}
    part = {
        "kind": "one_bit",
        "kl": values,
        "unchanged": ones,
        "finite": ones,
        "struck_blocks": 2,
        "found_blocks": found,
        "auc": {"D": [0.9, 0.7]},
    }
    rows = detection_rows("m", [part], {"clean_blocks": 50, "false_alarms": {name: [1] * len(own) for name, own in found.items()}})
    assert {row["detector"]: row["found"] for row in rows}["range"] == 0.5
    own = next(row for row in rows if row["detector"] == "D")
    assert own["found"] == 0.5 and own["false_alarms"] == 0.02 and own["auc"] == pytest.approx(0.8)
    said = {(row["kind"], row["ours"], row["theirs"]): row["verdict"] for row in comparison_rows("m", [part])}
    assert said["one_bit", "D", "clip"] == said["all", "D", "clip"] == "better" and said["one_bit", "D", "recompute"] == "worse"
    assert said["one_bit", "clip_D", "clip"] == "undecided"
    assert with_all([part, {**part, "kind": "zeroed"}])[-1]["kl"]["clip"] == [[0.4, 0.6]]
    assert (
        verdict_words({"a": "worse", "b": "better", "all": "worse"}) == "better on 1 kind (b), worse on 1 kind (a); over all kinds worse."
    )


# ---- faults, defences, detectors


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_fault_strikes_one_side_of_one_layer_and_the_checksum_finds_and_undoes_it(kind: object) -> None:
    name = kind.name  # type: ignore[attr-defined]
    clean = stored()
    damaged, truth = struck(clean, name)
    assert int(truth.sum()) == (2 if name == "swapped" else 1) and not bool(truth[:, :, 0].any())
    again, _ = struck(clean, name)
    assert all(
        torch.equal(as_words(a), as_words(b)) for one, two in zip(damaged, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    bits = sum(count_flipped_bits(a, b) for was, now in zip(clean, damaged, strict=True) for a, b in zip(was, now, strict=True))
    assert bits == 1 if name.startswith("one_") else bits > 1
    written = remember(clean, clean, 16)
    assert torch.equal(checksum_alarms(damaged, written), truth)
    restored = defend("recompute", damaged, [], written)
    assert all(
        torch.equal(as_words(a), as_words(b)) for one, two in zip(restored, clean, strict=True) for a, b in zip(one, two, strict=True)
    )
    emptied = defend("zero_block", damaged, [], written)
    layer, side, row, block = truth.nonzero()[0].tolist()
    assert not bool(emptied[layer][side][row, :, block * 16 : (block + 1) * 16].any())
    assert defend("none", damaged, [], written) is damaged


def test_values_that_are_not_finite_end_where_the_defence_says() -> None:
    clean = stored()
    limits, margin = calibrate([clean], [clean], 16)
    assert margin == 0.0 and not bool(range_alarms(clean, limits, 16).any())
    damaged = [(key.clone(), value.clone()) for key, value in clean]
    places = ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2))
    for place, value in zip(places, (math.nan, math.inf, 1e30), strict=True):
        damaged[1][1][place] = value
    written = remember(clean, clean, 16)
    none, guarded, clipped = (defend(name, damaged, limits, written)[1][1] for name in ("none", "guard", "clip"))
    assert not bool(none.isfinite().all()) and bool(guarded.isfinite().all()) and bool(clipped.isfinite().all())
    assert [float(guarded[place]) for place in places] == [0.0, 0.0, 0.0]
    high, low = limits[1][1].high[0], limits[1][1].low[0]
    assert float(clipped[places[0]]) == float(((high + low) / 2)[0].to(torch.bfloat16))
    assert [float(clipped[place]) for place in places[1:]] == [float(high[1]), float(high[2])]
    assert range_alarms(damaged, limits, 16).nonzero().tolist() == [[1, 1, 0, 0]]
    assert torch.equal(as_words(guard(clean[0][0])), as_words(clean[0][0]))


def test_a_margin_is_widened_until_clean_text_stays_quiet() -> None:
    narrow = [(0.9 * key, 0.9 * value) for key, value in stored()]
    _, margin = calibrate([narrow], [stored()], 16)
    assert 0.0 < margin <= 0.1


def test_gates_are_those_that_the_operator_multiplies_with() -> None:
    layout = HeadLayout(8, 2, 4)
    for checksum in (False, True):
        spec = OperatorSpec("D", 4, (0, 1, 2), token_gate=TokenGateSpec(checksum=checksum))
        operator = RepairOperator(spec, layout, seed=3).requires_grad_(False)
        read = [(key.float(), value.float()) for key, value in stored()]
        shifted = [(key + 0.3, value - 0.2) for key, value in read]
        checks = {layer: operator.checks(layer, *pair) for layer, pair in enumerate(read)} if checksum else None
        opened = gates(operator, shifted, checks)
        assert opened.shape == (3, 2, 2, 2, 64)
        for layer, pair in enumerate(shifted):
            for side, (x, check) in enumerate(zip(pair, (checks or {}).get(layer, (None, None)), strict=True)):
                own = operator.layer(layer).key if side == 0 else operator.layer(layer).value
                assert own is not None
                torch.testing.assert_close(own.term(x, check), own.check(x) * opened[layer, side][..., None], rtol=1e-4, atol=1e-5)
        scores = gate_scores(opened, 16)
        assert scores.shape == (3, 2, 2, 4) and torch.equal(scores[0, 1, 1, 3], opened[0, 1, 1, :, 48:].max())
        above = scores > threshold([scores])[..., None, None]
        assert 0 < int(above.flatten(2).sum(-1).max()) <= 1


def test_a_prefix_of_one_block_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least two blocks of 16"):
        CacheShape(2, 31, 16)
    with pytest.raises(ConfigError, match="one_exponent_bit"):
        kind_named("cosmic")


# ---- the whole study


def test_a_quick_run_reports_everything_and_goes_on_from_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, folder = tmp_path / "result.json", tmp_path / "parts"
    arguments = ["--quick", "--threads", "1", "--folder", str(folder), "--out", str(out)]
    assert main(arguments) == 0
    result = read_json(out)
    defences = [*PLAIN, *(one.name for one in TRAINED)]
    kinds = [kind.name for kind in KINDS]
    assert [(row["kind"], row["defence"]) for row in result["results"]] == [(kind, name) for kind in [*kinds, "all"] for name in defences]
    exact = [row for row in result["results"] if row["defence"] == "recompute"]
    assert all(row["kl"]["estimate"] == 0 and row["unchanged"] == 1 for row in exact)
    found = {(row["kind"], row["detector"]): row for row in result["detection"]}
    assert all(found[kind, "checksum"]["found"] == 1 and found[kind, "checksum"]["false_alarms"] == 0 for kind in kinds)
    assert len(result["comparisons"]) == len(TRAINED) * 5 * (len(kinds) + 1)
    assert [row["defence"] for row in result["clean"]] == defences
    assert all(row["kl"]["estimate"] == 0 for row in result["clean"] if row["defence"] in ("none", "guard", "recompute", "zero_block"))
    assert {"prefill", "prefill_block", "checksum", "clip", "step", "step D"} <= set(result["costs"][0]["ms"])

    lines = "\n".join(page(result))
    assert all(kind in lines for kind in kinds) and "over all kinds" in lines and "nan" not in lines

    held = {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    (folder / "modelwright-tiny-0.4m" / "zeroed.json").unlink()
    assert main(arguments) == 0
    again = read_json(out)
    assert again["results"] == result["results"] and again["comparisons"] == result["comparisons"]
    kept = {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert [name for name in held if kept[name] != held[name]] == ["zeroed.json"]

    capsys.readouterr()
    assert main([*arguments, "--steps", "3"]) == 2
    assert "other settings (steps)" in capsys.readouterr().err
    assert main(["--quick", "--trials", "0"]) == 2
    assert "--trials 0: found less than 1" in capsys.readouterr().err
