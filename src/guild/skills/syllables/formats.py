"""The eight answer formats of the edition of fifty levels. (specs/guild.md 6.2)"""

from __future__ import annotations

import re
from collections import Counter

from guild.skills.syllables.shapes import (
    Shape,
    Solved,
    UnreadableReply,
    a_word,
    an_array,
    an_object,
    from_json,
    line_words,
    lines_of,
    to_json,
    word_list,
)

_LABEL = re.compile(r"\d{1,2}|[A-Za-z]")
_NUMBERED = re.compile(r"(?:\d{1,2}|[A-Za-z])[.)]\s*(?P<word>[^\W\d_]+)")
_ALONE = re.compile(r"(?P<word>[^\W\d_]+)")
_RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+")


def _write_map(solved: Solved) -> str:
    return to_json({str(label): answer for label, answer in zip(solved.labels, solved.answers, strict=True)})


def _read_map(reply: str) -> list[str]:
    found = an_object(from_json(reply), "the reply")
    strange = [key for key in found if not _LABEL.fullmatch(key)]
    if strange:
        raise UnreadableReply(f"{strange[0]!r:.80} is not the label of a clue")
    return [a_word(word) for word in found.values()]


def _write_clue_map(solved: Solved) -> str:
    return to_json(dict(zip(solved.clues, solved.answers, strict=True)))


def _read_clue_map(reply: str) -> list[str]:
    found = an_object(from_json(reply), "the reply")
    bare = [key for key in found if _LABEL.fullmatch(key) or not key.strip()]
    if bare:
        raise UnreadableReply(f"{bare[0]!r} is not the text of a clue")
    return [a_word(word) for word in found.values()]


def _write_table(solved: Solved) -> str:
    rows = [f"| {label} | {answer} |" for label, answer in zip(solved.labels, solved.answers, strict=True)]
    return "\n".join(["| Clue | Word |", "|---|---|", *rows])


def _read_table(reply: str) -> list[str]:
    lines = lines_of(reply)
    if len(lines) < 3 or not all(line.startswith("|") and line.endswith("|") for line in lines) or not _RULE.fullmatch(lines[1]):
        raise UnreadableReply("the reply is not a Markdown table with a head and at least one row")
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]
    names = [name.casefold() for name in head]
    if names.count("word") != 1:
        raise UnreadableReply("the head of the table does not name the column Word once")
    if any(len(row) != len(head) for row in rows):
        raise UnreadableReply("a row of the table has another length than its head")
    return [a_word(row[names.index("word")]) for row in rows]


def _read_commas(reply: str) -> list[str]:
    lines = lines_of(reply)
    if len(lines) != 1:
        raise UnreadableReply(f"the reply has {len(lines)} lines where one belongs")
    return [a_word(part) for part in lines[0].rstrip(".").split(",")]


def _summary_items(solved: Solved) -> list[str]:
    letters = Counter(answer[0] for answer in solved.answers)
    return [
        *(f"first letter {letter}" for letter in letters.elements()),
        f"count {len(solved.answers)}",
        f"total_syllables {sum(map(len, solved.syllables))}",
    ]


def _write_summary(solved: Solved) -> str:
    return to_json(
        {
            "count": len(solved.answers),
            "first_letters": [answer[0] for answer in solved.answers],
            "total_syllables": sum(map(len, solved.syllables)),
        }
    )


def _read_summary(reply: str) -> list[str]:
    found = an_object(from_json(reply), "the reply", "count", "first_letters", "total_syllables")
    letters = [a_word(letter) for letter in an_array(found["first_letters"], '"first_letters"')]
    if any(len(letter) != 1 for letter in letters):
        raise UnreadableReply('"first_letters" holds more than single letters')
    for key in ("count", "total_syllables"):
        if isinstance(found[key], bool) or not isinstance(found[key], int):
            raise UnreadableReply(f'"{key}" is not a whole number')
    return [
        *(f"first letter {letter.upper()}" for letter in letters),
        f"count {found['count']}",
        f"total_syllables {found['total_syllables']}",
    ]


FORMATS: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            "json_map",
            "json",
            "Reply with a JSON object that maps each clue's label to its word in capitals.",
            _write_map,
            _read_map,
        ),
        Shape(
            "json_array",
            "json",
            "Reply with a JSON array of the words in capitals.",
            lambda solved: to_json(solved.answers),
            lambda reply: word_list(from_json(reply), "the reply"),
        ),
        Shape(
            "clue_word_map",
            "json",
            "Reply with a JSON object that maps the text of each clue, as printed, to its word in capitals.",
            _write_clue_map,
            _read_clue_map,
        ),
        Shape(
            "markdown_table",
            "markdown",
            "Reply with a Markdown table of two columns, Clue (the label) and Word (in capitals).",
            _write_table,
            _read_table,
        ),
        Shape(
            "numbered_list",
            "text",
            "Reply with a list, one line for each clue: its label, a full stop and the word in capitals.",
            lambda solved: "\n".join(f"{label}. {answer}" for label, answer in zip(solved.labels, solved.answers, strict=True)),
            lambda reply: line_words(reply, _NUMBERED, "a label, a full stop and a word"),
        ),
        Shape(
            "one_per_line",
            "text",
            "Reply with the words in capitals, one on each line and nothing else.",
            lambda solved: "\n".join(solved.answers),
            lambda reply: line_words(reply, _ALONE, "one word"),
        ),
        Shape(
            "counts",
            "json",
            'Reply with JSON: "count" (of words), "first_letters" (array, in capitals) and "total_syllables" (of all words); no words.',
            _write_summary,
            _read_summary,
            _summary_items,
        ),
        Shape(
            "comma_separated",
            "text",
            "Reply with the words in capitals on one line, separated by commas.",
            lambda solved: ", ".join(solved.answers),
            _read_commas,
        ),
    )
}
"""The answer formats by name. `counts` asks for figures about the words only; its items are the first letters and the two numbers."""
