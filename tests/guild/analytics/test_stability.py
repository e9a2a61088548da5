"""Parameter stability on synthetic exploding and vanishing weights. (specs/guild.md 2.9, 10.2 no. 22; acceptance 47)"""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guild.analytics.stability import EVERY_S, HISTORY, Parameter, alerts_of, due, measure, stability_document
from guild.analytics.weights import CHUNK
from helpers.guild_analytics import save_weights
from modelwright.clock import ManualClock

NAME = "model.layers.0.mlp.up_proj.weight"


def of_norm(norm: float, numbers: int = 400) -> Any:
    """Equal numbers with that norm: each is norm / sqrt(numbers)."""
    return np.full(numbers, norm / math.sqrt(numbers), np.float32)


def found(tmp_path: Path, *, former: dict[str, Any] | None = None, step: int = 1, **tensors: Any) -> dict[str, Any]:
    folder = save_weights(tmp_path / f"checkpoint-{step}", tensors)
    return stability_document(measure(folder), former, step=step, checkpoint=str(folder), clock=ManualClock())


def test_item_47_exploding_and_vanishing_weights_are_flagged(tmp_path: Path) -> None:
    made = found(
        tmp_path,
        sound=of_norm(10),
        exploding=of_norm(1001),
        vanishing=of_norm(0.0009),
        large=np.array([0.1, -100.5], np.float32),
        broken=np.array([1.0, math.nan], np.float32),
    )
    told = {(alert["parameter"], alert["kind"]): alert["severity"] for alert in made["alerts"]}
    assert told == {
        ("exploding", "exploding"): "critical",
        ("broken", "not_finite"): "critical",
        ("vanishing", "vanishing"): "warning",
        ("large", "large_value"): "warning",
    }
    assert made["status"] == "critical"
    assert made["alerts"][0]["severity"] == "critical"
    assert made["max_abs_parameter"] == "broken"
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize(
    ("norm", "largest", "kinds"),
    [
        (1000.0, 1.0, []),
        (1000.1, 1.0, ["exploding"]),
        (0.001, 0.001, []),
        (0.00099, 0.0005, ["vanishing"]),
        (0.0, 0.0, ["vanishing"]),
        (150.0, 100.0, []),
        (150.0, 100.1, ["large_value"]),
        (1500.0, 1400.0, ["exploding", "large_value"]),
        (math.inf, math.inf, ["not_finite"]),
        (math.nan, math.nan, ["not_finite"]),
    ],
)
def test_the_thresholds_are_those_of_the_specification(norm: float, largest: float, kinds: list[str]) -> None:
    assert sorted(alert.kind for alert in alerts_of([Parameter("w", norm, largest, 1)])) == sorted(kinds)


@pytest.mark.parametrize(("before", "now", "spike"), [(2.0, 6.0, False), (2.0, 6.01, True), (0.0005, 5.0, False), (6.0, 2.0, False)])
def test_a_spike_is_more_than_three_times_the_norm_before(before: float, now: float, spike: bool) -> None:
    kinds = [alert.kind for alert in alerts_of([Parameter("w", now, 1.0, 1)], {"w": {"norm": before}})]
    assert ("spike" in kinds) is spike


def test_sound_weights_are_healthy_and_their_figures_exact(tmp_path: Path) -> None:
    made = found(tmp_path, **{NAME: np.array([[3.0, -4.0]], np.float32), "model.embed_tokens.weight": of_norm(12)})
    assert made["status"] == "healthy"
    assert made["parameters"][NAME] == {"norm": 5.0, "max_abs": 4.0, "layer": 0}
    assert made["total_norm"] == pytest.approx(13.0, rel=1e-6)
    assert (made["max_abs"], made["max_abs_parameter"]) == (4.0, NAME)


def test_the_largest_value_is_found_in_the_last_chunk(tmp_path: Path) -> None:
    numbers = np.zeros(CHUNK + 3, np.float32)
    numbers[-1] = -250.0
    made = found(tmp_path, w=numbers)
    assert made["parameters"]["w"] == {"norm": 250.0, "max_abs": 250.0, "layer": None}
    assert made["counts"]["large_value"] == 1


@pytest.mark.parametrize("at", [0, CHUNK + 1])
def test_a_nan_in_any_chunk_is_critical(tmp_path: Path, at: int) -> None:
    numbers = np.ones(CHUNK + 3, np.float32)
    numbers[at] = math.nan
    made = found(tmp_path, w=numbers)
    assert (made["status"], made["counts"]["not_finite"], made["parameters"]["w"]["norm"]) == ("critical", 1, None)


def test_a_jump_from_step_to_step_shows_and_measuring_a_step_again_still_shows_it(tmp_path: Path) -> None:
    first = found(tmp_path, step=1, w=of_norm(2))
    assert first["status"] == "healthy"
    second = found(tmp_path, step=2, former=first, w=of_norm(7))
    again = found(tmp_path, step=2, former=second, w=of_norm(7))
    for made in (second, again):
        assert [alert["kind"] for alert in made["alerts"]] == ["spike"]
        assert (made["previous_step"], made["status"]) == (1, "warning")
    third = found(tmp_path, step=3, former=again, w=of_norm(8))
    assert third["status"] == "healthy"
    assert [entry["step"] for entry in third["history"]] == [1, 2, 3]


def test_nothing_measured_is_no_data_not_health() -> None:
    assert stability_document([], None, step=0, checkpoint="", clock=ManualClock())["status"] == "no data"


def test_the_history_keeps_two_hundred_measurements() -> None:
    former: dict[str, Any] | None = None
    for step in range(1, HISTORY + 6):
        former = stability_document([Parameter("w", 1.0, 1.0, 1)], former, step=step, checkpoint="", clock=ManualClock())
    assert former is not None
    assert [entry["step"] for entry in former["history"]] == list(range(6, HISTORY + 6))


def test_it_is_due_for_a_new_step_after_ten_minutes() -> None:
    clock = ManualClock()
    former = stability_document([Parameter("w", 1.0, 1.0, 1)], None, step=5, checkpoint="", clock=clock)
    now = clock.now()
    assert due(None, 5, now)
    assert not due(former, 6, now + timedelta(seconds=EVERY_S - 1))
    assert due(former, 6, now + timedelta(seconds=EVERY_S))
    assert not due(former, 5, now + timedelta(days=1))
    assert due({**former, "generated_at": "yesterday"}, 6, now)
