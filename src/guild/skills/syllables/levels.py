"""What each level asks: the table of ten rows and the edition of fifty levels over it. (specs/guild.md 6.2)

The edition of ten has one row a level. The edition of fifty takes each row for five levels (level 1 to 5 are row 1, … 46 to 50 row 10);
within the five, one more way of printing the puzzle differently (`layout`) is added at each, and from level 20 the prompt also holds
lines that must be ignored: one from level 20, two from 30, three from 40. All other numbers are those of the row.

A level's overlap is an upper limit: the share of the needed tiles whose syllable is needed more than once, in percent. The generator
aims between half the limit and the limit; the lexicon decides how near it comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.errors import UsageError

EDITIONS = (10, 50)
"""How many levels an edition has."""
FLOORS = {1: 4.5}
"""Zipf floors that are lower than the table's: English has only about thirty words of two or three syllables above 5.5 that a dictionary
defines, so row 1 takes words from 4.5."""
PERTURBATIONS = ("section_order", "letters", "audio_hints", "hidden_blanks", "truncated_clues", "hidden_clue")
"""Ways to print a puzzle differently, in the order in which rows let them in."""
_PERTURBATIONS_BY_ROW = (2, 3, 4, 5, 6, 6, 6, 6, 6, 6)


@dataclass(frozen=True)
class Row:
    """One row of the table. words, syllables, red_herrings: least and most. min_zipf: floor of a word's frequency. max_overlap: percent.
    strengths: weights with which a clue is strong, medium, weak or minimal."""

    words: tuple[int, int]
    syllables: tuple[int, int]
    min_zipf: float
    max_overlap: int
    red_herrings: tuple[int, int]
    strengths: tuple[float, float, float, float]


ROWS = (
    Row((4, 4), (2, 3), 5.5, 0, (0, 0), (1, 0, 0, 0)),
    Row((4, 5), (2, 3), 5.0, 0, (0, 0), (1, 0, 0, 0)),
    Row((5, 5), (2, 4), 4.5, 10, (0, 0), (0.85, 0.15, 0, 0)),
    Row((5, 6), (3, 4), 4.0, 20, (0, 1), (0.8, 0.2, 0, 0)),
    Row((6, 6), (3, 5), 3.5, 30, (1, 2), (0.7, 0.2, 0.1, 0)),
    Row((6, 7), (3, 5), 3.0, 40, (1, 2), (0.65, 0.2, 0.15, 0)),
    Row((7, 7), (4, 5), 2.8, 50, (2, 3), (0.6, 0.2, 0.15, 0.05)),
    Row((7, 8), (4, 6), 2.5, 60, (3, 4), (0.55, 0.2, 0.15, 0.1)),
    Row((8, 9), (4, 6), 2.5, 70, (4, 5), (0.5, 0.2, 0.2, 0.1)),
    Row((9, 10), (4, 6), 2.0, 80, (5, 6), (0.45, 0.2, 0.2, 0.15)),
)


@dataclass(frozen=True)
class Rules:
    """What a level of an edition asks. number: the table's row, from 1. min_zipf: the floor in force, `row.min_zipf` but for
    FLOORS. layouts: perturbations to choose from; layout_count: how many are used. distractors: lines to ignore."""

    level: int
    edition: int
    number: int
    row: Row
    min_zipf: float
    difficulty: str
    layouts: tuple[str, ...]
    layout_count: int
    distractors: int

    def as_dict(self) -> dict[str, object]:
        """The level for people and pages."""
        row = self.row
        return {
            "level": self.level,
            "row": self.number,
            "difficulty": self.difficulty,
            "words": list(row.words),
            "syllables": list(row.syllables),
            "min_zipf": self.min_zipf,
            "table_min_zipf": row.min_zipf,
            "max_overlap_percent": row.max_overlap,
            "red_herrings": list(row.red_herrings),
            "layout_changes": self.layout_count,
            "layouts": list(self.layouts),
            "distractors": self.distractors,
        }


def rules_of(level: int, edition: int) -> Rules:
    """The rules of a level. Raises UsageError when the edition has no such level."""
    if edition not in EDITIONS:
        raise UsageError(f"edition: found {edition!r}; allowed: 10 or 50 levels.")
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= edition:
        raise UsageError(f"level: found {level!r}; allowed: a whole number from 1 to {edition}.")
    step = (level - 1) % 5 if edition == 50 else 0
    number = (level - 1) // 5 + 1 if edition == 50 else level
    row = ROWS[number - 1]
    layouts = PERTURBATIONS[: _PERTURBATIONS_BY_ROW[number - 1]] if edition == 50 else ()
    return Rules(
        level=level,
        edition=edition,
        number=number,
        row=row,
        min_zipf=FLOORS.get(number, row.min_zipf),
        difficulty=("easy", "easy", "easy", "medium", "medium", "medium", "hard", "hard", "expert", "expert")[number - 1],
        layouts=layouts,
        layout_count=min(step, len(layouts)),
        distractors=min(3, level // 10 - 1) if edition == 50 and level >= 20 else 0,
    )
