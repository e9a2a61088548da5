"""Families about sets."""

from __future__ import annotations

from random import Random

from guild.evaluation.families.family import WORDS, Family, Problem, comma


def _pair(rng: Random, rank: int) -> tuple[list[str], list[str]]:
    """Two collections that share about half of their items."""
    size = (3, 5, 8)[rank]
    words = rng.sample(WORDS, 2 * size)
    shared = rng.randint(0 if rank == 2 else 1, size - 1)
    one, other = words[:size], words[:shared] + words[size : 2 * size - shared]
    rng.shuffle(one)
    rng.shuffle(other)
    return one, other


def _asked(one: list[str], other: list[str]) -> str:
    return f"A holds {comma(one)}. B holds {comma(other)}."


def _union(rng: Random, rank: int) -> Problem:
    one, other = _pair(rng, rank)
    return Problem(f"{_asked(one, other)} Which items are in A or in B, each once?", comma(list(dict.fromkeys(one + other))))


def _intersection(rng: Random, rank: int) -> Problem:
    one, other = _pair(rng, rank)
    return Problem(f"{_asked(one, other)} Which items are in both?", comma([item for item in one if item in other]))


def _difference(rng: Random, rank: int) -> Problem:
    one, other = _pair(rng, rank)
    return Problem(f"{_asked(one, other)} Which items are in A and not in B?", comma([item for item in one if item not in other]))


def _subset(rng: Random, rank: int) -> Problem:
    one, other = _pair(rng, rank)
    inside = rng.random() < 0.5
    small = rng.sample(other, (2, 3, 5)[rank]) if inside else one[: (2, 3, 5)[rank]]
    truly = all(item in other for item in small)
    return Problem(f"{_asked(small, other)} Is every item of A in B?", "yes" if truly else "no")


FAMILIES = (
    Family("union", "set", _union),
    Family("intersection", "set", _intersection),
    Family("difference", "set", _difference),
    Family("subset", "boolean", _subset),
)
