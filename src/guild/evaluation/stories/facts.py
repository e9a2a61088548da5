"""Stories about who is where: one, two and three facts, yes and no, negation, either-or, and the order of times."""

from __future__ import annotations

from random import Random

from guild.evaluation.families.family import Family, Problem
from guild.evaluation.stories.world import PEOPLE, PLACES, THINGS, drops, goes, length, other, story, takes


def _one_fact(rng: Random, rank: int) -> Problem:
    lines, where = _walk(rng, rank)
    who = rng.choice(sorted(where))
    return Problem(story(lines, f"Where is {who}?"), where[who])


def _walk(rng: Random, rank: int) -> tuple[list[str], dict[str, str]]:
    people = rng.sample(PEOPLE, 2 + rank)
    where: dict[str, str] = {}
    lines = []
    for _ in range(length(rank)):
        who = rng.choice(people)
        where[who] = other(rng, PLACES, where.get(who))
        lines.append(goes(rng, who, where[who]))
    return lines, where


def _two_facts(rng: Random, rank: int) -> Problem:
    lines, places, thing = _journey(rng, rank)
    return Problem(story(lines, f"Where is the {thing}?"), places[-1])


def _three_facts(rng: Random, rank: int) -> Problem:
    lines, places, thing = _journey(rng, rank, stops=3 + rank)
    at = rng.randrange(1, len(places))
    while places.count(places[at]) > 1 or places[at - 1] == places[at]:
        lines, places, thing = _journey(rng, rank, stops=3 + rank)
        at = rng.randrange(1, len(places))
    return Problem(story(lines, f"Where was the {thing} before the {places[at]}?"), places[at - 1])


def _journey(rng: Random, rank: int, stops: int = 0) -> tuple[list[str], list[str], str]:
    """A thing is carried through places, while others walk about: lines, the places it was in, the thing."""
    carrier, *others = rng.sample(PEOPLE, 2 + rank)
    thing, distraction = rng.sample(THINGS, 2)
    places = [rng.choice(PLACES)]
    for _ in range((stops or 2 + rank) - 1):
        places.append(other(rng, PLACES, places[-1]))
    lines = [goes(rng, carrier, places[0]), takes(rng, carrier, thing)]
    for place in places[1:]:
        for one in rng.sample(others, min(rank, len(others))):
            lines.append(goes(rng, one, rng.choice(PLACES)))
        lines.append(goes(rng, carrier, place))
    if rng.random() < 0.5:
        lines.append(drops(rng, carrier, thing))
        lines.append(goes(rng, carrier, other(rng, PLACES, places[-1])))
    if rank:
        lines.append(takes(rng, rng.choice(others), distraction))
    return lines, places, thing


def _yes_no(rng: Random, rank: int) -> Problem:
    lines, where = _walk(rng, rank)
    who = rng.choice(sorted(where))
    asked = where[who] if rng.random() < 0.5 else rng.choice(PLACES)
    return Problem(story(lines, f"Is {who} in the {asked}?"), "yes" if asked == where[who] else "no")


def _negation(rng: Random, rank: int) -> Problem:
    people = rng.sample(PEOPLE, 2 + rank)
    known: dict[str, tuple[str, bool]] = {}
    lines = []
    for _ in range(length(rank)):
        who, place = rng.choice(people), rng.choice(PLACES)
        inside = rng.random() < 0.6
        known[who] = (place, inside)
        lines.append(f"{who} is in the {place}." if inside else f"{who} is no longer in the {place}.")
    who = rng.choice(sorted(known))
    place, inside = known[who]
    return Problem(story(lines, f"Is {who} in the {place}?"), "yes" if inside else "no")


def _either_or(rng: Random, rank: int) -> Problem:
    people = rng.sample(PEOPLE, 2 + rank)
    lines, known = [], {}
    for who in people:
        one, two, three = rng.sample(PLACES, 3)
        sure = rng.random() < 0.5
        lines.append(f"{who} is in the {one}." if sure else f"{who} is either in the {one} or in the {two}.")
        known[who] = (one, two, three, sure)
    who = rng.choice(people)
    one, two, three, sure = known[who]
    place, said = rng.choice([(one, "yes"), (three, "no")] if sure else [(two, "maybe"), (three, "no")])
    return Problem(story(lines, f"Is {who} in the {place}: yes, no or maybe?"), said)


def _times(rng: Random, rank: int) -> Problem:
    who = rng.choice(PEOPLE)
    moments = ["Yesterday", "This morning", "This afternoon", "This evening"]
    chosen = moments[: (2, 3, 4)[rank]]
    places = rng.sample(PLACES, len(chosen))
    told = list(zip(chosen, places, strict=True))
    lines = [f"{when} {who} went to the {where}." for when, where in told]
    if rank:
        rival = rng.choice([name for name in PEOPLE if name != who])
        lines += [f"{when} {rival} went to the {rng.choice(PLACES)}." for when in chosen]
    rng.shuffle(lines)
    at = rng.randrange(1, len(told))
    return Problem(story(lines, f"Where was {who} before the {places[at]}?"), places[at - 1])


TASKS = (
    Family("one_fact", "word", _one_fact),
    Family("two_facts", "word", _two_facts),
    Family("three_facts", "word", _three_facts),
    Family("yes_no", "boolean", _yes_no),
    Family("negation", "boolean", _negation),
    Family("either_or", "word", _either_or),
    Family("times", "word", _times),
)
