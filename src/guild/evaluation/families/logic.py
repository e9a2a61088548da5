"""Families about what follows from what."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from guild.evaluation.families.family import Family, Problem

_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June")
_KINDS = ("lorp", "mim", "nax", "pell", "quib", "rasp", "sool", "tink", "vorn", "wug", "yeb", "zim")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def _expression(rng: Random, depth: int) -> tuple[str, bool]:
    if depth == 0:
        value = rng.random() < 0.5
        return ("true" if value else "false"), value
    if rng.random() < 0.25:
        text, value = _expression(rng, depth - 1)
        return f"not {text}" if depth == 1 else f"not ({text})", not value
    (one, a), (other, b) = _expression(rng, depth - 1), _expression(rng, rng.randint(0, depth - 1))
    word = rng.choice(("and", "or"))
    one, other = (text if " " not in text else f"({text})" for text in (one, other))
    return f"{one} {word} {other}", (a and b) if word == "and" else (a or b)


def _boolean_logic(rng: Random, rank: int) -> Problem:
    text, value = _expression(rng, (2, 3, 5)[rank])
    return Problem(f"Is this expression true: {text}?", "yes" if value else "no")


def _implication(rng: Random, rank: int) -> Problem:
    kinds = rng.sample(_KINDS, (3, 5, 8)[rank])
    chain = (2, 4, 5)[rank]
    facts = [f"Every {one} is a {other}." for one, other in pairwise(kinds[:chain])]
    facts += [f"Every {one} is a {kinds[0]}." for one in kinds[chain:]]
    rng.shuffle(facts)
    start, asked = rng.randrange(chain), rng.randrange(len(kinds))
    follows = asked < chain and asked >= start
    name = rng.choice(_NAMES)
    question = f"{' '.join(facts)} {name} is a {kinds[start]}. Does it follow that {name} is a {kinds[asked]}?"
    return Problem(question, "yes" if follows else "no")


def _bracket_matching(rng: Random, rank: int) -> Problem:
    text = _balanced(rng, (3, 6, 12)[rank])
    if rng.random() < 0.5:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice([sign for sign in "()[]{}" if sign != text[at]]) + text[at + 1 :]
    return Problem(f"Is every bracket closed in the right order here: {text}", "yes" if _closed(text) else "no")


def _balanced(rng: Random, pairs: int) -> str:
    if pairs == 0:
        return ""
    inside = rng.randrange(pairs)
    opening = rng.choice("([{")
    return opening + _balanced(rng, inside) + _PAIRS[opening] + _balanced(rng, pairs - 1 - inside)


def _closed(text: str) -> bool:
    waiting: list[str] = []
    for sign in text:
        if sign in _PAIRS:
            waiting.append(_PAIRS[sign])
        elif not waiting or waiting.pop() != sign:
            return False
    return not waiting


def _ordering(rng: Random, rank: int) -> Problem:
    people = rng.sample(_NAMES, (3, 5, 8)[rank])  # from the tallest down
    facts = [f"{one} is taller than {other}." for one, other in pairwise(people)]
    rng.shuffle(facts)
    tallest = rng.random() < 0.5
    return Problem(f"{' '.join(facts)} Who is the {'tallest' if tallest else 'shortest'}?", people[0] if tallest else people[-1])


FAMILIES = (
    Family("boolean_logic", "boolean", _boolean_logic),
    Family("implication", "boolean", _implication),
    Family("bracket_matching", "boolean", _bracket_matching),
    Family("ordering", "word", _ordering),
)
