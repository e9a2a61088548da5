"""The judge of short answers: the answer's field, normalised by its kind, must equal the golden one. (specs/guild.md 10.1 no. 8, 14)

The field is what stands behind `Answer:` (or in a line `The answer is …`), or, where no line has such a label, the only line of the
reply. Nothing is looked for inside a longer text: a reply that mentions the right answer among other words is wrong.

| Kind | Normalised |
|---|---|
| `number` | a decimal number; `1,200`, `+7`, `7.0` and `−7` are read; words and units are not |
| `word` | letter case, a leading article and a final `.` or `!` do not count |
| `boolean` | `yes`/`true` and `no`/`false` |
| `text` | every character counts, but for one pair of quotes around it and a final `.` behind it |
| `list` | items of `word` or `number`, divided by commas, in order; brackets around it do not count; `none` is the empty one |
| `set` | the same in any order, each as often as in the golden answer |
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

from guild.errors import UnknownNameError
from guild.skills.contract import Verdict

AnswerKind = Literal["number", "word", "boolean", "text", "list", "set"]
KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
VERSION = "1.0.0"
"""Of these rules; kept with every result, since scores of different rules must not be compared."""
_LABEL = re.compile(r"\*{0,2}(?:(?:final\s+)?answer\s*:|the\s+(?:final\s+)?answer\s+is\b\s*:?)\*{0,2}\s*(.*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_PAIRS = (("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"))
_BRACKETS = (("[", "]"), ("(", ")"), ("{", "}"))
_TRUTH = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_EMPTY = ("none", "")


class UnknownAnswerKindError(UnknownNameError):
    """No kind of answer of that name."""

    kind = "answer kind"


def judge(kind: str, expected: str, reply: str) -> Verdict:
    """Judge a reply against the golden answer. Raises UnknownAnswerKindError, and ValueError for a golden answer that is not of its kind:
    faults of a set, never of a reply."""
    if kind not in _NORMALISERS:
        raise UnknownAnswerKindError(kind, KINDS)
    normalise = _NORMALISERS[kind]
    golden = normalise(expected)
    if golden is None:
        raise ValueError(f"the golden answer {expected!r} is no {kind}")
    field, fault = answer_field(reply)
    if field is None:
        return Verdict(False, 0.0, fault)
    found = normalise(field)
    if found is None:
        return Verdict(False, 0.0, f"the answer {_short(field)} is no {kind}", field)
    if found == golden:
        return Verdict(True, 1.0, "", field)
    return Verdict(False, 0.0, f"expected {expected}, found {_short(field)}", field)


def answer_field(reply: str) -> tuple[str | None, str]:
    """(the field with the answer, ""), or (None, why there is none)."""
    lines = [line for line in (_unwrap(line.strip(), _PAIRS[:1]) for line in reply.splitlines()) if line]
    if not lines:
        return None, "the reply is empty"
    labelled = [match[1].strip() for line in lines if (match := _LABEL.fullmatch(line))]
    if labelled:
        return (labelled[0], "") if len(set(labelled)) == 1 else (None, "the reply has several different answers")
    if len(lines) > 1:
        return None, "the reply has several lines and none says Answer:"
    return lines[0], ""


def _number(text: str) -> Decimal | None:
    plain = _plain(text).replace("\u2212", "-")
    if not _NUMBER.fullmatch(plain):
        return None
    try:
        return Decimal(plain.replace(",", ""))
    except InvalidOperation:  # pragma: no cover - the pattern admits decimal numbers only
        return None


def _word(text: str) -> str | None:
    plain = " ".join(unicodedata.normalize("NFKC", _plain(text)).casefold().split())
    plain = re.sub(r"^(?:a|an|the) (?=.)", "", plain)
    return plain or None


def _boolean(text: str) -> str | None:
    return _TRUTH.get(_plain(text).casefold())


def _text(text: str) -> str | None:
    plain = text.strip()
    plain = _unwrap(plain.removesuffix(".") if len(plain) > 1 else plain, _PAIRS)
    return plain or None


def _list(text: str) -> tuple[str, ...] | None:
    plain = _unwrap(_unwrap(text.strip().removesuffix("."), _PAIRS), _BRACKETS)
    if plain.strip().casefold() in _EMPTY:
        return ()
    items = [_item(part) for part in plain.split(",")]
    return None if None in items else tuple(item for item in items if item is not None)


def _item(text: str) -> str | None:
    number = _number(text)
    return _word(text) if number is None else str(number.normalize())


def _set(text: str) -> Counter[str] | None:
    items = _list(text)
    return None if items is None else Counter(items)


_NORMALISERS: dict[str, Callable[[str], object]] = {
    "number": _number,
    "word": _word,
    "boolean": _boolean,
    "text": _text,
    "list": _list,
    "set": _set,
}


def _plain(text: str) -> str:
    """Without marks around it and one final full stop or exclamation mark."""
    plain = text.strip()
    plain = plain[:-1].rstrip() if plain[-1:] in (".", "!") else plain
    return _unwrap(plain, _PAIRS)


def _unwrap(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for opening, closing in pairs:
        inside = text[len(opening) : -len(closing)]
        if inside and f"{opening}{inside}{closing}" == text and closing not in inside:
            return inside.strip()
    return text


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
