"""Levels that experience buys, and the hero's level, which is trained steps. (specs/guild.md 2.3.5, 1.2)

Three things are called level: a problem's difficulty (1 to 10), a skill's training level (guild.curriculum), and these two, which are for
people alone: nothing is trained, evaluated or chosen by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

FIRST_COST, GROWTH, MAX_LEVEL = 100, Fraction(3, 2), 100
STEPS_PER_HERO_LEVEL = 1000


@dataclass(frozen=True)
class Standing:
    """level: 1 to 100. into: experience since it began. needed: experience from its begin to the next level, None at the last one."""

    level: int
    into: Fraction
    needed: Fraction | None


def cost(level: int) -> Fraction:
    """Experience from the level before to `level`: 100 x 1.5^(level - 2); 0 for level 1. Raises ValueError outside 1 to 100."""
    if not 1 <= level <= MAX_LEVEL:
        raise ValueError(f"a level: found {level}; allowed: 1 to {MAX_LEVEL}")
    return Fraction(0) if level == 1 else FIRST_COST * GROWTH ** (level - 2)


def total_cost(level: int) -> Fraction:
    """Experience from nothing to `level`: the sum of the costs up to it, 200 x (1.5^(level - 1) - 1)."""
    cost(level)
    return FIRST_COST * (GROWTH ** (level - 1) - 1) / (GROWTH - 1)


def standing(experience: Fraction) -> Standing:
    """Where so much experience stands. Raises ValueError below 0."""
    if experience < 0:
        raise ValueError(f"experience: found {experience}; allowed: at least 0")
    level = 1
    while level < MAX_LEVEL and experience >= total_cost(level + 1):
        level += 1
    return Standing(level, experience - total_cost(level), cost(level + 1) if level < MAX_LEVEL else None)


def hero_level(steps: int) -> int:
    """A hero's level: a thousand trained steps each. Its XP is the steps themselves. (1.2)"""
    return max(0, steps) // STEPS_PER_HERO_LEVEL
