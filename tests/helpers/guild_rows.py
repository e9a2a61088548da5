"""Rows and files of training data for the tests of the guild."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson


def chat(user: str = "Compute: add(3, 4)", assistant: str = "The sum is seven.", **more: Any) -> dict[str, Any]:
    """A conversation of one question and its reply."""
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}], **more}


def turns(*said: tuple[str, str]) -> dict[str, Any]:
    """A conversation of these (role, content) turns."""
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def many(count: int) -> list[dict[str, Any]]:
    """Different conversations without anything that a check would name."""
    words = ("river", "stone", "cloud", "garden", "lamp", "harbour", "violin")
    return [
        chat(f"What is number {at} of the {words[at % 7]}?", f"It is the {words[at % 5]} of {at * 7 + 1}.", metadata={"level": at % 9})
        for at in range(count)
    ]


def broken_check(*given: Any, **named: Any) -> Any:
    """In the place of a part of a validator: it raises."""
    raise RuntimeError("no such thing")


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A file of JSON lines. A row given as bytes or text stands as it is."""
    lines = [row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else orjson.dumps(row) for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
