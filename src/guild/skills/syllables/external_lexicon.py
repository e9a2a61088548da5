"""A larger lexicon from other people's data, when it is installed: wordfreq, pyphen and WordNet. (specs/guild.md 6.2; extra `skills`)

- wordfreq counts how frequent a word is (Zipf, in steps of 0.01).
- pyphen splits it. Its patterns are for hyphenation at the end of a line, so a word is kept only when it gets as many parts as it has
  groups of vowels.
- WordNet's files (`index.noun`, `data.noun` …; Debian: `wordnet-base`) give definition, synonyms, hypernym, antonym and field, all of
  the sense that is first in the part of speech with the most tagged senses.

Nothing of these data is part of this project, and this lexicon is used only when it is asked for.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from guild.skills.syllables.lexicon import Lexicon, Word, lexicon_of
from guild.skills.syllables.wordnet import DIRECTORIES, WordNet
from modelwright.errors import ModelwrightError

EXTERNAL = "external"
VARIABLE = "WORDNET_DIR"
"""Where WordNet's files lie, when not in a usual directory."""
MOST_FREQUENT = 40_000
"""Words looked at, the most frequent first."""
_VOWELS = re.compile(r"[aeiouy]+")
_UNFIT = re.compile(r"\b(obscene|offensive|vulgar|disparaging|slur|derogatory|sexual|genitals?)\b")


def external_lexicon(wordnet: Path | None = None, most: int = MOST_FREQUENT) -> Lexicon:
    """The lexicon of everything installed. Raises ModelwrightError that names all that is missing."""
    place = wordnet or _wordnet_place()
    missing = [f"the Python package {name}" for name in ("wordfreq", "pyphen") if find_spec(name) is None]
    if place is None:
        missing.append(f"WordNet's files (Debian package wordnet-base, or set {VARIABLE})")
    if missing or place is None:
        raise ModelwrightError(
            f"lexicon 'external': not found: {', '.join(missing)}; allowed: all of them installed. "
            "Install the extra `skills`, or use the lexicon 'fallback'."
        )
    import pyphen
    import wordfreq

    hyphens = pyphen.Pyphen(lang="en_US", left=1, right=2)
    known = WordNet(place)
    words: dict[str, Word] = {}
    for text in wordfreq.top_n_list("en", most, wordlist="best"):
        if not re.fullmatch(r"[a-z]{4,}", text):
            continue
        syllables = tuple(hyphens.inserted(text).split("-"))
        if not 2 <= len(syllables) <= 6 or len(syllables) != vowel_groups(text) or not all(map(_VOWELS.search, syllables)):
            continue
        word = _word(text, syllables, round(wordfreq.zipf_frequency(text, "en"), 2), known)
        if word is not None:
            words[text] = word
    return lexicon_of(EXTERNAL, words.values(), counted=True)


def vowel_groups(text: str) -> int:
    """About how many syllables a word has: its groups of vowels, without a silent e at the end."""
    silent = text.endswith("e") and not text.endswith(("le", "ee")) and len(text) > 3
    return len(_VOWELS.findall(text[:-1] if silent else text))


def mentions(text: str, definition: str) -> bool:
    """Whether a definition gives its word away: it holds the word, or a word with the same beginning."""
    stem = text[: max(4, len(text) - 3)]
    return any(part.startswith(stem) for part in re.findall(r"[a-z]+", definition.lower()))


def _word(text: str, syllables: tuple[str, ...], zipf: float, known: WordNet) -> Word | None:
    sense = known.sense(text)
    if sense is None or not 2 <= len(sense.definition.split()) <= 16 or _UNFIT.search(sense.gloss) or mentions(text, sense.definition):
        return None
    return Word(syllables, zipf, sense.part, sense.domain, sense.definition, sense.synonyms, sense.hypernym, sense.antonym)


def _wordnet_place() -> Path | None:
    chosen = os.environ.get(VARIABLE, "").strip()
    places = [Path(chosen)] if chosen else [Path(place) for place in DIRECTORIES]
    return next((place for place in places if (place / "data.noun").is_file()), None)
