"""Generated training text that needs long context: `longform`, `retrieval_qa`, `code` and `mixed`.

Every row is an instruction record whose answer can only be given from its input. Rows depend on nothing but kind,
seed and row number (row 5 of n=10 is row 5 of n=1000). They share neither phrasing nor numbers with the probes: no
integer in them is a probe key, so what a probe measures afterwards is retrieval and not memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from modelwright.probes.keys import is_probe_key


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TOWNS = _words("Arlen Besk Corrin Dunmere Elsby Farrow Galt Hexford Istria Jorvik Kelda Lunden Marsk Norrby Ostrand Pell Quarley Rusk")
_TRADES = _words("glass rope salt paper timber wool copper clock tile candle barrel lace leather brick honey cider")
_NAMES = _words("Ada Bruno Clara Dimitri Edda Farid Greta Hugo Ines Jakob Katya Leon Mira Nils Olga Pavel Rosa Stefan Tilda Viktor")
_ROOMS = _words("archive kitchen library orchard cellar workshop gallery stable chapel garden")
_WEATHER = (
    "Rain fell on the roofs for most of the week and the streets stayed quiet.",
    "The market opened late because the carts were held up at the bridge.",
    "Old records describe the harvest as fair, neither rich nor poor.",
    "Children carried baskets to the square and sold apples to travellers.",
    "A new bell was hung in the tower and rang at dusk.",
    "The council met twice, argued about the road, and settled nothing.",
    "Boats waited below the weir until the water had risen again.",
    "Letters from the coast arrived slowly and told of calm seas.",
)
_VERBS = _words("merge sort trim fold scan pack join split count shift")
_NOUNS = _words("rows words edges bytes pages nodes marks lines parts slots")


def generate_rows(kind: str, n: int, seed: int) -> Iterator[dict[str, str]]:
    """`n` instruction rows of `kind`: longform, retrieval_qa, code, or mixed (the three in turn). Raises ValueError for
    another kind.
    """
    makers = {"longform": _longform, "retrieval_qa": _retrieval_qa, "code": _code}
    if kind != "mixed" and kind not in makers:
        raise ValueError(f"unknown synthetic kind {kind!r}; allowed are {', '.join((*makers, 'mixed'))}")
    order = tuple(makers) if kind == "mixed" else (kind,)
    for number in range(n):
        own = order[number % len(order)]
        yield makers[own](Random(f"{own}:{seed}:{number}"))


def _longform(rng: Random) -> dict[str, str]:
    """A chronicle in sections; each section plants one fact about one town, and one points back to an earlier
    section.
    """
    towns = rng.sample(_TOWNS, rng.randint(4, 10))
    facts = {town: (rng.choice(_TRADES), _number(rng, 1400, 1990), rng.choice(_NAMES)) for town in towns}
    sections = []
    for place, town in enumerate(towns):
        trade, year, founder = facts[town]
        lines = [
            f"{town} lives from its {trade} makers, whose guild {founder} founded in {year}.",
            *_padding(rng, 3, 12),
        ]
        if place:
            lines.append(f"Like {rng.choice(towns[:place])}, described above, it pays no toll.")
        rng.shuffle(lines)
        sections.append(f"{town}\n" + " ".join(lines))
    answer = "\n".join(f"{town}: {trade}, {founder}, {year}" for town, (trade, year, founder) in facts.items())
    return {
        "instruction": "Read the chronicle. List each town with its trade, its guild's founder and the year, one a line.",
        "input": "\n\n".join(sections),
        "output": answer,
    }


def _retrieval_qa(rng: Random) -> dict[str, str]:
    """Passages about people and rooms; one holds the answer. One row in five asks for someone who is not mentioned."""
    people = rng.sample(_NAMES, rng.randint(5, 14))
    stays = {person: (rng.choice(_ROOMS), _number(rng, 10, 900)) for person in people}
    passages = []
    for person, (room, crates) in stays.items():
        lines = [f"{person} counted {crates} crates in the {room}.", *_padding(rng, 2, 6)]
        rng.shuffle(lines)
        passages.append(" ".join(lines))
    if rng.random() < 0.2:
        stranger = rng.choice([name for name in _NAMES if name not in stays])
        question, answer = f"How many crates did {stranger} count?", "The passages do not say."
    else:
        asked = rng.choice(people)
        question, answer = (
            f"How many crates did {asked} count, and where?",
            f"{asked} counted {stays[asked][1]} crates in the {stays[asked][0]}.",
        )
    return {"instruction": question, "input": "\n\n".join(passages), "output": answer}


def _code(rng: Random) -> dict[str, str]:
    """A Python module with one needed helper at a random depth among others; the answer is a function that uses it."""
    names = [f"{verb}_{noun}" for verb in _VERBS for noun in _NOUNS]
    chosen = rng.sample(names, rng.randint(6, 24))
    helper = chosen[rng.randrange(len(chosen))]
    functions, wanted = [], ""
    for name in chosen:
        factor, offset = _number(rng, 2, 90), _number(rng, 1, 900)
        does = f"multiply by {factor}, then add {offset}"
        if name == helper:
            wanted = does
        functions.append(f'def {name}(value: int) -> int:\n    """{does.capitalize()}."""\n    return value * {factor} + {offset}')
    task = f"Write the function total(values) that sums {wanted} over all values."
    return {
        "instruction": f"{task} Use the helper that the module already has.",
        "input": "\n\n\n".join(functions),
        "output": f"def total(values: list[int]) -> int:\n    return sum({helper}(value) for value in values)",
    }


def _padding(rng: Random, least: int, most: int) -> list[str]:
    return [rng.choice(_WEATHER) for _ in range(rng.randint(least, most))]


def _number(rng: Random, low: int, high: int) -> int:
    """A whole number in low..high that no probe uses."""
    while True:
        number = rng.randint(low, high)
        if not is_probe_key(number):
            return number
