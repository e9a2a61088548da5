"""The thirty levels: how long operands are, how hard the mix is, when keys appear. (specs/guild.md 6.1)"""

from __future__ import annotations

from guild.skills.binary.operations import Difficulty
from modelwright.errors import UsageError

MAX_LEVEL = 30
KEYS_FROM = 8
"""The first level whose prompts may have a symbol key."""
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard", "expert")
_MIXES = ((50, 35, 12, 3), (40, 35, 20, 5), (30, 35, 25, 10), (25, 30, 30, 15), (20, 30, 30, 20), (15, 25, 35, 25))
"""Percent of easy, medium, hard and expert problems, for five levels each."""
DEFINITIONS = {
    "unsigned": "digits most significant first, no leading zeros, zero is one digit; subtract and decrement only where the result is not "
    "below zero",
    "division": "divide and divide_by_2 round down; nothing is divided by zero",
    "signed": "two's complement at the width that ends the prompt; the result keeps the width (a product has twice the width) and fits "
    "it: overflow is asked only by the overflow task",
    "sign_of": "POSITIVE, ZERO or NEGATIVE",
    "chains": "one or two inner calls over unsigned numbers; inner results have no more bits than operands",
    "mix": "the shares of difficulties hold while a level has enough problems of each: that no problem comes twice goes first",
    "held out": "a problem is its expression and operands, whatever form and symbols it wears; training shows no problem, and no step of "
    "a chain, that evaluation may ask",
}


def check_level(level: int) -> int:
    """The level itself. Raises UsageError when there is none such."""
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= MAX_LEVEL:
        raise UsageError(f"level: found {level!r}; allowed: a whole number from 1 to {MAX_LEVEL}.")
    return level


def operand_bits(level: int) -> int:
    """The longest operand, in bits: level + 1; 32 at the last level."""
    return 32 if level == MAX_LEVEL else level + 1


def mix(level: int) -> dict[Difficulty, float]:
    """The share of each difficulty, from 0 to 1."""
    return {name: percent / 100 for name, percent in zip(DIFFICULTIES, _MIXES[(level - 1) // 5], strict=True)}


def level_name(level: int) -> str:
    """For people: `Level 8: up to 9 bits`."""
    return f"Level {level}: up to {operand_bits(level)} bits"
