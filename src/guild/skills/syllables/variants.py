"""The twelve output variants: what the reply holds and how it is laid out. (specs/guild.md 6.2)"""

from __future__ import annotations

import re
from typing import Any

from guild.skills.syllables.shapes import (
    Shape,
    Solved,
    UnreadableReply,
    a_word,
    an_array,
    an_object,
    contract,
    from_json,
    line_words,
    to_json,
    word_list,
)

_TEXT_LINE = re.compile(r"(?:\d{1,2}|[A-Za-z])\s*:\s*(?P<word>[^\W\d_]+)\s*(?:\([^()]*\))?")
_BULLET = re.compile(r"[-*]\s+\*\*(?:\d{1,2}|[A-Za-z])\*\*:?\s+(?P<word>[^\W\d_]+)\s*(?:\([^()]*\))?")
_SOLUTION = '{"ans_num": …, "syllables": […], "answer": …}'
_INVENTORY = '"inventory_check" with total_tiles, usage (tile to times used), used, unused_tiles (sorted) and status ("complete")'


def _solutions(value: Any) -> list[str]:
    """The answers of a `solutions` array."""
    entries = an_array(value, '"solutions"')
    return [a_word(an_object(entry, "an entry of the solutions", "answer")["answer"]) for entry in entries]


def _write_map(solved: Solved) -> str:
    return to_json({"solutions": {str(label): answer for label, answer in zip(solved.labels, solved.answers, strict=True)}})


def _read_map(reply: str) -> list[str]:
    found = an_object(from_json(reply), "the reply", "solutions")["solutions"]
    return [a_word(word) for word in an_object(found, '"solutions"').values()]


def _write_vector(solved: Solved) -> str:
    used, tiles = solved.used, sorted(set(solved.bank))
    return to_json({"answers": solved.answers, "tiles": tiles, "used": [used[tile] for tile in tiles]})


def _read_vector(reply: str) -> list[str]:
    found = an_object(from_json(reply), "the reply", "answers", "tiles", "used")
    if len(an_array(found["tiles"], '"tiles"')) != len(an_array(found["used"], '"used"')):
        raise UnreadableReply('"tiles" and "used" differ in length')
    return word_list(found["answers"], '"answers"')


def _read_sequence(reply: str) -> list[str]:
    entries = an_array(an_object(from_json(reply), "the reply", "sequence")["sequence"], '"sequence"')
    return ["".join(word_list(entry, "an entry of the sequence")) for entry in entries]


def _write_table(solved: Solved) -> str:
    rows = [[label, "-".join(tiles), answer] for label, tiles, answer in zip(solved.labels, solved.syllables, solved.answers, strict=True)]
    return to_json({"columns": ["ans_num", "syllables", "answer"], "rows": rows})


def _read_table(reply: str) -> list[str]:
    found = an_object(from_json(reply), "the reply", "columns", "rows")
    columns = an_array(found["columns"], '"columns"')
    if columns.count("answer") != 1:
        raise UnreadableReply('"columns" does not name "answer" once')
    place = columns.index("answer")
    rows = [an_array(row, "a row") for row in an_array(found["rows"], '"rows"')]
    if any(len(row) != len(columns) for row in rows):
        raise UnreadableReply("a row has another length than the columns")
    return [a_word(row[place]) for row in rows]


def _write_enriched(solved: Solved) -> str:
    analysis = [
        {"ans_num": label, "syllable_count": len(tiles), "hint_type": kind, "signal_strength": strength}
        for label, tiles, kind, strength in zip(solved.labels, solved.syllables, solved.kinds, solved.strengths, strict=True)
    ]
    return to_json({"analysis": analysis, **contract(solved)})


def _read_enriched(reply: str) -> list[str]:
    return _solutions(an_object(from_json(reply), "the reply", "analysis", "solutions", "inventory_check")["solutions"])


def _write_text(solved: Solved) -> str:
    return "\n".join(
        f"{label}: {answer} ({'-'.join(tiles)})"
        for label, answer, tiles in zip(solved.labels, solved.answers, solved.syllables, strict=True)
    )


def _write_markdown(solved: Solved) -> str:
    return "\n".join(
        f"- **{label}** {answer} ({' · '.join(tiles)})"
        for label, answer, tiles in zip(solved.labels, solved.answers, solved.syllables, strict=True)
    )


def _write_by_letter(solved: Solved) -> str:
    groups: dict[str, list[str]] = {}
    for answer in sorted(solved.answers):
        groups.setdefault(answer[0], []).append(answer)
    return to_json(groups)


