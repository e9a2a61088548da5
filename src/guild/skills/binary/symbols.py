"""How numbers and names are written: circled digits, or the symbols and names of a prompt's own key. (specs/guild.md 6.1)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

ZERO, ONE = "⓪", "①"
BIT_SYMBOLS = "▲△▼▽■□◆◇★☆♠♣♥♦♤♧♡♢☀☁☂☃"
"""Symbols that a key may give to the two bits. Nothing round: a circle would be a zero in disguise."""
OPERATION_SYMBOLS = "⊕⊖⊗⊘⊞⊟⊠⋈⋉⋊⌂⌘⎈⚙⚡✂✈✎✿❄∇∆≋≀"
OPERATION_WORDS = (
    "blick", "drax", "felm", "gorm", "hask", "jint", "korv", "lomi", "mova", "nabe", "plim", "quib",
    "runo", "sarn", "tarn", "vesh", "wuzz", "yalt", "zorp", "pesk",
)  # fmt: skip
MOST_DISTRACTORS = 2
"""Operations that a key may name although the problem does not use them."""


class Notation(NamedTuple):
    """zero, one: the digits. names: canonical operation → the name it has here; operations that are not in it keep their own.

    Two's complement numbers have a width in bits; unsigned ones have no leading zeros, and zero is one digit.
    """

    zero: str = ZERO
    one: str = ONE
    names: tuple[tuple[str, str], ...] = ()

    @property
    def keyed(self) -> bool:
        """Whether this is the notation of a key."""
        return bool(self.names)

    def name(self, operation: str) -> str:
        """The name of an operation in this notation."""
        for canonical, name in self.names:
            if canonical == operation:
                return name
        return operation

    def bits(self, value: int, width: int = 0) -> str:
        """The digits of a value, most significant first."""
        text = format(value & ((1 << width) - 1), f"0{width}b") if width else format(value, "b")
        return text.replace("0", self.zero).replace("1", self.one)

    def bit(self, value: int) -> str:
        """One digit."""
        return self.one if value else self.zero


PLAIN = Notation()


def draw_key(rng: Random, needed: Iterable[str], others: Sequence[str]) -> Notation:
    """A key for the operations `needed` and up to two of `others`: all its symbols and names differ from each other and none is a
    digit."""
    operations = list(dict.fromkeys(needed))
    spare = [name for name in others if name not in operations]
    operations += rng.sample(spare, min(len(spare), int(rng.random() * (MOST_DISTRACTORS + 1))))
    rng.shuffle(operations)
    zero, one = rng.sample(BIT_SYMBOLS, 2)
    pool: Sequence[str] = OPERATION_SYMBOLS if rng.random() < 0.5 else OPERATION_WORDS
    return Notation(zero, one, tuple(zip(operations, rng.sample(pool, len(operations)), strict=True)))


def key_lines(notation: Notation) -> list[str]:
    """The lines that open a keyed prompt; none when there is no key."""
    if not notation.keyed:
        return []
    bits = [f"{notation.zero} = 0 (zero bit)", f"{notation.one} = 1 (one bit)"]
    return ["Symbol Key:", *bits, "Operations:", *(f"{name} = {operation}" for operation, name in notation.names), ""]
