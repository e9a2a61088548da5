"""Stories about who has what: giving, counting, listing."""

from __future__ import annotations

from random import Random

from guild.evaluation.families.family import Family, Problem, comma
from guild.evaluation.stories.world import PEOPLE, PLACES, THINGS, drops, goes, length, story, takes


def _giving(rng: Random, rank: int) -> Problem:
    people, things = rng.sample(PEOPLE, 3 + rank), rng.sample(THINGS, 2 + rank)
    holder = {thing: rng.choice(people) for thing in things}
    told: dict[str, tuple[str, str]] = {}
    lines = [takes(rng, who, thing) for thing, who in holder.items()]
    for _ in range((2, 4, 8)[rank]):
        thing = rng.choice(things)
        giver = holder[thing]
        taker = rng.choice([who for who in people if who != giver])
        told[thing] = (giver, taker)
        holder[thing] = taker
        lines.append(f"{giver} {rng.choice(('gave', 'handed', 'passed'))} the {thing} to {taker}.")
    thing = rng.choice(sorted(told))
    giver, taker = told[thing]
    if rng.random() < 0.5:
        return Problem(story(lines, f"Who gave the {thing} away last?"), giver)
    return Problem(story(lines, f"Who has the {thing}?"), taker)


def _counting(rng: Random, rank: int) -> Problem:
    lines, held = _handling(rng, rank)
    who = rng.choice(sorted(held))
    return Problem(story(lines, f"How many things does {who} carry?"), str(len(held[who])))


def _listing(rng: Random, rank: int) -> Problem:
    lines, held = _handling(rng, rank)
    who = rng.choice(sorted(held))
    return Problem(story(lines, f"What does {who} carry?"), comma(held[who]))


def _handling(rng: Random, rank: int) -> tuple[list[str], dict[str, list[str]]]:
    """People take and drop things: lines, and what each carries at the end."""
    people = rng.sample(PEOPLE, (1, 2, 3)[rank])
    held: dict[str, list[str]] = {who: [] for who in people}
    free = list(THINGS)
    lines = []
    for _ in range(length(rank) + 1):
        who = rng.choice(people)
        if held[who] and rng.random() < 0.35:
            thing = held[who].pop(rng.randrange(len(held[who])))
            free.append(thing)
            lines.append(drops(rng, who, thing))
        elif free:
            thing = free.pop(rng.randrange(len(free)))
            held[who].append(thing)
            lines.append(takes(rng, who, thing))
        if rank and rng.random() < 0.3:
            lines.append(goes(rng, who, rng.choice(PLACES)))
    return lines, held


TASKS = (
    Family("giving", "word", _giving),
    Family("counting", "number", _counting),
    Family("listing", "set", _listing),
)
