"""Clues: ten kinds in four strengths, and the test that a clue is meant for one word of its puzzle only. (specs/guild.md 6.2)"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from guild.skills.syllables.etymology import roots_of
from guild.skills.syllables.lexicon import PARTS, Lexicon, Word

STRENGTHS = ("strong", "medium", "weak", "minimal")
HINTS = {
    "definition": "strong",
    "synonym": "strong",
    "hypernym": "medium",
    "example": "medium",
    "antonym": "weak",
    "domain": "weak",
    "morphology": "weak",
    "etymology": "minimal",
    "first_letter": "minimal",
    "syllable_hint": "minimal",
}
"""Signal strength by kind of hint."""
_SUFFIXES = """
ization ation ition sion tion ability ibility ity ment ness ence ance ency ancy ology ician ism ist er or ship hood age ery
able ible ical ious eous ous ful less ive ary ory ial al ic ant ent ally ably ibly ly ize ify ate en
"""
SUFFIXES = tuple(_SUFFIXES.split())
"""Endings that a morphology clue names; a word has the longest that fits."""
_LETTERS = re.compile(r"[a-z]+")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True)
class Clue:
    """A clue for a word: its kind (a key of HINTS), what distinguishes it from others of the kind, and the text that is printed."""

    kind: str
    value: str
    text: str

    @property
    def strength(self) -> str:
        """`strong`, `medium`, `weak` or `minimal`."""
        return HINTS[self.kind]


def definition_clue(word: Word) -> Clue:
    """The clue that every word has."""
    return Clue("definition", word.definition, word.definition)


def clues_for(word: Word, kind: str, lexicon: Lexicon) -> list[Clue]:
    """Every clue of a kind that the lexicon has for a word; [] when it has none."""
    return _MAKERS[kind](word, lexicon)


def choose_clue(word: Word, others: Iterable[Word], weights: tuple[float, ...], lexicon: Lexicon, rng: random.Random) -> Clue:
    """A clue of a strength drawn by weights that fits no other word of the puzzle; the definition when there is no such clue."""
    rest = tuple(other for other in others if other.text != word.text)
    strength = rng.choices(STRENGTHS, weights)[0]
    kinds = [kind for kind, of in HINTS.items() if of == strength]
    rng.shuffle(kinds)
    for kind in kinds:
        clues = [clue for clue in clues_for(word, kind, lexicon) if not names(clue.text, word)]
        if clues:
            clue = rng.choice(clues)
            if not any(fits(clue, other, lexicon) for other in rest):
                return clue
    return definition_clue(word)


def fits(clue: Clue, word: Word, lexicon: Lexicon) -> bool:
    """Whether a clue might be meant for a word, by all that the lexicon says of it."""
    if clue.kind in ("definition", "synonym"):
        return clue.value == word.text or clue.value in word.synonyms or clue.value == word.definition
    return any(clue.value == other.value for other in clues_for(word, clue.kind, lexicon))


def names(text: str, word: Word) -> bool:
    """Whether a text holds the word itself."""
    return word.text in _LETTERS.findall(text.lower())


def suffix_of(word: Word) -> str:
    """The longest known ending of a word that leaves at least three letters, or ""."""
    return max((ending for ending in SUFFIXES if word.text.endswith(ending) and len(word.text) - len(ending) >= 3), key=len, default="")


def _definitions(word: Word, lexicon: Lexicon) -> list[Clue]:
    return [definition_clue(word)]


def _synonyms(word: Word, lexicon: Lexicon) -> list[Clue]:
    return [Clue("synonym", synonym, f'another word for "{synonym}"') for synonym in word.synonyms]


def _hypernyms(word: Word, lexicon: Lexicon) -> list[Clue]:
    if not word.hypernym or word.part not in ("n", "v"):
        return []
    return [Clue("hypernym", word.hypernym, f'a kind of "{word.hypernym}"' if word.part == "n" else f'a way to "{word.hypernym}"')]


def _examples(word: Word, lexicon: Lexicon) -> list[Clue]:
    kinds = [kind for kind in lexicon.instances.get(word.text, ()) if kind not in word.synonyms]
    return [Clue("example", word.text, f'for example "{one}" or "{two}"') for one, two in pairwise(kinds)]


def _antonyms(word: Word, lexicon: Lexicon) -> list[Clue]:
    return [Clue("antonym", word.antonym, f'the opposite of "{word.antonym}"')] if word.antonym else []


def _domains(word: Word, lexicon: Lexicon) -> list[Clue]:
    return [Clue("domain", word.domain, f"a word from the field of {word.domain}")]


def _morphology(word: Word, lexicon: Lexicon) -> list[Clue]:
    ending = suffix_of(word)
    article = "an" if PARTS[word.part][0] == "a" else "a"
    return [Clue("morphology", f"{word.part}-{ending}", f'{article} {PARTS[word.part]} that ends in "-{ending}"')] if ending else []


def _etymology(word: Word, lexicon: Lexicon) -> list[Clue]:
    return [
        Clue("etymology", root.form, f'from {root.language} "{root.form}", which means "{root.meaning}"') for root in roots_of(word.text)
    ]


def _first_letters(word: Word, lexicon: Lexicon) -> list[Clue]:
    return [Clue("first_letter", word.text[0], f'a word that begins with "{word.text[0]}"')]


def _syllables(word: Word, lexicon: Lexicon) -> list[Clue]:
    return [
        Clue("syllable_hint", f"{place} {tile}", f'a word whose {_ORDINALS[place]} syllable is "{tile}"')
        for place, tile in enumerate(word.syllables[: len(_ORDINALS)])
    ]


_MAKERS: dict[str, Callable[[Word, Lexicon], list[Clue]]] = {
    "definition": _definitions,
    "synonym": _synonyms,
    "hypernym": _hypernyms,
    "example": _examples,
    "antonym": _antonyms,
    "domain": _domains,
    "morphology": _morphology,
    "etymology": _etymology,
    "first_letter": _first_letters,
    "syllable_hint": _syllables,
}
