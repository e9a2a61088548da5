"""STANDARD: how many tokens the rows have, measured on a sample, and on the first rows. (specs/guild.md 2.1.1, 5.2)"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from os import PathLike
from random import Random
from typing import Any

import orjson

from guild.validation.reading import Line, read_blocks
from guild.validation.rows import validate_row
from guild.validation.schemas import DataSchema

SAMPLE_ROWS = 100
SAMPLE_SEED = 42
FIRST_ROWS = 100

TokenCounter = Callable[[str | list[dict[str, Any]]], int]
"""Tokens of a text, or of the messages of a row as they are trained: what a profile adds is for the caller to add before counting."""


@dataclass(frozen=True)
class RowLength:
    """One measured row. total: of the whole row. output: of its longest reply (0 for a completion row)."""

    line: int
    total: int
    output: int


@dataclass(frozen=True)
class LengthSummary:
    """Lengths of some rows, by nearest rank. over: share of the rows above the limit, None without a limit."""

    rows: int
    min: int
    max: int
    median: float
    p95: int
    p99: int
    longest_output: int
    over: float | None


def sample_numbers(rows: int, count: int = SAMPLE_ROWS, seed: int = SAMPLE_SEED) -> list[int]:
    """Which of `rows` rows are measured, from 0, in order: all when they are few, else `count` drawn evenly."""
    return sorted(Random(seed).sample(range(rows), min(rows, count)))


def rows_at(
    path: str | PathLike[str], numbers: Sequence[int], index: Sequence[tuple[int, int, int]], *, block_bytes: int, max_line_bytes: int
) -> Iterator[tuple[int, Line]]:
    """The rows of those numbers (from 0, in order) as (line number, line). index: (byte, lines before, rows before), from the scan.

    Reads only the stretches in which they lie. Raises OSError.
    """
    starts = [rows for _, _, rows in index]
    for at, group in groupby(numbers, key=lambda number: bisect_right(starts, number) - 1):
        wanted = set(group)
        offset, line_number, row = index[at]
        end = index[at + 1][0] if at + 1 < len(index) else None
        for block in read_blocks(path, offset, end, block_bytes=block_bytes, max_line_bytes=max_line_bytes):
            for line in block.lines:
                line_number += 1
                if isinstance(line, bytes) and not line.strip():
                    continue
                if row in wanted:
                    yield line_number, line
                row += 1


def measure(rows: Iterable[tuple[int, Line]], schema: DataSchema, count: TokenCounter) -> list[RowLength]:
    """The lengths of the sound ones among some lines; the others are named by QUICK."""
    lengths = []
    for number, line in rows:
        try:
            row = orjson.loads(line)  # type: ignore[arg-type]  # an Overlong is no input of the parser either
        except orjson.JSONDecodeError:
            continue
        if not validate_row(row, schema):
            lengths.append(RowLength(number, *_length(row, schema, count)))
    return lengths


def summarise(lengths: Sequence[RowLength], limit: int | None) -> LengthSummary | None:
    """The summary of some lengths; None when there are none."""
    if not lengths:
        return None
    totals = sorted(length.total for length in lengths)
    over = None if limit is None else sum(total > limit for total in totals) / len(totals)
    longest = max(length.output for length in lengths)
    median = (totals[(len(totals) - 1) // 2] + totals[len(totals) // 2]) / 2
    return LengthSummary(len(totals), totals[0], totals[-1], median, rank(totals, 0.95), rank(totals, 0.99), longest, over)


def rank(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def characters(content: str | list[dict[str, Any]]) -> int:
    """A stand-in where no tokenizer is given: characters, not tokens."""
    return len(content) if isinstance(content, str) else sum(len(message["content"]) for message in content)


def token_counter(tokenizer: Any) -> TokenCounter:
    """Counts with a Hugging Face tokenizer: a text without special tokens, messages under its chat template.

    Raises ValueError when messages come and the tokenizer has no chat template.
    """

    def count(content: str | list[dict[str, Any]]) -> int:
        if isinstance(content, str):
            return len(tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"])
        text = tokenizer.apply_chat_template(content, tokenize=False)
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return count


def _length(row: Mapping[str, Any], schema: DataSchema, count: TokenCounter) -> tuple[int, int]:
    if schema.column != "messages":
        return count(row["text"]), 0
    replies = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    return count(row["messages"]), max(map(count, replies))
