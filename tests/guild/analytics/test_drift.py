"""Layer drift against closed forms, on files that the safetensors library wrote. (specs/guild.md 2.9; acceptance 47)"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guild.analytics.drift import FAR, HISTORY, Drift, drift_document, layer_drift, pattern_of
from guild.analytics.weights import CHUNK
from helpers.guild_analytics import layered, save_weights
from modelwright.clock import ManualClock
from modelwright.errors import ConfigError


def drifted(tmp_path: Path, scale: dict[int, float], layers: int = 8, **shards: Any) -> Drift:
    """Layer n is `scale[n]` times what it was, so that its drift is |scale[n] - 1|."""
    base = save_weights(tmp_path / "base", layered(layers))
    return layer_drift(base, save_weights(tmp_path / "now", layered(layers, scale=scale), **shards))


def test_a_layer_that_grew_by_a_tenth_has_drift_a_tenth(tmp_path: Path) -> None:
    found = drifted(tmp_path, {-1: 1.5, 0: 1.1, 3: 0.75, 7: 3.0})
    drifts = {number: group.drift for number, group in found.layers.items()}
    expected = {-1: 0.5, 0: 0.1, 1: 0.0, 2: 0.0, 3: 0.25, 4: 0.0, 5: 0.0, 6: 0.0, 7: 2.0}
    assert drifts == pytest.approx(expected, abs=1e-6)
    assert found.other.drift == 0.0


def test_the_norms_are_those_of_the_whole_model(tmp_path: Path) -> None:
    before, after = layered(2), layered(2, seed=2)
    found = layer_drift(save_weights(tmp_path / "a", before), save_weights(tmp_path / "b", after))
    reference = math.sqrt(sum(float((array.astype(float) ** 2).sum()) for array in before.values()))
    delta = math.sqrt(sum(float(((after[name].astype(float) - array) ** 2).sum()) for name, array in before.items()))
    assert found.total.drift == pytest.approx(delta / reference, rel=1e-5)
    assert found.total.parameters == sum(array.size for array in before.values())


def test_a_tensor_of_many_chunks_counts_whole(tmp_path: Path) -> None:
    before = {"model.embed_tokens.weight": np.ones(2 * CHUNK + 5, np.float32)}
    after = {"model.embed_tokens.weight": np.full(2 * CHUNK + 5, 1.25, np.float32)}
    found = layer_drift(save_weights(tmp_path / "a", before), save_weights(tmp_path / "b", after))
    assert found.layers[-1].drift == 0.25
    assert found.layers[-1].reference == 2 * CHUNK + 5


def test_sharded_bfloat16_against_one_file_of_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = layered(2)
    exact = {name: torch.from_numpy(array).bfloat16() for name, array in base.items()}
    rounded = {name: tensor.float().numpy() for name, tensor in exact.items()}
    names = list(exact)
    one = save_weights(tmp_path / "one", rounded)
    many = save_weights(tmp_path / "many", exact, shards=[names[:2], names[2:]])
    assert layer_drift(one, many).total.drift == 0.0
    doubled = save_weights(tmp_path / "doubled", {name: 2 * tensor for name, tensor in exact.items()})
    assert layer_drift(one, doubled).total.drift == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "pattern"),
    [
        ({6: 1.5, 7: 1.5, 0: 1.2, 1: 1.2}, "top_heavy"),
        ({0: 1.5, 1: 1.5, 6: 1.2, 7: 1.2}, "bottom_heavy"),
        ({0: 1.2, 1: 1.2, 6: 1.3, 7: 1.3}, "even"),
        ({3: 9.0}, "even"),
        ({7: 1.001}, "top_heavy"),
    ],
)
def test_one_quarter_more_than_twice_the_other_makes_the_pattern(tmp_path: Path, scale: dict[int, float], pattern: str) -> None:
    assert drifted(tmp_path, scale).pattern == pattern


def test_exactly_twice_is_even_and_nothing_known_is_unknown() -> None:
    assert pattern_of([0.1, 0.2]) == "even"
    assert pattern_of([0.1, 0.2000001]) == "top_heavy"
    assert pattern_of([0.0] * 8) == "even"
    assert pattern_of([0.1]) == pattern_of([]) == pattern_of([0.1, None, 0.2, 0.3]) == "unknown"


def test_tensors_that_only_one_has_are_named_and_not_compared(tmp_path: Path) -> None:
    base, now = layered(2), layered(2)
    del now["model.norm.weight"]
    now["lm_head.weight"] = np.ones((2, 2), np.float32)
    found = layer_drift(save_weights(tmp_path / "a", base), save_weights(tmp_path / "b", now))
    assert (found.missing, found.added) == (("model.norm.weight",), ("lm_head.weight",))
    assert found.total.drift == 0.0


def test_another_model_is_refused_with_every_tensor_named(tmp_path: Path) -> None:
    base, now = save_weights(tmp_path / "a", layered(1)), save_weights(tmp_path / "b", layered(1, width=4))
    with pytest.raises(ConfigError) as caught:
        layer_drift(base, now)
    assert len(caught.value.faults) == 4
    assert "found [12, 4]; allowed: [24, 8]" in str(caught.value)


def test_weights_that_are_no_numbers_have_no_drift_and_the_document_is_json(tmp_path: Path) -> None:
    found = drifted(tmp_path, {2: math.nan, 5: math.inf})
    made = drift_document(found, None, step=10, base="base", checkpoint="c", clock=ManualClock())
    told = {layer["layer"]: layer["drift"] for layer in json.loads(json.dumps(made, allow_nan=False))["layers"]}
    assert told[2] is None and told[5] is None and told[1] == 0.0
    assert (made["overall"], made["pattern"], made["status"]) == (None, "unknown", "warning")


def test_a_layer_that_was_zero_has_no_ratio(tmp_path: Path) -> None:
    zero = {name: np.zeros_like(array) for name, array in layered(1).items()}
    still = layer_drift(save_weights(tmp_path / "a", zero), save_weights(tmp_path / "b", zero))
    moved = layer_drift(tmp_path / "a", save_weights(tmp_path / "c", layered(1)))
    assert still.total.drift == 0.0
    assert moved.total.drift is None


@pytest.mark.parametrize(
    ("scale", "status", "far"),
    [
        ({3: 9.0}, "warning", [3]),  # one middle layer exploded; both quarters are even
        ({2: 0.0}, "warning", [2]),  # one vanished
        ({0: 0.01, 5: 30.0}, "warning", [0, 5]),
        ({-1: -1.0}, "warning", [-1]),
        (dict.fromkeys(range(-1, 8), 1.5), "ok", []),  # far for a fine-tuning, and still no fault of a layer
        ({4: 1.89}, "ok", []),
        ({4: 1.91}, "warning", [4]),
    ],
)
def test_item_47_a_layer_that_exploded_or_vanished_is_a_warning(
    tmp_path: Path, scale: dict[int, float], status: str, far: list[int]
) -> None:
    found = drift_document(drifted(tmp_path, scale), None, step=1, base="b", checkpoint="c", clock=ManualClock())
    assert (found["status"], found["far"], found["far_drift"]) == (status, far, FAR)


def test_what_lies_behind_the_last_layer_counts_too(tmp_path: Path) -> None:
    base, now = layered(2), layered(2)
    now["model.norm.weight"] = 20 * now["model.norm.weight"]
    found = layer_drift(save_weights(tmp_path / "a", base), save_weights(tmp_path / "b", now))
    made = drift_document(found, None, step=1, base="b", checkpoint="c", clock=ManualClock())
    assert (made["status"], made["far"]) == ("warning", ["other"])


def test_models_without_a_common_tensor_are_no_data(tmp_path: Path) -> None:
    base = save_weights(tmp_path / "a", {"x": np.ones(2, np.float32)})
    found = layer_drift(base, save_weights(tmp_path / "b", {"y": np.ones(2, np.float32)}))
    assert drift_document(found, None, step=1, base="", checkpoint="", clock=ManualClock())["status"] == "no data"


def test_the_history_keeps_a_hundred_steps_each_once(tmp_path: Path) -> None:
    found, former = drifted(tmp_path, {0: 1.1}), None
    for step in [*range(1, HISTORY + 21), HISTORY + 20]:
        former = drift_document(found, former, step=step, base="b", checkpoint="c", clock=ManualClock())
    assert former is not None
    assert [entry["step"] for entry in former["history"]] == list(range(21, HISTORY + 21))
    assert former["history"][-1]["layers"]["0"] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(("old", "new"), [(np.float64, np.float32), (np.float32, np.float64), (np.float16, np.float64)])
def test_a_difference_that_only_the_wider_type_can_tell_is_told(tmp_path: Path, old: Any, new: Any) -> None:
    """1 and 1 + 1e-9 are one number in float32. Both files exceed a chunk, so that buffers are used again."""
    one, other = (1 + 1e-9, 1.0) if old is np.float64 else (1.0, 1 + 1e-9)
    before = save_weights(tmp_path / "a", {"model.layers.0.w": np.full(CHUNK + 9, one, old)})
    after = save_weights(tmp_path / "b", {"model.layers.0.w": np.full(CHUNK + 9, other, new)})
    assert layer_drift(before, after).layers[0].drift == pytest.approx(1e-9, rel=1e-5)
