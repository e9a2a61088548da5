"""Is a reply empty, or as good as empty? (specs/guild.md 5.2)"""

from __future__ import annotations

from guild.validation.deep.views import RowView

LEAST_REPLY = 5
"""Characters of the shortest reply that is taken for one."""


def find_degenerate(view: RowView) -> str | None:
    """A reply that is empty, blank, shorter than five characters or without a letter or digit."""
    for reply in view.replies:
        text = reply.strip()
        if not text:
            return "an empty reply" if not reply else "a blank reply"
        if len(text) < LEAST_REPLY:
            return f"a reply of {len(text)} characters, {text!a}"
        if not any(map(str.isalnum, text)):
            return f"a reply without a letter or digit, {text[:20]!a}"
    return None
