"""The shape of a reply: how an answer is written, how it is read back, and what the prompt says of it. (specs/guild.md 6.2)

There are twenty: the twelve output variants (`variants`) and the eight answer formats of the edition of fifty (`formats`). Reading is
strict about the shape and lenient about white space, a code fence around the whole reply, and capitals.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

_FENCE = re.compile(r"```[a-z]*\n(.*?)\n?```", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
LONGEST_REPLY = 100_000
"""Characters of a reply that are read at most; no puzzle needs a tenth of it."""


class UnreadableReply(ValueError):
    """A reply that does not have the shape asked for; the message says what is wrong, beginning in small letters."""


@dataclass(frozen=True)
class Solved:
    """A solved puzzle. Per word, in the order of the clues: labels (1, 2 … or "A", "B" …), syllables, clue texts as printed, kinds of
    hint and their strengths. bank: all tiles as printed."""

    labels: tuple[int | str, ...]
    syllables: tuple[tuple[str, ...], ...]
    clues: tuple[str, ...]
    kinds: tuple[str, ...]
    strengths: tuple[str, ...]
    bank: tuple[str, ...]

    @property
    def answers(self) -> list[str]:
        """The words in capitals."""
        return ["".join(tiles).upper() for tiles in self.syllables]

    @property
    def used(self) -> Counter[str]:
        """How often each syllable is used."""
        return Counter(tile for tiles in self.syllables for tile in tiles)


def words_of(solved: Solved) -> list[str]:
    """What most shapes must hold: the words."""
    return solved.answers


@dataclass(frozen=True)
class Shape:
    """One shape. notation: `json`, `markdown` or `text`. instruction: the sentence of the prompt. write: the golden reply. read: the
    items of a reply; raises UnreadableReply. items: the items that are right."""

    name: str
    notation: str
    instruction: str
    write: Callable[[Solved], str]
    read: Callable[[str], list[str]]
    items: Callable[[Solved], list[str]] = words_of


def contract(solved: Solved) -> dict[str, Any]:
    """The full JSON answer: `solutions` and `inventory_check`, in which used and unused tiles make up the bank."""
    used = solved.used
    unused = Counter(solved.bank) - used
    return {
        "solutions": [
            {"ans_num": label, "syllables": list(tiles), "answer": answer}
            for label, tiles, answer in zip(solved.labels, solved.syllables, solved.answers, strict=True)
        ],
        "inventory_check": {
            "total_tiles": len(solved.bank),
            "usage": {tile: used[tile] for tile in sorted(used)},
            "used": sum(used.values()),
            "unused_tiles": sorted(unused.elements()),
            "status": "complete",
        },
    }


def to_json(value: object) -> str:
    """JSON on one line, letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def plain(reply: str) -> str:
    """A reply without surrounding white space and without a code fence around the whole. Raises UnreadableReply when it is empty or far
    too long."""
    if len(reply) > LONGEST_REPLY:
        raise UnreadableReply(f"the reply has {len(reply)} characters, more than {LONGEST_REPLY} are not read")
    text = reply.strip()
    fenced = _FENCE.fullmatch(text)
    text = fenced[1].strip() if fenced else text
    if not text:
        raise UnreadableReply("the reply is empty")
    return text


def from_json(reply: str) -> Any:
    """The JSON value that a reply is. Raises UnreadableReply."""
    try:
        return orjson.loads(plain(reply))
    except orjson.JSONDecodeError as error:
        raise UnreadableReply(f"the reply is not JSON ({error})") from error


def an_object(value: Any, what: str, *keys: str) -> dict[str, Any]:
    """The value, when it is a JSON object with all the keys. Raises UnreadableReply."""
    if not isinstance(value, dict):
        raise UnreadableReply(f"{what} is not a JSON object")
    missing = [key for key in keys if key not in value]
    if missing:
        raise UnreadableReply(f"{what} has no {' and no '.join(map(repr, missing))}")
    return value


def an_array(value: Any, what: str) -> list[Any]:
    """The value, when it is a JSON array. Raises UnreadableReply."""
    if not isinstance(value, list):
        raise UnreadableReply(f"{what} is not a JSON array")
    return value


def a_word(value: Any) -> str:
    """The value, when it is one word. Raises UnreadableReply."""
    if not isinstance(value, str) or not _WORD.fullmatch(value.strip()):
        raise UnreadableReply(f"{value!r:.80} is not one word")
    return value.strip()


def word_list(value: Any, what: str) -> list[str]:
    """The words of a JSON array. Raises UnreadableReply."""
    return [a_word(item) for item in an_array(value, what)]


def lines_of(reply: str) -> list[str]:
    """The lines of a reply that are not blank."""
    return [line.strip() for line in plain(reply).splitlines() if line.strip()]


def line_words(reply: str, pattern: re.Pattern[str], what: str) -> list[str]:
    """The group `word` of every line. Raises UnreadableReply when a line is no match for the pattern."""
    words = []
    for line in lines_of(reply):
        match = pattern.fullmatch(line)
        if match is None:
            raise UnreadableReply(f"the line {line!r:.80} is not {what}")
        words.append(match["word"])
    return words
