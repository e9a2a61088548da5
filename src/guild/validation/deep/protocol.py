"""Is thinking closed where it is opened, and is about half of the file marked? (specs/guild.md 2.2.1, 5.2)"""

from __future__ import annotations

from guild.validation.deep.views import RowView
from guild.validation.marks import STOP, THINKING

SHARE = (0.30, 0.70)
"""Least and largest share of rows that think with marks."""
LEAST_ROWS = 20
"""Rows below which a share says nothing."""


def find_missing_stop(view: RowView) -> str | None:
    """A reply that opens with a thinking mark and ends without a stop mark, or opens `<think>` without closing it."""
    for reply in view.replies:
        if "<think>" in reply and reply.count("<think>") != reply.count("</think>"):
            return "a reply opens <think> and does not close it"
        if view.marked and reply.startswith(THINKING) and not reply.rstrip().endswith(STOP):
            return f"a reply opens with the thinking mark {reply[0]} and ends without a stop mark"
    return None


def judge_share(marked: int, rows: int, *, expected: bool = False) -> str | None:
    """Whether the share of marked rows is off. A file without any mark has not been through the profile and is judged only when marks are
    `expected`."""
    if rows < LEAST_ROWS or (not marked and not expected):
        return None
    share = marked / rows
    if SHARE[0] <= share <= SHARE[1]:
        return None
    return f"found thinking marks in {marked} of {rows} rows ({share:.0%}); allowed: {SHARE[0]:.0%} to {SHARE[1]:.0%}"
