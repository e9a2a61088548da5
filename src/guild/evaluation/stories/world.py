"""Who, what and where of the stories, and one person's walk through it."""

from __future__ import annotations

from random import Random

PEOPLE = ("Mira", "Oskar", "Lena", "Tomas", "Priya", "Karim", "Yuki", "Sofia")
WOMEN = ("Mira", "Lena", "Priya", "Sofia")
PLACES = ("kitchen", "garden", "office", "cellar", "attic", "library", "garage", "hallway", "studio", "bathroom")
THINGS = ("lamp", "book", "key", "cup", "hat", "coin", "scarf", "letter")
_GO = ("went to", "walked to", "moved to", "travelled to")
_TAKE = ("picked up", "took", "grabbed")
_DROP = ("put down", "dropped", "left")


def goes(rng: Random, who: str, where: str) -> str:
    """`Mira went to the kitchen.`"""
    return f"{who} {rng.choice(_GO)} the {where}."


def takes(rng: Random, who: str, what: str) -> str:
    """`Mira took the lamp.`"""
    return f"{who} {rng.choice(_TAKE)} the {what}."


def drops(rng: Random, who: str, what: str) -> str:
    """`Mira dropped the lamp.`"""
    return f"{who} {rng.choice(_DROP)} the {what}."


def pronoun(who: str) -> str:
    """`She` or `He`."""
    return "She" if who in WOMEN else "He"


def other(rng: Random, places: tuple[str, ...], than: str | None) -> str:
    """One of the places that is not `than`."""
    return rng.choice([place for place in places if place != than])


def length(rank: int) -> int:
    """How many sentences tell the story, about."""
    return (3, 6, 12)[rank]


def story(lines: list[str], question: str) -> str:
    """The story and its question."""
    return " ".join(lines) + f"\n{question}"
