"""A sound row as the checks look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guild.validation.marks import THINKING


@dataclass(slots=True)
class RowView:
    """The texts of a row.

    roles, contents: every message in order; both empty for a completion row. asked: what the user said, joined. replies: what the
    assistant said, or the one text of a completion row. marked: a reply opens with a thinking mark.
    """

    roles: list[str]
    contents: list[str]
    asked: str
    replies: list[str]
    marked: bool


def view_of(row: Mapping[str, Any], column: str) -> RowView:
    """The view of a row that `validate_row` finds no fault in. column: of its schema, `messages` or `text`."""
    if column != "messages":
        text: str = row["text"]
        return RowView([], [], "", [text], text.startswith(THINKING))
    roles: list[str] = []
    contents: list[str] = []
    asked: list[str] = []
    replies: list[str] = []
    marked = False
    for message in row["messages"]:
        role, content = message["role"], message["content"]
        roles.append(role)
        contents.append(content)
        if role == "user":
            asked.append(content)
        elif role == "assistant":
            replies.append(content)
            marked = marked or content.startswith(THINKING)
    return RowView(roles, contents, asked[0] if len(asked) == 1 else "\n".join(asked), replies, marked)
