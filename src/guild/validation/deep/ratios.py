"""Are prompt and reply of comparable length? (specs/guild.md 5.2)"""

from __future__ import annotations

from guild.validation.deep.views import RowView

LONGEST_PROMPT = 20
"""A prompt this many times as long as its reply is named."""
LONGEST_REPLY = 50
"""A reply this many times as long as its prompt is named."""


def find_odd_lengths(view: RowView) -> str | None:
    """What the user said at least 20 times as long as what the assistant said, or that 50 times as long; in characters.

    An empty side is another check's matter.
    """
    asked, said = len(view.asked), sum(map(len, view.replies))
    if not asked or not said:
        return None
    if asked >= LONGEST_PROMPT * said:
        return f"a prompt {asked / said:.0f} times as long as the reply"
    if said >= LONGEST_REPLY * asked:
        return f"a reply {said / asked:.0f} times as long as the prompt"
    return None
