"""The one judge of syllable puzzles: read by the shape asked for, then compare words. (specs/guild.md 6.2)

Words are compared as a set, without regard to capitals and order, so that a permuted answer is right in every shape; a word that is
named twice makes the answer wrong. Score = words found ÷ words expected. The judge never raises.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from guild.skills.contract import Verdict
from guild.skills.syllables.puzzles import shape_of, solved_of
from guild.skills.syllables.shapes import UnreadableReply

RUBRIC = "The reply has the shape asked for and names exactly the words of the puzzle; order and capitals do not count."


def judge_reply(puzzle: dict[str, Any], reply: str) -> Verdict:
    """The verdict on a reply to a puzzle."""
    shape = shape_of(puzzle)
    expected = Counter(item.casefold() for item in shape.items(solved_of(puzzle)))
    try:
        found = Counter(item.casefold() for item in shape.read(reply))
    except UnreadableReply as error:
        return Verdict(False, 0.0, f"not readable as {shape.name}: {error}")
    matched = sum((expected & found).values())
    shown = ", ".join(sorted(found.elements()))[:500]
    if found == expected:
        return Verdict(True, 1.0, "", shown)
    missing, extra = sorted((expected - found).elements()), sorted((found - expected).elements())
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"not asked for: {', '.join(extra)[:300]}"] if extra else []
    return Verdict(False, matched / sum(expected.values()), "; ".join(parts), shown)
