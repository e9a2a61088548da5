"""A judged answer as a result, and a result as experience (XP). (specs/guild.md 2.3.5)"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Literal, get_args

from guild.errors import UnknownNameError

Grade = Literal["crit", "hit", "glancing", "miss", "crit_miss"]
GRADES: tuple[Grade, ...] = get_args(Grade)
EXPERIENCE: Mapping[Grade, int] = MappingProxyType({"crit": 15, "hit": 10, "glancing": 5, "miss": 2, "crit_miss": 0})
"""Experience of a result before its multipliers, for a quest template whose `base_xp` is `BASE_XP`."""
BASE_XP = EXPERIENCE["hit"]
LEVEL_MULTIPLIERS = tuple(Fraction(text) for text in ("1", "1.1", "1.2", "1.3", "1.5", "1.7", "2", "2.3", "2.6", "3"))
"""Of difficulty levels 1 to 10."""
STREAK_STEP, STREAK_CAP = Fraction(5, 100), Fraction(50, 100)
SUCCESSES: tuple[Grade, ...] = ("crit", "hit")
MISSES: tuple[Grade, ...] = ("miss", "crit_miss")
HALF = 0.5


class UnknownResultError(UnknownNameError):
    """No result of that name."""

    kind = "result"


def grade(correct: bool, partial: float, *, exact: bool = False) -> Grade:
    """The result that a verdict is: right to the letter, right, wrong with at least half of the credit, with some, with none.

    correct, partial: the judge's (partial from 0 to 1). exact: the reply is the golden answer, letter by letter.
    """
    if correct:
        return "crit" if exact else "hit"
    if partial >= HALF:
        return "glancing"
    return "miss" if partial > 0 else "crit_miss"


def level_multiplier(level: int) -> Fraction:
    """Of a difficulty level; above 10 that of 10. Raises ValueError below 1."""
    if level < 1:
        raise ValueError(f"a difficulty level: found {level}; allowed: at least 1")
    return LEVEL_MULTIPLIERS[min(level, len(LEVEL_MULTIPLIERS)) - 1]


def streak_bonus(streak: int) -> Fraction:
    """What `streak` successes in a row before this one add: 5 % each, at most 50 %."""
    return min(STREAK_STEP * max(streak, 0), STREAK_CAP)


def experience(
    result: Grade, level: int, streak: int = 0, *, factor: Fraction = Fraction(1), base_xp: Fraction | int = BASE_XP
) -> Fraction:
    """Experience of one result, exactly: table x level multiplier x (1 + streak bonus) x factor.

    level: of difficulty. streak: successes in a row before it; only a success has the bonus. factor: of the effects at work. base_xp: of
    the quest template (`worth`): what a `hit` is worth, and the other results in proportion. Raises UnknownResultError.
    """
    if result not in EXPERIENCE:
        raise UnknownResultError(result, GRADES)
    bonus = streak_bonus(streak) if result in SUCCESSES else Fraction(0)
    return Fraction(EXPERIENCE[result], BASE_XP) * base_xp * level_multiplier(level) * (1 + bonus) * factor


def next_streak(streak: int, result: Grade) -> int:
    """Successes in a row after this result."""
    return streak + 1 if result in SUCCESSES else 0