def _read_by_letter(reply: str) -> list[str]:
    words: list[str] = []
    for letter, group in an_object(from_json(reply), "the reply").items():
        found = word_list(group, f"the group {letter!r:.20}")
        if any(word[0].casefold() != letter.casefold() for word in found):
            raise UnreadableReply(f"a word under {letter!r:.20} begins with another letter")
        words += found
    return words


def _write_bundle(solved: Solved) -> str:
    unused = contract(solved)["inventory_check"]["unused_tiles"]
    return to_json([solved.answers, [list(tiles) for tiles in solved.syllables], unused])


def _read_bundle(reply: str) -> list[str]:
    parts = an_array(from_json(reply), "the reply")
    if len(parts) != 3:
        raise UnreadableReply(f"the bundle has {len(parts)} parts where 3 belong")
    for part in parts:
        an_array(part, "a part of the bundle")
    return word_list(parts[0], "the first part of the bundle")


def _write_report(solved: Solved) -> str:
    return to_json({"report": {"word_count": len(solved.answers), **contract(solved)}})


def _read_report(reply: str) -> list[str]:
    report = an_object(from_json(reply), "the reply", "report")["report"]
    return _solutions(an_object(report, '"report"', "solutions", "inventory_check")["solutions"])


VARIANTS: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            "solutions_only",
            "json",
            f'Reply with JSON {{"solutions": [{_SOLUTION}, …]}}, the answers in capitals.',
            lambda solved: to_json({"solutions": contract(solved)["solutions"]}),
            lambda reply: _solutions(an_object(from_json(reply), "the reply", "solutions")["solutions"]),
        ),
        Shape(
            "solutions_map",
            "json",
            'Reply with JSON {"solutions": {…}} that maps each clue\'s label to its word in capitals.',
            _write_map,
            _read_map,
        ),
        Shape(
            "inventory_vector",
            "json",
            'Reply with JSON: "answers" (words in capitals), "tiles" (distinct tiles, sorted) and "used" (how often each tile is used).',
            _write_vector,
            _read_vector,
        ),
        Shape(
            "solutions_sequence",
            "json",
            'Reply with JSON {"sequence": […]} that holds each word as an array of its syllables, in the order of the clues.',
            lambda solved: to_json({"sequence": [list(tiles) for tiles in solved.syllables]}),
            _read_sequence,
        ),
        Shape(
            "solutions_table",
            "json",
            'Reply with JSON: "columns" (ans_num, syllables, answer) and "rows", the syllables joined by hyphens, the answers in capitals.',
            _write_table,
            _read_table,
        ),
        Shape(
            "analysis_enriched",
            "json",
            'Reply with JSON: "analysis" (ans_num, syllable_count, hint_type and signal_strength of each clue), "solutions" '
            f"({_SOLUTION}, answers in capitals) and {_INVENTORY}.",
            _write_enriched,
            _read_enriched,
        ),
        Shape(
            "solutions_text",
            "text",
            "Reply with one line for each clue: its label, a colon, the word in capitals, and the syllables with hyphens in brackets.",
            _write_text,
            lambda reply: line_words(reply, _TEXT_LINE, "a label, a colon and a word"),
        ),
        Shape(
            "solutions_list",
            "json",
            'Reply with JSON {"answers": […]} that lists the words in capitals.',
            lambda solved: to_json({"answers": solved.answers}),
            lambda reply: word_list(an_object(from_json(reply), "the reply", "answers")["answers"], '"answers"'),
        ),
        Shape(
            "solutions_markdown",
            "markdown",
            "Reply with a Markdown bullet for each clue: label in bold, word in capitals, and in brackets the syllables with middle dots.",
            _write_markdown,
            lambda reply: line_words(reply, _BULLET, "a bullet with a label in bold and a word"),
        ),
        Shape(
            "solutions_by_letter",
            "json",
            "Reply with a JSON object that maps each first letter to the array of words in capitals that begin with it, all sorted.",
            _write_by_letter,
            _read_by_letter,
        ),
        Shape(
            "array_bundle",
            "json",
            "Reply with a JSON array of three arrays: the words in capitals, the syllables of each word, the tiles left over (sorted).",
            _write_bundle,
            _read_bundle,
        ),
        Shape(
            "report_wrapper",
            "json",
            f'Reply with JSON {{"report": {{…}}}} of word_count, "solutions" ({_SOLUTION}, answers in capitals) and {_INVENTORY}.',
            _write_report,
            _read_report,
        ),
    )
}
"""The variants by name."""
