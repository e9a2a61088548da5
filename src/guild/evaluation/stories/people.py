"""Stories in which a word stands for a person, or for several: he and she, two at a time, they; and why people do things."""

from __future__ import annotations

from random import Random

from guild.evaluation.families.family import Family, Problem
from guild.evaluation.stories.world import PEOPLE, PLACES, WOMEN, goes, length, other, pronoun, story

_NEEDS = {
    "hungry": ("kitchen", "sandwich"),
    "thirsty": ("cellar", "lemonade"),
    "tired": ("attic", "blanket"),
    "bored": ("library", "novel"),
    "dirty": ("bathroom", "towel"),
    "cold": ("hallway", "coat"),
}
"""A need, where it is met, and with what."""


def _coreference(rng: Random, rank: int) -> Problem:
    where: dict[str, str] = {}
    lines = []
    for _ in range((1, 2, 4)[rank]):
        who = rng.choice(PEOPLE)
        for number in range(2):
            where[who] = other(rng, PLACES, where.get(who))
            text = goes(rng, who, where[who])
            lines.append(text if number == 0 else f"After that {pronoun(who).lower()}{text.removeprefix(who)}")
    who = rng.choice(sorted(where))
    return Problem(story(lines, f"Where is {who}?"), where[who])


def _pairs(rng: Random, rank: int) -> tuple[list[tuple[str, str]], int]:
    people = rng.sample(PEOPLE, (3, 4, 6)[rank])
    return [(a, b) for at, a in enumerate(people) for b in people[at + 1 :]], length(rank)


def _conjunction(rng: Random, rank: int) -> Problem:
    pairs, count = _pairs(rng, rank)
    where: dict[str, str] = {}
    lines = []
    for _ in range(count):
        pair = rng.choice(pairs)
        place = rng.choice(PLACES)
        where.update(dict.fromkeys(pair, place))
        lines.append(goes(rng, " and ".join(pair), place))
    who = rng.choice(sorted(where))
    return Problem(story(lines, f"Where is {who}?"), where[who])


def _compound_coreference(rng: Random, rank: int) -> Problem:
    pairs, count = _pairs(rng, rank)
    where: dict[str, str] = {}
    lines = []
    for _ in range((count + 1) // 2):
        pair = rng.choice(pairs)
        first, then = rng.sample(PLACES, 2)
        named = " and ".join(pair)
        lines.append(goes(rng, named, first))
        lines.append(f"Then they{goes(rng, named, then).removeprefix(named)}")
        where.update(dict.fromkeys(pair, then))
    who = rng.choice(sorted(where))
    return Problem(story(lines, f"Where is {who}?"), where[who])


def _motives(rng: Random, rank: int) -> Problem:
    told = rng.sample(PEOPLE, (1, 3, 5)[rank])
    needs = {who: rng.choice(sorted(_NEEDS)) for who in told}
    rules = [f"Whoever is {need} goes to the {place} and takes the {thing}." for need, (place, thing) in _NEEDS.items()]
    rng.shuffle(rules)
    lines = rules + [f"{who} is {need}." for who, need in needs.items()]
    who = rng.choice(told)
    place, thing = _NEEDS[needs[who]]
    kind = rng.randrange(3)
    if kind == 0:
        return Problem(story(lines, f"Where will {who} go?"), place)
    if kind == 1:
        return Problem(story(lines, f"What will {who} take?"), thing)
    lines.append(goes(rng, who, place))
    sex = "she" if who in WOMEN else "he"
    return Problem(story(lines[: len(rules)] + lines[-1:], f"What is {who}, so that {sex} went to the {place}?"), needs[who])


TASKS = (
    Family("coreference", "word", _coreference),
    Family("conjunction", "word", _conjunction),
    Family("compound_coreference", "word", _compound_coreference),
    Family("motives", "word", _motives),
)
