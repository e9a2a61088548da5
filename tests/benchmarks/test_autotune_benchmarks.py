"""The benchmarks of autotune: what they decide from runs, and their pages."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.autotune_grid.page import page as grid_page
from benchmarks.autotune_grid.run import decide
from benchmarks.autotune_order.page import page as order_page
from benchmarks.autotune_order.run import summary

BEST, CLOSE, FAR, OTHER = "a: kv_bits 8, max_batch 1", "a: kv_bits 8, max_batch 2", "a: kv_bits 4, max_batch 1", "b: kv_bits 8, max_batch 1"


def family(decisions: list[str], seconds: float) -> dict[str, Any]:
    def run(decision: str, took: float) -> dict[str, Any]:
        return {"decision": decision, "seconds": took, "trials": 7, "requests": 9, "exit_reason": "ok"}

    def cell(name: str, tps: float | None) -> dict[str, Any]:
        memory = {"predicted_bytes": 400 << 20, "loading_bytes": 0, "peak_bytes": 410 << 20}
        return {"cell": name, "tps": tps, "why_not": None if tps else "too slow", **memory}

    return {
        "family": "tiny",
        "models": ["a", "b"],
        "limit_mb": 900,
        "cells": 3,
        "grid": [run(BEST, 100.0), run(CLOSE, 120.0)],
        "autotune": [run(decision, seconds) for decision in decisions],
        "cells_of_grid": [cell(BEST, 50.0), cell(CLOSE, 49.5), cell(FAR, 40.0), cell(OTHER, None)],
        "tie_epsilon": 0.02,
    }


@pytest.mark.parametrize(
    ("decisions", "seconds", "met", "worst"),
    [
        ([BEST, CLOSE], 36.0, [True, True, True], 0.99),
        ([BEST, FAR], 36.0, [True, True, False], 0.8),
        ([BEST, OTHER], 60.0, [False, False, False], 0.0),
        (["none"], 10.0, [True, False, False], 0.0),
    ],
)
def test_a_decision_is_worth_what_the_grid_measured_of_it(decisions: list[str], seconds: float, met: list[bool], worst: float) -> None:
    found = decide(family(decisions, seconds))
    assert [one["met"] for one in found] == met and found[2]["measured"] == worst
    assert found[0]["measured"] == round(seconds / 110, 3)


def test_the_page_shows_decisions_cells_and_memory() -> None:
    one = family([BEST, BEST, CLOSE], 36.0)
    text = "\n".join(grid_page({"results": [one], "decisions": decide(one)}))
    assert "**tiny**: a, b; 3 cells each, 900 MB of memory for a server." in text
    assert f"| `autotune --prune` | 3 | 36 | 9 | {BEST} (2), {CLOSE} (1) |" in text
    assert f"| {BEST} | 50.0 | 400 | 410 | -2 % |" in text and f"| {OTHER} | too slow | 400 | 410 | – |" in text


def test_runs_in_the_same_order_are_held_against_each_other() -> None:
    winners = [["x, 1", "x, 1"], ["x, 1", "y, 1"], ["y, 1", "y, 1"]]
    finding = {"keep": False, "advice": "1 of 3.", "figures": {"pairs": 3, "mismatches": 1, "share": 1 / 3, "winners": winners}}
    one = summary("m", {"finding": finding})
    assert (one["mismatches"], one["same_order_mismatches"], one["same_order_pairs"]) == (1, 4, 6)
    settings = {"pairs": 3, "rest": 60, "kv_bits_axis": "unset,8", "max_batch_axis": "1", "target_context": 256, "engine": "transformers"}
    text = "\n".join(order_page({"results": [one], "settings": settings}))
    assert "| m | x (2), y (1) | y (2), x (1) | 1 of 3 | 4 of 6 |" in text and "- m: the experiment says: 1 of 3." in text
    assert "noise between these cells explains it" in text
