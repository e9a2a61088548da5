"""A reader of WordNet's database files. (wndb(5WN): index.pos and data.pos)

A line of `index.pos`: lemma, pos, synset_cnt, p_cnt, p_cnt pointer symbols, sense_cnt, tagsense_cnt, synset offsets, most frequent sense
first. A line of `data.pos` at its byte offset: offset, lex_filenum, ss_type, w_cnt in hexadecimal, w_cnt pairs of word and lex_id, p_cnt,
p_cnt pointers of four fields (symbol, offset, pos, source/target), and after `|` the gloss: the definition, then examples in quotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modelwright.errors import DamagedFileError

DIRECTORIES = ("/usr/share/wordnet", "/usr/local/share/wordnet/dict", "/usr/local/WordNet-3.0/dict")
"""Where distributions put the files."""
_PARTS = {"noun": "n", "verb": "v", "adj": "adj", "adv": "adv"}
_FILES = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
_FIELDS = """
anything relations anything things actions animals objects qualities body mind communication
events feeling food groups place motives nature people nature plants possession
processes quantity relations shapes states substances time body change mind communication
competition food contact creation feeling motion perception possession society being weather anything
"""
FIELDS = tuple(_FIELDS.split())
"""A word for each of WordNet's lexicographer files, by number."""


@dataclass(frozen=True)
class Sense:
    """What WordNet says of a word. part: a key of `lexicon.PARTS`; gloss: definition and examples; "" and () where there is nothing."""

    part: str
    domain: str
    definition: str
    gloss: str
    synonyms: tuple[str, ...]
    hypernym: str
    antonym: str


@dataclass(frozen=True)
class _Synset:
    field: int
    words: tuple[str, ...]
    pointers: tuple[tuple[str, int, str, str], ...]
    gloss: str


class WordNet:
    """The files of one directory. Raises DamagedFileError when a line cannot be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._data = {part: (directory / f"data.{part}").read_bytes() for part in _PARTS}
        self._index: dict[str, tuple[int, str, int]] = {}
        for part in _PARTS:
            for line in (directory / f"index.{part}").read_text(encoding="utf-8").splitlines():
                if line and not line.startswith(" "):
                    self._enter(part, line.split())

    def sense(self, lemma: str) -> Sense | None:
        """The first sense of a word in the part of speech with the most tagged senses; None when WordNet lacks it."""
        if lemma not in self._index:
            return None
        _, part, offset = self._index[lemma]
        synset = self._synset(part, offset)
        place = next((at for at, word in enumerate(synset.words, start=1) if word.lower() == lemma), 0)
        hypernyms = (self._synset(_FILES[pos], target).words[0] for symbol, target, pos, _ in synset.pointers if symbol == "@")
        antonyms = (
            self._synset(_FILES[pos], target).words[int(ends[2:], 16) - 1]
            for symbol, target, pos, ends in synset.pointers
            if symbol == "!" and int(ends[:2], 16) == place
        )
        others = tuple(word.lower() for word in synset.words if word.lower() != lemma and word.isalpha())
        definition = re.split(r";\s*\"", synset.gloss)[0].strip().rstrip(";")
        hypernym, antonym = (_readable(next(words, "")) for words in (hypernyms, antonyms))
        return Sense(_PARTS[part], FIELDS[synset.field], definition, synset.gloss, others, hypernym, antonym)

    def _enter(self, part: str, fields: list[str]) -> None:
        try:
            tagged, offset = int(fields[5 + int(fields[3])]), int(fields[6 + int(fields[3])])
        except (IndexError, ValueError) as error:
            raise DamagedFileError(self.directory / f"index.{part}", f"the line of {fields[0]!r}", "an index line of WordNet") from error
        known = self._index.get(fields[0])
        if known is None or tagged > known[0]:
            self._index[fields[0]] = (tagged, part, offset)

    def _synset(self, part: str, offset: int) -> _Synset:
        data = self._data[part]
        end = data.find(b"\n", offset)
        head, _, gloss = data[offset : end if end >= 0 else len(data)].decode("utf-8", "replace").partition(" | ")
        fields = head.split()
        try:
            count = int(fields[3], 16)
            words = tuple(re.sub(r"\(\w+\)$", "", fields[4 + 2 * at]) for at in range(count))
            start = 5 + 2 * count
            groups = [fields[at : at + 4] for at in range(start, start + 4 * int(fields[start - 1]), 4)]
            pointers = tuple((symbol, int(target), pos, ends) for symbol, target, pos, ends in groups)
            if int(fields[0]) != offset:
                raise ValueError("another offset")
            return _Synset(int(fields[1]), words, pointers, gloss.strip())
        except (IndexError, ValueError) as error:
            raise DamagedFileError(self.directory / f"data.{part}", f"byte {offset}", "a synset of WordNet") from error


def _readable(word: str) -> str:
    return word.replace("_", " ").lower()
