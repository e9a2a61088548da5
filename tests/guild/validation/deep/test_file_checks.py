"""Checks of the file as a whole: duplicates and the share of marked rows (acceptance item 17)."""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.validation.deep.duplicates import DuplicateCounter, digest
from guild.validation.deep.protocol import judge_share
from guild.validation.deep.views import view_of
from guild.validation.policy import BLOCK_ALL, Policy
from guild.validation.validate import validate_file
from helpers.guild_rows import chat, many, turns, write_rows


def test_item_17_duplicates_are_counted_and_named_with_both_lines(tmp_path: Path) -> None:
    rows = many(20)
    again = {"messages": rows[3]["messages"], "metadata": {"sample_id": "another"}}
    path = write_rows(tmp_path / "data.jsonl", [*rows, again, rows[7], rows[3]])
    report = validate_file(path, "deep", schema="chat_sft_v1")
    assert report.warnings == (
        f"{path}: the row stands in the file before (duplicates): 3 of 23 rows (13.0%); "
        "first line 21 repeats line 4, line 22 repeats line 8, line 23 repeats line 4.",
    )
    assert report.stats["duplicates"] == {"rows": 23, "repeated": 3, "share": 0.130435, "exact": True, "sampled_share": 1.0}
    assert not validate_file(path, "deep", schema="chat_sft_v1", policy=BLOCK_ALL).valid
    assert validate_file(path, "deep", schema="chat_sft_v1", policy=Policy(block={"duplicates": 0.2})).valid


def test_rows_are_the_same_only_when_roles_and_texts_are() -> None:
    def of(row: dict) -> int:
        return digest(view_of(row, "messages"))

    assert of(chat("a", "b")) == of(chat("a", "b", metadata={"x": 1}))
    others = [chat("ab", ""), chat("a", "b "), turns(("assistant", "a"), ("user", "b")), turns(("system", "a"), ("user", "b"))]
    assert len({of(row) for row in [chat("a", "b"), *others]}) == 5


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9).map(lambda n: n * 2**60), max_size=60), capacity=st.integers(1, 12))
def test_beyond_its_capacity_a_counter_keeps_an_even_sample_with_all_repetitions(values: list[int], capacity: int) -> None:
    counter = DuplicateCounter(capacity)
    counter.add(array("Q", values), range(1, len(values) + 1))
    found = counter.count()
    kept = Counter(value for value in values if value < found.sampled * 2**64)
    assert len(kept) <= capacity
    assert (found.rows, found.repeated) == (sum(kept.values()), sum(kept.values()) - len(kept))
    if len(set(values)) <= capacity:
        assert found.sampled == 1.0
    for line, before in counter.examples:
        assert values[line - 1] == values[before - 1] and before < line


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.integers(0, 30).map(lambda n: n * 2**59), max_size=40), cut=st.integers(0, 40))
def test_a_counter_depends_on_the_order_only_not_on_the_portions(values: list[int], cut: int) -> None:
    whole, parts = DuplicateCounter(6), DuplicateCounter(6)
    whole.add(array("Q", values), range(len(values)))
    parts.add(array("Q", values[:cut]), range(len(values[:cut])))
    parts.add(array("Q", values[cut:]), range(len(values[:cut]), len(values)))
    assert (whole.count(), whole.examples) == (parts.count(), parts.examples)


@pytest.mark.parametrize(
    ("marked", "rows", "wrong"),
    [(5, 20, True), (6, 20, False), (14, 20, False), (15, 20, True), (1, 19, False), (19, 19, False), (0, 20, False), (20, 20, True)],
)
def test_item_17_a_share_of_marked_rows_outside_30_to_70_percent_is_wrong(marked: int, rows: int, wrong: bool) -> None:
    assert (judge_share(marked, rows) is not None) == wrong


def test_item_17_the_share_is_judged_in_the_file(tmp_path: Path) -> None:
    marked = [chat(f"Why is that, number {n}?", f"🤔🤔\nBecause of {n}, I think.\n🛑🛑") for n in range(30)]
    path = write_rows(tmp_path / "data.jsonl", [*marked, *many(10)])
    report = validate_file(path, "deep", schema="chat_sft_v1")
    assert report.valid
    assert "found thinking marks in 30 of 40 rows (75%); allowed: 30% to 70%" in report.warnings[0]
    assert not validate_file(path, "deep", schema="chat_sft_v1", policy=Policy(block={"emoji_share": 0})).valid
    half = write_rows(tmp_path / "half.jsonl", [*marked, *many(30)])
    assert validate_file(half, "deep", schema="chat_sft_v1").warnings == ()


def test_a_file_without_marks_is_judged_only_where_marks_are_expected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", many(40))
    assert validate_file(path, "deep", schema="chat_sft_v1").warnings == ()
    expected = validate_file(path, "deep", schema="chat_sft_v1", policy=Policy(expect_marks=True))
    assert "thinking marks in 0 of 40 rows" in expected.warnings[0]
