"""The benchmark of decoding with a repaired cache: what it writes and how it decides, on a tiny run. No time is asserted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.medic_decode.layer import SHAPES, WAYS, Setting, alternate, steps_at
from benchmarks.medic_decode.run import decide, figures_of, main

from helpers.tiny_random import random_llama
from modelwright.files import read_json

CPU = torch.device("cpu")


def layer_rows(**ratios: float) -> list[dict[str, Any]]:
    return [{"shape": "small", "tokens": 4096, "way": way.replace("_", " "), "ratio": ratio} for way, ratio in ratios.items()]


def test_a_tiny_run_writes_every_way_and_length(tmp_path: Path) -> None:
    random_llama().save_pretrained(tmp_path / "model")
    out = tmp_path / "result.json"
    sizes = ["--shapes", "small", "--lengths", "16", "24", "--repeats", "2", "--context", "12", "--tokens", "2", "--blocks", "2"]
    assert main(["--model", str(tmp_path / "model"), "--out", str(out), *sizes]) == 0
    result = read_json(out)
    assert [(row["tokens"], row["way"]) for row in result["results"]] == [(length, way) for length in (16, 24) for way in WAYS]
    assert all(row["median_us"] > 0 and row["ratio"] > 0 and row["repeats"] == 2 for row in result["results"])
    held = {row["way"]: row["cache_bytes_per_token"] for row in result["results"]}
    plain = 2 * 3 * 32 * 4
    assert held["plain"] == held["collapsed A"] == held["materialised A"] == plain
    assert held["extended A"] == plain + 3 * 8 * 4 and held["extended D"] == plain + 2 * 3 * 8 * 4
    assert [row["way"] for row in result["generation"]] == ["off", "collapsed A", "extended D"]
    assert result["generation"][0]["ratio"] == 1.0
    assert [(one["figure"], one["kind"]) for one in result["decisions"]] == [("tokens/s, collapsed A / off", "target")]


def test_all_ways_of_a_new_operator_give_the_output_of_plain_attention() -> None:
    """The same query, cache and new token everywhere: a new operator is the identity."""
    for shape in SHAPES.values():
        with torch.no_grad():
            steps = steps_at(Setting(shape, 8, 2, CPU, torch.float32), 20, spare=2)
            for _ in range(2):
                outputs = {way: step.run() for way, step in steps.items()}
        for way in WAYS:
            torch.testing.assert_close(outputs[way], outputs["plain"], rtol=0, atol=1e-5)


def test_each_round_takes_every_way_once_and_begins_with_another() -> None:
    order: list[str] = []
    times = alternate({name: lambda name=name: order.append(name) for name in "abc"}, 3, CPU)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab" * 2, "three rounds of warm-up, three that count"
    assert [len(times[name]) for name in "abc"] == [3, 3, 3]


def test_goals_are_decided_at_4096_tokens_for_each_shape() -> None:
    rows = layer_rows(plain=1.0, materialised_A=14.4, extended_A=1.2, collapsed_A=1.2, extended_D=1.6)
    rows += [{**row, "tokens": 1024, "ratio": 99.0} for row in rows]
    found = decide(figures_of(rows, [{"way": "off", "ratio": 1.0}, {"way": "collapsed A", "ratio": 0.98}]))
    assert [(one["figure"], one["measured"], one["bound"], one["kind"], one["met"]) for one in found] == [
        ("collapsed A / plain", 1.2, 1.3, "acceptance 16", True),
        ("materialised A / collapsed A", 12.0, 5.0, "acceptance 16", True),
        ("collapsed A / plain", 1.2, 1.15, "target", False),
        ("extended A / plain", 1.2, 1.5, "target", True),
        ("extended D / plain", 1.6, 1.5, "target", False),
        ("materialised A / collapsed A", 12.0, 15.0, "target", False),
        ("tokens/s, collapsed A / off", 0.98, 0.97, "target", True),
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test wants missing")
def test_a_missing_device_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
