"""What a family of problems is: a name, a kind of answer, and one generator. (specs/guild.md 4.7)"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, get_args

from guild.evaluation.answers import AnswerKind
from modelwright.errors import ModelwrightError

Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
INSTRUCTIONS: dict[AnswerKind, str] = {
    "number": "Reply with the number alone.",
    "word": "Reply with one word.",
    "boolean": "Reply with yes or no.",
    "text": "Reply with the result alone.",
    "list": "Reply with the items alone, divided by commas.",
    "set": "Reply with the items alone, divided by commas, in any order; reply none when there is none.",
}
"""Last sentence of every prompt: it says what the judge reads."""
_TRIES = 1000


class Problem(NamedTuple):
    """A question without its instruction, and the golden answer."""

    question: str
    answer: str


Make = Callable[[Random, int], Problem]
"""`make(rng, rank)`: one problem; rank is 0 for easy, 1 for medium, 2 for hard."""


@dataclass(frozen=True)
class Family:
    """name: of the folder and of the score. answer: how it is judged. make: draws one problem."""

    name: str
    answer: AnswerKind
    make: Make

    def problems(self, difficulty: Difficulty, count: int, seed: int) -> list[Problem]:
        """`count` distinct problems with their instruction, the same for the same arguments on every machine; a longer list begins with
        the shorter one. Raises ModelwrightError when the family has no more at that difficulty."""
        rng = seeded("family", self.name, difficulty, seed)
        rank = DIFFICULTIES.index(difficulty)
        found: dict[str, Problem] = {}
        idle = 0
        while len(found) < count:
            made = self.make(rng, rank)
            if made.question in found:
                idle += 1
                if idle > _TRIES:
                    raise ModelwrightError(f"{self.name} {difficulty}: found {len(found)} distinct problems; {count} are asked for.")
                continue
            idle = 0
            found[made.question] = Problem(f"{made.question}\n{INSTRUCTIONS[self.answer]}", made.answer)
        return list(found.values())


def seeded(*parts: object) -> Random:
    """A generator whose stream depends on the named parts and on nothing else."""
    return Random(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest())


def number_of_digits(rng: Random, digits: int) -> int:
    """A number with exactly so many digits."""
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def comma(items: list[str] | list[int]) -> str:
    """`a, b, c`, or `none`."""
    return ", ".join(map(str, items)) or "none"


_WORDS_TEXT = """
    apple river stone cloud table garden window bridge candle forest pencil rocket silver yellow orange purple winter
    summer monkey tiger rabbit turtle dolphin eagle spider butter cheese pepper lemon cherry carrot potato basket bottle
    ladder hammer mirror pillow blanket curtain engine station harbor island desert canyon valley meadow thunder shadow
    whisper puzzle riddle castle dragon knight wizard planet comet galaxy saturn mountain lantern anchor compass feather
    ribbon button needle thread velvet cotton marble copper bronze crystal diamond emerald amber coral
"""
WORDS = tuple(_WORDS_TEXT.split())
"""Nouns and colours, each once."""
