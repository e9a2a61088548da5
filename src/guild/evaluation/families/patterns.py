"""Families about sequences that go on."""

from __future__ import annotations

from itertools import accumulate
from random import Random

from guild.evaluation.families.family import WORDS, Family, Problem, comma


def _number_pattern(rng: Random, rank: int) -> Problem:
    start, step = rng.randint(1, 40), rng.randint(2, 12)
    if rank == 0:
        terms = [start + step * at for at in range(6)]
    elif rank == 1:
        factor = rng.randint(2, 3)
        terms = [start * factor**at for at in range(6)] if rng.random() < 0.5 else [start + 100 - step * at for at in range(6)]
    else:
        first = rng.randint(1, 6)
        terms = list(accumulate([start, *(first + step * at for at in range(6))]))
    return Problem(f"Which number comes next: {comma(terms[:-1])}, …?", str(terms[-1]))


def _word_pattern(rng: Random, rank: int) -> Problem:
    words = rng.sample(WORDS, (2, 3, 4)[rank])
    period = words if rank < 2 else [words[0], words[1], words[0], words[2], words[3]]
    shown = 2 * len(period) + rng.randrange(len(period))
    return Problem(f"Which word comes next: {comma([period[at % len(period)] for at in range(shown)])}, …?", period[shown % len(period)])


FAMILIES = (Family("number_pattern", "number", _number_pattern), Family("word_pattern", "word", _word_pattern))
