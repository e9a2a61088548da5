"""The table of the row checks: the name under which a policy knows each, and the function that looks. (specs/guild.md 5.2)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from guild.validation.deep.degenerate import find_degenerate
from guild.validation.deep.encoding import find_damaged_text
from guild.validation.deep.flow import find_broken_flow
from guild.validation.deep.json_replies import find_broken_json
from guild.validation.deep.leakage import find_leakage
from guild.validation.deep.protocol import find_missing_stop
from guild.validation.deep.ratios import find_odd_lengths
from guild.validation.deep.repetition import find_repetition
from guild.validation.deep.views import RowView


@dataclass(frozen=True)
class RowCheck:
    """One check of a row. find: what is wrong with it, in words, or None. title: what the check is about. chat_only: it has nothing to
    look at in completion rows."""

    find: Callable[[RowView], str | None]
    title: str
    chat_only: bool = False


ROW_CHECKS: dict[str, RowCheck] = {
    "leakage": RowCheck(find_leakage, "the prompt holds the answer", chat_only=True),
    "protocol": RowCheck(find_missing_stop, "thinking is opened and never closed"),
    "repetition": RowCheck(find_repetition, "the reply repeats itself"),
    "degenerate": RowCheck(find_degenerate, "the reply says nothing"),
    "json": RowCheck(find_broken_json, "the reply looks like JSON and is none", chat_only=True),
    "encoding": RowCheck(find_damaged_text, "the text is damaged"),
    "flow": RowCheck(find_broken_flow, "the turns are out of order", chat_only=True),
    "length_ratio": RowCheck(find_odd_lengths, "prompt and reply are of very different length", chat_only=True),
}
FILE_CHECKS = {"duplicates": "the row stands in the file before", "emoji_share": "too few or too many replies think with marks"}
"""Checks of the file as a whole: name and what each is about."""
