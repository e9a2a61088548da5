"""Dotted overrides: the order means nothing, nothing is changed in place, and a path through a value is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachemedicpp.config.overrides import apply_overrides, merge_overrides
from modelwright.errors import ConfigError

BASE = {"train": {"steps": 10, "lr": 0.1}, "eval": {"tasks": [{"name": "a"}]}, "note": None}


def test_values_are_set_and_missing_objects_created() -> None:
    merged = apply_overrides(BASE, {"train.steps": 20, "repair.conditioning.use_layer_embedding": True, "eval.tasks": []})
    assert merged == {
        "train": {"steps": 20, "lr": 0.1},
        "eval": {"tasks": []},
        "note": None,
        "repair": {"conditioning": {"use_layer_embedding": True}},
    }


def test_neither_argument_is_changed_or_shared() -> None:
    base, overrides = copy.deepcopy(BASE), {"eval.tasks": [{"name": "b"}]}
    merged = apply_overrides(base, overrides)
    merged["eval"]["tasks"][0]["name"] = "c"
    merged["train"]["lr"] = 9
    assert base == BASE and overrides == {"eval.tasks": [{"name": "b"}]}


def test_an_object_set_whole_comes_before_the_keys_inside_it() -> None:
    for overrides in ({"train": {"steps": 1}, "train.lr": 2}, {"train.lr": 2, "train": {"steps": 1}}):
        assert apply_overrides(BASE, overrides)["train"] == {"steps": 1, "lr": 2}


def test_every_path_through_a_value_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(BASE, {"train.steps.many": 1, "eval.tasks.0.name": "x", "note.inner": 1, "a..b": 1, "train.lr": 2})
    said = {fault.path: fault.sentence() for fault in caught.value.faults}
    assert set(said) == {"train.steps.many", "eval.tasks.0.name", "note.inner", "a..b"}
    assert "10 at train.steps" in said["train.steps.many"] and "None at note" in said["note.inner"]


def test_the_other_overrides_are_applied_all_the_same() -> None:
    merged, faults = merge_overrides(BASE, {"note.inner": 1, "train.lr": 2})
    assert merged["train"]["lr"] == 2 and [fault.path for fault in faults] == ["note.inner"]


keys = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(st.dictionaries(keys, st.integers() | st.just({"a": 1}), max_size=5), st.randoms())
def test_any_order_gives_the_same_result(overrides: dict[str, Any], random: Any) -> None:
    shuffled = list(overrides.items())
    random.shuffle(shuffled)

    def outcome(values: dict[str, Any]) -> Any:
        try:
            return apply_overrides({"a": {"b": {}}}, values)
        except ConfigError as error:
            return str(error)

    assert outcome(dict(shuffled)) == outcome(overrides)
