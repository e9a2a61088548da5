"""Built-in lists, sizes read from names, the order of sizes (D8, D12)."""

from __future__ import annotations

import unicodedata
from itertools import combinations
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macprovider.engines.base import EngineName
from macprovider.weights.candidates import (
    ENGINES,
    built_in,
    in_size_range,
    named_bits,
    normal_id,
    parameters_b,
    parse_size,
    same_id,
    size_order,
    smaller_than,
    weight_footprint,
)
from modelwright.errors import UsageError

MLX = [
    "mlx-community/Qwen2.5-32B-Instruct-4bit",
    "mlx-community/Qwen2.5-14B-Instruct-4bit",
    "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit",
    "mlx-community/Llama-3.2-3B-Instruct-4bit",
    "mlx-community/Llama-3.2-1B-Instruct-4bit",
]


def test_the_mlx_list_is_the_seeds_verbatim() -> None:
    assert [candidate.id for candidate in built_in("mlx")] == MLX
    assert [candidate.weights_gb for candidate in built_in("mlx")] == [17, 8, 4, 1.8, 0.7]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_list_has_the_five_sizes_largest_first_and_its_names_agree(engine: str) -> None:
    candidates = built_in(engine)
    assert [round(candidate.params_b, 0) for candidate in candidates[:4]] == [32, 14, 7, 3]
    assert 1 <= candidates[4].params_b <= 1.5
    for candidate in candidates:
        assert parameters_b(candidate.id) == candidate.params_b
        assert named_bits(candidate.id) == candidate.bits
    assert list(size_order([candidate.id for candidate in candidates])) == [4, 3, 2, 1, 0]


def test_every_engine_has_a_list() -> None:
    assert set(ENGINES) == set(get_args(EngineName))


def test_an_unknown_engine_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="tensorflow"):
        built_in("tensorflow")


def test_size_limits_keep_the_order_and_both_ends() -> None:
    assert [c.params_b for c in in_size_range(built_in("mlx"), largest_b=8)] == [7, 3, 1]
    assert [c.params_b for c in in_size_range(built_in("mlx"), largest_b=7, smallest_b=3)] == [7, 3]
    assert in_size_range(built_in("mlx"), largest_b=0.5) == ()


@pytest.mark.parametrize(("text", "size"), [("16B", 16), ("16b", 16), ("16", 16), ("0.5B", 0.5), (" 7B ", 7), (".5b", 0.5)])
def test_sizes_are_read_as_the_seed_writes_them(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0B", "-1B", "7M", "7BB", "inf", "nan", "1e3", "٧B", "B", "7 B", "1_000", "9" * 400])
def test_other_sizes_are_refused_naming_the_flag(text: str) -> None:
    with pytest.raises(UsageError, match="--max-model-size"):
        parse_size(text, "--max-model-size")


@pytest.mark.parametrize(
    ("model", "footprint"),
    [
        ("mlx-community/Qwen2.5-32B-Instruct-4bit", 16e9),
        ("Qwen/Qwen2.5-0.5B-Instruct", 1e9),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 0.27e9),
        ("modelwright/tiny-1.5m", 3e6),
        ("a/llama-7b-8bit", 7e9),
        ("70B-things/phi-2", None),
        ("microsoft/phi-2-4bit", None),
        ("mistralai/Mixtral-8x7B", 14e9),
        ("Qwen/Qwen3-30B-A3B", 60e9),
        ("x/zero-0B", None),
        ("/models/local-3B-4bit/", 1.5e9),
    ],
)
def test_footprints_come_from_the_last_segment(model: str, footprint: float | None) -> None:
    found = weight_footprint(model)
    assert found == pytest.approx(footprint) if footprint is not None else found is None


def test_the_smallest_comes_first_and_unreadable_names_count_as_smaller_than_earlier_ones() -> None:
    assert size_order(["a-1B", "b-32B", "c-7B"]) == (0, 2, 1)
    assert size_order(["x", "y", "z"]) == (2, 1, 0)
    assert size_order(["a-7B", "x", "b-32B"]) == (2, 1, 0)
    assert size_order(["a-7B", "b-32B", "x", "c-3B", "d-1B"]) == (4, 3, 2, 0, 1)
    assert size_order([]) == ()


def test_alternates_are_later_and_smaller_only() -> None:
    assert smaller_than(["a-1B", "b-32B"], 0) == ()
    assert smaller_than(["a-32B", "b-7B", "c-14B", "d-1B"], 1) == (3,)
    assert smaller_than(["x", "y", "z"], 1) == (2,)
    assert smaller_than(["a-7B", "b-7B"], 0) == ()


NAMES = st.one_of(
    st.builds("{}/m-{}B-{}bit".format, st.sampled_from("ab"), st.integers(1, 99), st.sampled_from([4, 8])),
    st.sampled_from(["phi", "gemma", "mystery-model"]),
)


@given(st.lists(NAMES, max_size=12))
def test_order_is_a_permutation_that_keeps_every_rule_about_unreadable_names(ids: list[str]) -> None:
    order = size_order(ids)
    assert sorted(order) == list(range(len(ids)))
    rank = {position: place for place, position in enumerate(order)}
    for early, late in combinations(range(len(ids)), 2):
        sizes = weight_footprint(ids[early]), weight_footprint(ids[late])
        if None in sizes:
            assert rank[late] < rank[early]
    if all(weight_footprint(model) is not None for model in ids):
        assert [weight_footprint(ids[position]) for position in order] == sorted(weight_footprint(model) or 0 for model in ids)


@given(st.lists(NAMES, min_size=1, max_size=8), st.data())
def test_every_alternate_stands_before_the_chosen_one_in_the_order_of_sizes(ids: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.integers(0, len(ids) - 1))
    alternates = smaller_than(ids, chosen)
    assert all(position > chosen for position in alternates)
    if all(weight_footprint(model) is not None for model in ids):
        order = size_order(ids)
        assert all(order.index(position) < order.index(chosen) for position in alternates)


@given(st.text())
def test_ids_are_equal_whatever_their_normal_form_and_ascii_case(text: str) -> None:
    assert same_id(text, unicodedata.normalize("NFD", text))
    assert normal_id(normal_id(text)) == normal_id(text)
    assert same_id(text, "".join(letter.upper() if letter.isascii() else letter for letter in text))


def test_only_ascii_letters_are_folded() -> None:
    assert same_id("Qwen/QWEN2.5", "qwen/qwen2.5")
    assert not same_id("a/straße", "a/STRASSE")
    assert not same_id("a/Ä", "a/ä")
