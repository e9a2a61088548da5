"""The four record shapes a dataset may have, and the check that turns a raw row into a `Record`.

    {"messages": [{"role", "content"}, …]}   chat
    {"prompt", "completion"}                 completion
    {"instruction", "input"?, "output"}      instruction
    {"text"}                                 plain text

A dataset has one shape. The first row decides it; a row of another or of no known shape is an error that names the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelwright.errors import LoadError

Shape = Literal["messages", "completion", "instruction", "text"]
SHAPES: dict[Shape, tuple[str, ...]] = {
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
ROLES = ("system", "user", "assistant", "tool")
ALLOWED = 'allowed are {"messages"}, {"prompt", "completion"}, {"instruction", "input", "output"} and {"text"}'


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Record:
    """One row. `where` names its place (`file:line`). For `instruction`, `prompt` is instruction and input joined by an
    empty line.
    """

    shape: Shape
    where: str
    text: str = ""
    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] = ()


def shape_of(row: Mapping[str, Any], text_field: str | None = None) -> Shape | None:
    """The shape of a raw row, or None when it has none. With `text_field` only that field counts, and the shape is
    text.
    """
    if text_field is not None:
        return "text" if text_field in row else None
    return next((shape for shape, fields in SHAPES.items() if all(row.get(field) is not None for field in fields)), None)


def to_records(rows: Iterable[tuple[str, Any]], text_field: str | None = None) -> Iterator[Record]:
    """Turn `(where, raw row)` pairs into records, lazily. Raises LoadError naming the first row that does not fit."""
    expected: Shape | None = None
    first = ""
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise LoadError(f"{where}: found a {type(row).__name__}, each row must be an object; {ALLOWED}.")
        shape = shape_of(row, text_field)
        if shape is None:
            wanted = f"the field {text_field!r} was asked for" if text_field else ALLOWED
            raise LoadError(f"{where}: found the fields {', '.join(map(str, row)) or 'none'}; {wanted}.")
        if expected is None:
            expected, first = shape, where
        if shape != expected:
            raise LoadError(
                f"{where}: found a row of shape {shape!r} in a dataset of shape {expected!r} (as in {first}); one dataset, one shape."
            )
        yield _record(shape, where, row, text_field)


def _record(shape: Shape, where: str, row: Mapping[str, Any], text_field: str | None) -> Record:
    if shape == "messages":
        return Record(shape, where, messages=_messages(where, row["messages"]))
    if shape == "completion":
        return Record(shape, where, prompt=_string(where, row, "prompt"), completion=_string(where, row, "completion"))
    if shape == "instruction":
        parts = [_string(where, row, "instruction"), _string(where, row, "input") if row.get("input") else ""]
        return Record(shape, where, prompt="\n\n".join(filter(None, parts)), completion=_string(where, row, "output"))
    return Record(shape, where, text=_string(where, row, text_field or "text"))


def _messages(where: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise LoadError(f'{where}: "messages" must be a list with at least one {{"role", "content"}}.')
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str) or turn.get("role") not in ROLES:
            raise LoadError(f'{where}: message {number} must have a "role" out of {", ".join(ROLES)} and a text as "content".')
        turns.append(Message(turn["role"], turn["content"]))
    return tuple(turns)


def _string(where: str, row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if not isinstance(value, str):
        raise LoadError(f"{where}: the field {field!r} holds a {type(value).__name__}; a text is needed.")
    return value
