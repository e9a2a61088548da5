"""Forty families of primitive problems, each with generators of our own for easy, medium and hard. (specs/guild.md 4.7)"""

from __future__ import annotations

from guild.evaluation.families import letters, lists, logic, measures, numbers, patterns, sets
from guild.evaluation.families.family import DIFFICULTIES, Difficulty, Family, Problem

FAMILIES: tuple[Family, ...] = (
    *numbers.FAMILIES,
    *letters.FAMILIES,
    *lists.FAMILIES,
    *sets.FAMILIES,
    *logic.FAMILIES,
    *measures.FAMILIES,
    *patterns.FAMILIES,
)

__all__ = ["DIFFICULTIES", "FAMILIES", "Difficulty", "Family", "Problem"]
