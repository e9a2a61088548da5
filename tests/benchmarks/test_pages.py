"""The page of results is the one that the committed figures give, and every kind of result can be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.common import write_result
from benchmarks.pages import BENCHMARKS, PAGE, document

SAMPLES: dict[str, dict[str, Any]] = {
    "steptime": {
        "results": [{"loop": "bare", "median_ms": 100.0, "best_ms": 90.0, "steps": 8}],
        "ratio": 1.2,
        "limit": 1.1,
    },
    "memory": {
        "results": [
            {
                "side": "modelwright",
                "length": 512,
                "outcome": "done",
                "peak_gib": 0.5,
                "predicted_gib": 0.6,
                "predicted_error": 0.2,
                "tokens_per_s": 1000.0,
            },
            {"side": "stock", "length": 65536, "outcome": "out of memory"},
        ],
        "longest": [{"side": "modelwright", "longest": 512, "too_long": 0, "line": 9000, "why_it_ended": "found"}],
        "settings": {"limit_gib": 8.0},
    },
    "context": {
        "results": [
            {
                "length": 2048,
                "times": 4.0,
                "perplexity_before": None,
                "perplexity_after": 5.5,
                "passkey_before": 0.0,
                "passkey_after": 1.0,
                "trials": 33,
                "passkey_after_95": [0.9, 1.0],
            }
        ],
        "settings": {"model": "modelwright/tiny-5m"},
        "unseen_text": [{"length": 2048, "before": 2.9, "after": 1.5938}],
        "context_method": "yarn",
        "trained_tokens": 1000000,
        "minutes": 12.0,
        "base_context": 512,
        "target_context": 4096,
        "achieved_context": 2048,
        "shortfall": "stopped below 4096 tokens",
        "refused_rung": {"length": 4096, "perplexity": 7.25, "passkey": 0.5, "trials": 20},
        "short_context": {"perplexity_before": 5.0, "perplexity_after": 5.05},
    },
    "logging": {
        "results": [
            {
                "way": "modelwright",
                "p50_us": 4.0,
                "p99_us": 9.0,
                "events_per_s": 200000,
                "events_per_cpu_s": 300000,
                "safe_from_kill": True,
            },
            {"way": "MLflow", "note": "not measured: mlflow is not installed"},
        ],
        "targets": {"p50_us": 10.0, "events_per_s": 100000},
    },
    "startup": {
        "results": [{"process": "modelwright --help", "p50_ms": 200.0, "min_ms": 90.0, "cpu_p50_ms": 80.0, "target_ms": 150}],
        "settings": {"run_directories": 2000, "repetitions": 3},
    },
    "medic_decode": {
        "results": [
            {
                "shape": "small",
                "tokens": 4096,
                "way": "collapsed A",
                "median_us": 412.0,
                "best_us": 400.0,
                "ratio": 1.05,
                "repeats": 40,
                "cache_bytes_per_token": 768.0,
            }
        ],
        "settings": {
            "heads": {"small": "6 query and 3 KV heads of 32"},
            "rank": 8,
            "dtype": "float32",
            "model": "modelwright/tiny-5m",
            "context": 2048,
        },
        "generation": [{"way": "collapsed A", "tokens_per_s": 55.5, "ratio": 0.981, "blocks": 15}],
        "decisions": [
            {
                "figure": "collapsed A / plain",
                "where": "small",
                "measured": 1.05,
                "bound": 1.3,
                "at": "most",
                "kind": "acceptance 16",
                "met": True,
            }
        ],
    },
    "medic_eval": {
        "results": [{"task": "needle", "way": "one by one", "median_s": 12.0, "examples_per_s": 4.0}],
        "ratios": {"one by one": 1.0, "batches of 16": 3.5},
        "target": 4.0,
    },
    "medic_study": {
        "results": [
            {
                "model": "modelwright/tiny-5m",
                "repair": "A",
                "seeds": [1, 2],
                "harm": [{"task": "sst2_prompted", "harm": 0.5, "left": 0.25, "undone": 0.5, "cells": 1}],
                "pooled": [
                    {"rival": "no defence", "task": "sst2_prompted", "estimate": 0.25, "low": 0.1, "high": 0.4, "verdict": "better"}
                ],
                "cells": [{"rival": "no defence", "type": "gaussian", "verdict": "better"}],
                "clean": [{"task": "sst2_prompted", "estimate": 0.0, "low": -0.1, "high": 0.1, "verdict": "undecided"}],
            }
        ],
        "drift": [],
        "gates": [
            {
                "number": 1,
                "title": "the repair works",
                "verdict": "undecided",
                "seeds": [1, 2],
                "clauses": [
                    {
                        "name": "clean perplexity rises little",
                        "verdict": "undecided",
                        "note": "",
                        "rows": [
                            {
                                "what": "clean rise",
                                "effect": {"estimate": 1.25, "low": 0.5, "high": 2.0},
                                "values": {"1": 1.0, "2": 1.5},
                                "side": "at most",
                                "limit": 1.5,
                                "unit": "%",
                                "verdict": "undecided",
                            }
                        ],
                    }
                ],
            }
        ],
        "left_out": [],
    },
}


def test_the_committed_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "run: python -m benchmarks.pages"


def test_without_results_every_section_says_so(tmp_path: Path) -> None:
    assert document(tmp_path).count("Not measured yet.") == len(BENCHMARKS)


@pytest.fixture
def page(tmp_path: Path) -> str:
    for name, sample in SAMPLES.items():
        more = {"settings": {}, **sample}
        write_result(tmp_path / "benchmarks" / name / "result.json", benchmark=name, **more)
    return document(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        "Ratio of the medians: **1.200**; target at most 1.10: **missed**",
        "| 512 | modelwright | 0.50 | 0.60 | +20 % | 1,000 |",
        "| 65536 | stock | out of memory |",
        "| 2,048 | 4× | – | 5.50 | 0 % | 100 % | 90 % to 100 % (33 trials) |",
        "Aim 4,096 tokens, reached 2,048.",
        "| 2,048 | 2.900 | 1.594 |",
        "changed by +1.0 %.\nThe climb ended early: stopped below 4096 tokens.",
        "The rung at 4,096 tokens was trained and not kept: perplexity 7.25, passkey 50 % (20 trials).",
        "call p50 at most 10 µs: met; at least 100,000 events/s: by the clock met",
        "| MLflow | not measured: mlflow is not installed |",
        "150 ms: **missed**",
        "| 4,096 | collapsed A | 0.412 | 1.05 | 768 | 40 |",
        "- acceptance 16: collapsed A / plain (small) 1.05, at most 1.3: met",
        "Target for batches: at least 4 times: **missed**.",
        "| A | sentiment, points | 1 | 50 % | **+25.0 [+10.0, +40.0]** | – | – | – | +0.0 [-10.0, +10.0] |",
        "| | clean rise | 1.25 [0.5, 2] % | 2 | at most 1.5 | undecided |",
    ],
)
def test_a_result_is_shown(page: str, words: str) -> None:
    assert words in page
    assert page.count("Not measured yet.") == len(BENCHMARKS) - len(SAMPLES), "the pages of four benchmarks are tested beside them"
