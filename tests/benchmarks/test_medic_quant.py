"""The study of quantised caches: its bytes, its comparison at equal bytes, its page, and one tiny run. No time is asserted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.medic_common.subjects import filled_cache, load_subject, prefill, texts
from benchmarks.medic_common.training import Training, new_operator
from benchmarks.medic_quant.compare import Point, against, at_bytes, best_within, comparisons, crossed_interval, verdict
from benchmarks.medic_quant.latency import StoredLayer, step_times
from benchmarks.medic_quant.methods import METHODS, bits_per_value, quantiser, term_bits
from benchmarks.medic_quant.page import page
from benchmarks.medic_quant.run import main
from benchmarks.medic_quant.study import Parts

from cachemedicpp.evaluation.bootstrap import Interval
from cachemedicpp.repair.cache import extend_cache
from cachemedicpp.repair.forms import sdpa_kernel
from cachemedicpp.repair.spec import OperatorSpec
from modelwright.errors import UsageError
from modelwright.files import read_json
from modelwright.kv.settings import parse


def point(name: str, bits: float, kl: list[float], ms: float = 1.0, chosen_by: float = 1.0) -> Point:
    return Point(name, bits, kl, ms, chosen_by)


CURVE = [point("q4", 5.0, [0.0001, 0.0004]), point("q2", 3.0, [0.01, 0.04]), point("q3", 4.0, [0.001, 0.004])]


# ---- bytes


def test_bits_of_a_value_count_scales_window_and_kept_terms() -> None:
    assert bits_per_value(parse("group32-4"), 192, 32) == 4 + 2 * 16 / 32
    assert bits_per_value(parse("kivi-k4v3"), 192, 32) == 3.5 + 1
    assert bits_per_value(parse("kivi-4-recent32"), 192, 32) == (160 * 5 + 32 * 16) / 192
    assert bits_per_value(parse("kivi-2"), 200, 32) == pytest.approx((192 * 3 + 8 * 16 + 200 * 3) / 400), "an unfinished block of K"
    assert term_bits(OperatorSpec("D", 8, (0,)), 32) == 8 * 16 / 32
    assert term_bits(OperatorSpec("D", 4, (0,), "K"), 64) == 4 * 16 / 128


def test_every_method_has_settings_that_the_kernel_accepts_for_heads_of_32_and_64() -> None:
    for method in METHODS:
        for bits in method.widths:
            for head_dim in (32, 64):
                assert bits < bits_per_value(method.settings(bits), 192, head_dim) < 16
    assert METHODS[4].widths == (2, 3, 4, 5, 6, 7), "one more bit for K ends at 8"


# ---- the comparison at equal bytes, on hand-made rows


def test_a_rival_between_two_widths_is_interpolated_in_the_logarithm_text_by_text() -> None:
    rival = at_bytes(CURVE, 3.5)
    assert (rival.how, rival.name, rival.bits) == ("interpolated", "between q2 and q3", 3.5)
    assert rival.kl == pytest.approx((math.sqrt(0.01 * 0.001), math.sqrt(0.04 * 0.004)))
    exact = at_bytes(CURVE, 4.0)
    assert (exact.how, exact.name, exact.kl) == ("measured", "q3", (0.001, 0.004))
    beyond = at_bytes(CURVE, 9.0)
    assert (beyond.how, beyond.name, beyond.bits) == ("nearest", "q4", 5.0), "it keeps its own bits"
    with pytest.raises(UsageError, match="at least one plain setting"):
        at_bytes([], 3.0)


def test_the_best_rival_is_chosen_on_validation_text_among_those_with_no_more_bytes_and_no_more_time() -> None:
    points = [
        point("small", 3.0, [9.0], ms=1.0, chosen_by=0.5),
        point("good", 4.0, [9.0], ms=1.0, chosen_by=0.2),
        point("slow", 4.0, [0.0], ms=3.0, chosen_by=0.1),
        point("large", 6.0, [0.0], ms=1.0, chosen_by=0.0),
    ]
    best = best_within(points, 4.0, 2.0)
    assert best is not None and best.name == "good", "its test divergence does not matter"
    assert best_within(points, 2.0, 2.0) is None


def test_a_verdict_needs_the_whole_interval_on_one_side_of_zero() -> None:
    assert verdict(Interval(-2.0, -3.0, -1.0, 9)) == "better"
    assert verdict(Interval(2.0, 1.0, 3.0, 9)) == "worse"
    assert verdict(Interval(-0.5, -1.5, 0.5, 9)) == "undecided"
    rival = at_bytes([point("q2", 3.0, [0.02, 0.04, 0.06, 0.08])], 3.0)
    assert against([[0.01, 0.03, 0.05, 0.07]] * 3, rival)["verdict"] == "better"
    assert against([[0.03, 0.05, 0.07, 0.09]] * 3, rival)["verdict"] == "worse"
    assert against([[0.01, 0.05, 0.05, 0.09]], rival)["verdict"] == "undecided"
    assert against([[0.01, 0.02, 0.03, 0.04]], rival)["ratio"] == pytest.approx(0.5)


def test_intervals_resample_seeds_and_texts() -> None:
    apart = crossed_interval([[0.0] * 50, [1.0] * 50])
    assert (apart.estimate, apart.low, apart.high) == (0.5, 0.0, 1.0), "seeds that differ widen it, however many texts agree"
    one = crossed_interval([[0.0, 1.0] * 50])
    assert one.estimate == 0.5 and 0.38 < one.low < 0.42 and 0.58 < one.high < 0.62, "one seed: over texts, about 1.96 times 0.05"
    with pytest.raises(UsageError, match="same texts"):
        crossed_interval([[0.0, 1.0], [1.0]])


def test_kept_terms_are_compared_at_their_bytes_and_recomputed_ones_with_the_setting_itself() -> None:
    ms = {"recomputed": 2.0, "kept": 1.5}
    found = {(one["placement"], one["against"]): one for one in comparisons([[0.005, 0.02]], CURVE[1], 1.5, ms, CURVE, CURVE)}
    assert found["recomputed", "same method"]["rival"] == "q2"
    assert found["recomputed", "same method"]["verdict"] == "better" and found["recomputed", "same method"]["ratio"] == pytest.approx(0.5)
    kept = found["kept", "same method"]
    assert kept["bits_per_value"] == kept["rival_bits_per_value"] == 4.5 and kept["verdict"] == "worse"
    assert found["kept", "any method"]["rival_bits_per_value"] <= 4.5


# ---- the quantised step


def test_a_stored_layer_reads_what_the_quantiser_of_the_study_gives_and_a_new_repair_changes_nothing() -> None:
    subject = load_subject("modelwright/tiny-0.4m")
    pairs = prefill(subject, texts(subject, "test", 1, 40))
    settings = parse("kivi-3-recent8")
    operator = new_operator(subject, Training())
    query = torch.randn(1, subject.layout.query_heads, 1, subject.layout.head_dim, generator=torch.Generator().manual_seed(0))
    key, value = pairs[0]
    for repair, kept in ((None, False), (operator.layer(0), False), (operator.layer(0), True)):
        layer = StoredLayer(settings, (key[:, :, :8].half(), value[:, :, :8].half()), repair, kept)
        for token in range(8, 40):
            layer.append((key[:, :, token : token + 1].half(), value[:, :, token : token + 1].half()))
            found = layer.attend(query)
        want = sdpa_kernel(query, *quantiser(settings)(key, value, 0, 0), None, subject.layout.head_dim**-0.5)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)


def test_kept_terms_follow_a_block_when_it_is_quantised() -> None:
    subject = load_subject("modelwright/tiny-0.4m")
    pairs = prefill(subject, texts(subject, "test", 1, 80))
    operator = new_operator(subject, Training())
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.add_(0.1)
        query = torch.randn(1, subject.layout.query_heads, 1, subject.layout.head_dim, generator=torch.Generator().manual_seed(0))
        key, value = (x.half() for x in pairs[0])
        outputs = []
        for repair, kept in ((None, False), (operator.layer(0), False), (operator.layer(0), True)):
            layer = StoredLayer(parse("kivi-2"), (key[:, :, :20], value[:, :, :20]), repair, kept)
            layer.attend(query)
            for token in range(20, 70):
                layer.append((key[:, :, token : token + 1], value[:, :, token : token + 1]))
                found = layer.attend(query)
            outputs.append(found)
    torch.testing.assert_close(outputs[2], outputs[1], rtol=0, atol=2e-3)  # float16 terms
    assert float((outputs[1] - outputs[0]).abs().max()) > 1e-2


def test_bytes_of_kept_terms_are_those_of_the_extended_cache() -> None:
    subject = load_subject("modelwright/tiny-0.4m")
    pairs = prefill(subject, texts(subject, "test", 1, 64))
    operator = new_operator(subject, Training())
    found = step_times(subject, pairs, parse("group32-2"), operator, 1)
    values = subject.layers * 2 * pairs[0][0].numel()
    assert found["plain"]["nbytes"] * 8 / values == bits_per_value(parse("group32-2"), 64, 32)
    assert (found["kept"]["nbytes"] - found["plain"]["nbytes"]) * 8 / values == term_bits(operator.spec, 32)
    assert found["recomputed"]["nbytes"] == found["plain"]["nbytes"]
    extra = extend_cache(filled_cache(subject, pairs), operator).layers[0].extra_values_per_token()  # type: ignore[attr-defined]
    assert extra == {"keys": 8, "values": 8, "checks": 0}


# ---- parts, a run and its page


def test_a_part_is_made_once_and_again_when_other_settings_made_it(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"kl": [0.1]}

    for _ in range(2):
        assert Parts(tmp_path, {"steps": 2}).part("plain", make) == {"kl": [0.1]}
    assert len(made) == 1
    Parts(tmp_path, {"steps": 3}).part("plain", make)
    assert len(made) == 2


def test_a_quick_run_measures_every_setting_and_goes_on_from_its_parts(tmp_path: Path) -> None:
    out, parts = tmp_path / "result.json", tmp_path / "parts"
    words = ["--quick", "--folder", str(parts), "--out", str(out), "--threads", "1"]
    assert main(words) == 0
    result = read_json(out)
    assert [row["settings"] for row in result["results"]] == ["group32-2", "group32-3", "kivi-2", "kivi-3"]
    assert (
        result["clean"][0]["kl"]["estimate"] == 0 and result["clean"][0]["agreement"] == 1 and result["clean"][0]["same_continuation"] == 1
    )
    divergence = {row["settings"]: row["kl"]["estimate"] for row in result["results"]}
    assert 0 < divergence["kivi-3"] < divergence["kivi-2"] and 0 < divergence["group32-3"] < divergence["group32-2"]
    for row in result["repaired"]:
        assert row["seeds"] == [0] and row["kl"]["estimate"] > 0 and row["kl"]["low"] <= row["kl"]["estimate"] <= row["kl"]["high"]
        kept = next(one for one in row["comparisons"] if (one["placement"], one["against"]) == ("kept", "same method"))
        assert kept["bits_per_value"] == 3 + 4 and kept["how"] == "nearest", "rank 8 as float16 costs four bits a value of 32"
        assert row["ms"]["recomputed"] > 0 and row["ms"]["kept"] > 0
    stamps = {path: path.stat().st_mtime_ns for path in parts.rglob("*.json")}
    assert len(stamps) == 1 + 4 + 4 + 2
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in parts.rglob("*.json")} == stamps
    assert {**read_json(out), "date": "", "machine": ""} == {**result, "date": "", "machine": ""}

    text = "\n".join(page(result))
    assert all(f"`{settings}`" in text for settings in ("group32-2", "kivi-2", "kivi-3")), "studied, or on the front"
    assert "of 2 comparisons" in text and "None" not in text and "nan" not in text
    columns = [line.count("|") for line in page(result) if line.startswith("|") and "---" not in line]
    distinct = {
        (row["settings"], one["placement"], one["rival"])
        for row in result["repaired"]
        for one in row["comparisons"]
        if one["against"] == "same method" or one["placement"] == "recomputed"
    }
    assert columns == [9] * 5 + [9] * (1 + len(distinct)), "two settings alone and with D; a header and every comparison once"


def test_a_request_that_cannot_be_met_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--seeds", "0", "--out", str(tmp_path / "out.json")]) == 2
    assert "each is at least 1" in capsys.readouterr().err and not (tmp_path / "out.json").exists()
