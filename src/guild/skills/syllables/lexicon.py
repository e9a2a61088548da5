"""The words that puzzles are made of, and the fallback lexicon, written for this project. (specs/guild.md 6.2)

A line of `words/*.txt` has eight columns with bars between them; empty ones at the end may be left away:

    syllables | Zipf | part of speech | domain | definition | synonyms, with commas | hypernym | antonym

- Syllables are joined by hyphens and spell the word exactly; the splits follow what English dictionaries print, with a syllable of one
  letter split off too (`a-bout`), since a tile is something one says.
- Zipf is the decimal logarithm of how often a word occurs in a billion words of English, in steps of 0.1. Ours are estimates by hand;
  compared with the counts of wordfreq they differ by 0.0 on average, with a standard deviation of 0.2, and by at most 0.5 for 98 words
  in 100. The extra lexicon (`external_lexicon`) has counted ones.
- Definitions are our own, mostly of four to nine words, and never contain the word. All data of this lexicon is written for this project
  and copied from nowhere.

It has 2,521 words: 277 of two syllables, 860 of three, 865 of four, 405 of five and 114 of six. Rows 1 to 10 of the level table may use
512, 202, 596, 911, 1578, 1891, 1116, 1261, 1261 and 1358 of them, from which each row has at least 10 million puzzles (tested).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources

from modelwright.errors import ConfigError, Fault

PARTS = {
    "n": "noun",
    "v": "verb",
    "adj": "adjective",
    "adv": "adverb",
    "prep": "preposition",
    "conj": "conjunction",
    "pron": "pronoun",
    "det": "determiner",
    "num": "number",
}
"""Parts of speech by their short names."""
SYLLABLE = re.compile(r"[a-z]+")
FALLBACK = "fallback"
"""Name of our own lexicon."""


@dataclass(frozen=True)
class Word:
    """One word: its syllables, Zipf frequency, part of speech (a key of PARTS), one-word domain, definition and relations ("" or () when
    it has none)."""

    syllables: tuple[str, ...]
    zipf: float
    part: str
    domain: str
    definition: str
    synonyms: tuple[str, ...] = ()
    hypernym: str = ""
    antonym: str = ""
    text: str = field(init=False)
    tiles: Mapping[str, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", "".join(self.syllables))
        object.__setattr__(self, "tiles", Counter(self.syllables))


@dataclass(frozen=True)
class Lexicon:
    """Words by name, in alphabetical order. name: `fallback` or `external`. counted: whether the Zipf values come from a corpus."""

    name: str
    words: tuple[Word, ...]
    counted: bool = False

    @cached_property
    def by_text(self) -> dict[str, Word]:
        """Each word by its spelling."""
        return {word.text: word for word in self.words}

    @cached_property
    def instances(self) -> dict[str, tuple[str, ...]]:
        """For a hypernym, the words of the lexicon that are a kind of it."""
        found: dict[str, list[str]] = {}
        for word in self.words:
            if word.hypernym:
                found.setdefault(word.hypernym, []).append(word.text)
        return {name: tuple(kinds) for name, kinds in found.items()}

    @cached_property
    def _bits(self) -> dict[str, int]:
        """A bit of its own for each syllable, so that a word's syllables are one number."""
        return {syllable: 1 << place for place, syllable in enumerate(sorted({tile for word in self.words for tile in word.tiles}))}

    @cached_property
    def _by_rarest(self) -> dict[str, tuple[tuple[int, Word, bool], ...]]:
        """Each word, with its bits and whether it has a syllable twice, under the one of its syllables that the fewest words have."""
        uses = Counter(syllable for word in self.words for syllable in word.tiles)
        found: dict[str, list[tuple[int, Word, bool]]] = {}
        for word in self.words:
            rarest = min(word.tiles, key=lambda syllable: (uses[syllable], syllable))
            bits = sum(self._bits[syllable] for syllable in word.tiles)
            found.setdefault(rarest, []).append((bits, word, len(word.tiles) < len(word.syllables)))
        return {syllable: tuple(words) for syllable, words in found.items()}

    def spellable(self, bank: Mapping[str, int]) -> list[Word]:
        """Every word that the tiles of a bank (syllable → how many, at least one) can spell, each tile used once."""
        absent = ~sum(self._bits.get(syllable, 0) for syllable in bank)
        found = []
        for syllable in bank:
            for bits, word, twice in self._by_rarest.get(syllable, ()):
                if not bits & absent and not (twice and any(bank[tile] < count for tile, count in word.tiles.items())):
                    found.append(word)
        return found


def fallback_lexicon() -> Lexicon:
    """The lexicon of our own. Raises ConfigError with every damaged line."""
    words: list[Word] = []
    faults: list[Fault] = []
    files = sorted((entry for entry in resources.files(__package__).joinpath("words").iterdir() if entry.name.endswith(".txt")), key=str)
    for entry in files:
        found, wrong = read_words(entry.read_text(encoding="utf-8"), entry.name)
        words += found
        faults += wrong
    if faults:
        raise ConfigError(faults)
    return lexicon_of(FALLBACK, words)


def lexicon_of(name: str, words: Iterable[Word], *, counted: bool = False) -> Lexicon:
    """A lexicon of words in alphabetical order. Raises ConfigError when a word stands in it twice."""
    ordered = sorted(words, key=lambda word: word.text)
    twice = [text for text, count in Counter(word.text for word in ordered).items() if count > 1]
    if twice:
        raise ConfigError([Fault(f"lexicon {name}", f"{text!r} twice", "each word once", "Remove one of its lines") for text in twice])
    return Lexicon(name, tuple(ordered), counted)


def read_words(text: str, source: str) -> tuple[list[Word], list[Fault]]:
    """The words of one file's text, and a fault for every line that is none."""
    words: list[Word] = []
    faults: list[Fault] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            word, fault = _word_of(line, f"{source} line {number}")
            if fault is not None:
                faults.append(fault)
            elif word is not None:
                words.append(word)
    return words, faults


def _word_of(line: str, path: str) -> tuple[Word | None, Fault | None]:
    columns = [column.strip() for column in line.split("|")]
    if not 5 <= len(columns) <= 8:
        return None, Fault(path, f"{len(columns)} columns", "5 to 8 columns with | between them", "See guild.skills.syllables.lexicon")
    syllables, zipf, part, domain, definition, synonyms, hypernym, antonym = (*columns, "", "", "")[:8]
    tiles = tuple(syllables.split("-"))
    if not all(SYLLABLE.fullmatch(tile) for tile in tiles):
        return None, Fault(path, f"syllables {syllables!r}", "small letters a to z joined by hyphens")
    if part not in PARTS:
        return None, Fault(path, f"part of speech {part!r}", ", ".join(PARTS))
    if not re.fullmatch(r"\d\.\d", zipf):
        return None, Fault(path, f"Zipf {zipf!r}", "a number with one decimal, such as 4.5")
    if not definition or not SYLLABLE.fullmatch(domain):
        return None, Fault(path, f"domain {domain!r} and definition {definition!r}", "a domain of one word and a definition")
    others = tuple(synonym.strip() for synonym in synonyms.split(",") if synonym.strip())
    return Word(tiles, float(zipf), part, domain, definition, others, hypernym, antonym), None


def related(one: Word, other: Word) -> bool:
    """Whether a clue for one word might as well be meant for the other: synonyms, or words with a synonym in common."""
    return one.text in other.synonyms or other.text in one.synonyms or bool(set(one.synonyms) & set(other.synonyms))
