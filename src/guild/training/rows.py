"""Lines of a training file to rows that a profile can work on: what is mended, what is left out and why. (specs/guild.md 2.1.6)"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

ROLES = ("system", "user", "assistant")


class UnusableRowError(ValueError):
    """A row that cannot be trained; the text says why, as a phrase."""


@dataclass(frozen=True)
class CleanRow:
    """row: with texts as contents. mended: contents that were no text."""

    row: dict[str, Any]
    mended: int


def read_row(line: bytes) -> CleanRow:
    """One line to a row with `messages` or `text`. Raises UnusableRowError.

    A number stands for its digits, a list of text parts for their lines; NaN and null are empty.
    """
    row = _parse(line)
    if "messages" in row:
        return _conversation(row)
    text, mended = text_of(row.get("text"))
    if not text.strip():
        raise UnusableRowError("neither messages nor a text")
    return CleanRow({**row, "text": text}, mended)


def text_of(value: Any) -> tuple[str, bool]:
    """A content as text, and whether it was something else."""
    if isinstance(value, str):
        return value, False
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", True
    if isinstance(value, list) and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in value):
        return "\n".join(part["text"] for part in value), True
    return json.dumps(value, ensure_ascii=False), True


def _parse(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            row = json.loads(line)  # knows NaN, which pandas writes
        except (ValueError, RecursionError) as error:
            raise UnusableRowError("no JSON") from error
    if not isinstance(row, dict):
        raise UnusableRowError("no JSON object")
    return row


def _conversation(row: dict[str, Any]) -> CleanRow:
    turns = row["messages"]
    if not isinstance(turns, list) or not turns:
        raise UnusableRowError("messages is not a list with turns")
    messages: list[dict[str, Any]] = []
    mended = 0
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise UnusableRowError(f"a turn whose role is none of {', '.join(ROLES)}")
        content, changed = text_of(turn.get("content"))
        mended += changed
        if not content.strip() and turn["role"] != "system":
            raise UnusableRowError(f"an empty {turn['role']} turn")
        messages.append({"role": turn["role"], "content": content})
    roles = {message["role"] for message in messages}
    if not {"user", "assistant"} <= roles:
        raise UnusableRowError("no user or no assistant turn")
    return CleanRow({**row, "messages": messages}, mended)
