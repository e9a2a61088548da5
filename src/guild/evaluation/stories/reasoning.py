"""Stories about rules: from the kind to the one, from ones to the kind, and sizes."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from guild.evaluation.families.family import Family, Problem
from guild.evaluation.stories.world import PEOPLE, story

_ANIMALS = ("wolf", "mouse", "sheep", "cat", "goose", "fox", "hare", "owl")
_PLURALS = {
    "wolf": "wolves",
    "mouse": "mice",
    "sheep": "sheep",
    "cat": "cats",
    "goose": "geese",
    "fox": "foxes",
    "hare": "hares",
    "owl": "owls",
}
_COLOURS = ("white", "grey", "brown", "black", "red", "yellow")
_BOXES = ("box", "suitcase", "basket", "chest", "crate", "bag", "drawer", "bucket")


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _deduction(rng: Random, rank: int) -> Problem:
    kinds = rng.sample(_ANIMALS, (3, 4, 6)[rank])
    fears = {kind: rng.choice([one for one in kinds if one != kind]) for kind in kinds}
    pets = dict(zip(rng.sample(PEOPLE, len(kinds)), kinds, strict=True))
    lines = [f"{_PLURALS[kind].capitalize()} are afraid of {_PLURALS[fear]}." for kind, fear in fears.items()]
    lines += [f"{name} is {_a(kind)}." for name, kind in pets.items()]
    rng.shuffle(lines)
    name = rng.choice(sorted(pets))
    return Problem(story(lines, f"Which animals is {name} afraid of?"), _PLURALS[fears[pets[name]]])


def _induction(rng: Random, rank: int) -> Problem:
    kinds = rng.sample(_ANIMALS, (2, 3, 5)[rank])
    colour = {kind: rng.choice(_COLOURS) for kind in kinds}
    names = rng.sample(PEOPLE, len(kinds) + 1)
    lines = []
    for name, kind in zip(names, kinds, strict=False):
        lines += [f"{name} is {_a(kind)}.", f"{name} is {colour[kind]}."]
    asked = rng.choice(kinds)
    lines.append(f"{names[-1]} is {_a(asked)}.")
    rng.shuffle(lines)
    question = f"Animals of one kind have one colour. Which colour is {names[-1]}?"
    return Problem(story(lines, question), colour[asked])


def _size(rng: Random, rank: int) -> Problem:
    boxes = rng.sample(_BOXES, (3, 5, 7)[rank])  # from the largest down
    lines = [f"The {one} is bigger than the {other}." for one, other in pairwise(boxes)]
    rng.shuffle(lines)
    one, other = rng.sample(range(len(boxes)), 2)
    return Problem(story(lines, f"Does the {boxes[one]} fit into the {boxes[other]}?"), "yes" if one > other else "no")


TASKS = (
    Family("deduction", "word", _deduction),
    Family("induction", "word", _induction),
    Family("size", "boolean", _size),
)
