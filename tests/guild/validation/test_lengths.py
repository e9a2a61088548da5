"""Which rows are measured, that they are found again without reading all, and the arithmetic of percentiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.validation.lengths import RowLength, rank, rows_at, sample_numbers, summarise, token_counter
from guild.validation.scan import ScanTask
from guild.validation.validate import ReadingPlan, scan_file, validate_file
from helpers.guild_rows import chat, many, write_rows
from modelwright.tiny import tiny_model_path


def test_the_sample_is_100_rows_of_the_whole_file_and_the_same_every_time() -> None:
    assert sample_numbers(60) == list(range(60))
    drawn = sample_numbers(100_000)
    assert drawn == sample_numbers(100_000) == sorted(set(drawn))
    assert len(drawn) == 100
    assert drawn[0] < 8_000 and drawn[-1] > 92_000
    assert drawn != sample_numbers(100_000, seed=43)


@settings(max_examples=100, deadline=None)
@given(blanks=st.lists(st.booleans(), min_size=1, max_size=60), block=st.integers(1, 400), step=st.integers(50, 900), data=st.data())
def test_rows_are_found_again_by_their_numbers(tmp_path_factory, blanks: list[bool], block: int, step: int, data: Any) -> None:
    rows = [b"" if blank else orjson.dumps(chat(f"question {at}")) for at, blank in enumerate(blanks)]
    path = write_rows(tmp_path_factory.getbasetemp() / "again.jsonl", rows)
    size = path.stat().st_size
    task = ScanTask(str(path), 0, size, "chat_sft_v1", 100, block_bytes=block)
    found = scan_file(task, ReadingPlan(block, step).ranges(size, 1))
    real = [(number, row) for number, row in enumerate(rows, start=1) if row]
    assert found.rows == len(real)
    wanted = sorted(data.draw(st.sets(st.integers(0, len(real) - 1)))) if real else []
    assert list(rows_at(path, wanted, found.index, block_bytes=block, max_line_bytes=9999)) == [real[number] for number in wanted]


@given(values=st.lists(st.integers(0, 50), min_size=1), share=st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_the_rank_is_the_smallest_value_that_enough_values_do_not_exceed(values: list[int], share: float) -> None:
    ordered = sorted(values)
    found = rank(ordered, share)
    assert sum(value <= found for value in ordered) >= share * len(ordered)
    assert found == ordered[0] or sum(value < found for value in ordered) < share * len(ordered)


def test_a_summary_counts_what_is_above_the_limit() -> None:
    summary = summarise([RowLength(n, n, n // 2) for n in range(1, 101)], 90)
    assert summary is not None
    assert (summary.min, summary.median, summary.p95, summary.p99, summary.max) == (1, 50.5, 95, 99, 100)
    assert (summary.longest_output, summary.over) == (50, 0.1)
    assert summarise([], 90) is None


def test_tokens_are_counted_by_a_real_tokenizer_under_its_chat_template(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model_path("modelwright/tiny-0.4m"))
    count = token_counter(tokenizer)
    row = chat("What is it?", "It is a stone.")
    text = "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nIt is a stone.<|im_end|>\n"
    assert count(row["messages"]) == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert count("It is a stone.") == len(tokenizer.encode("It is a stone.", add_special_tokens=False))
    path = write_rows(tmp_path / "data.jsonl", many(50))
    report = validate_file(path, "standard", schema="chat_sft_v1", tokenizer=count, max_length=512)
    assert report.valid
    assert report.stats["lengths"]["rows"] == report.stats["first_rows"]["rows"] == 50
    longest = max(count(row["messages"]) for row in many(50))
    assert report.stats["lengths"]["max"] == longest
    assert not validate_file(path, "standard", schema="chat_sft_v1", tokenizer=count, max_length=longest // 2).valid
