"""The older dialect: prose prompts, and prefix notation without brackets, `add ①⓪ ①① = ①⓪①`. (specs/guild.md 6.1)

Only sets that an installation already has under `data/validation/binary` are written in it; nothing is generated in it. How many
operands belong to a name follows from the operation, so calls nest without brackets: `add add a b c`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from guild.skills.contract import Verdict
from modelwright.errors import ModelwrightError

_BITS = re.compile(r"[⓪①]+|[01]+")
_WORD = re.compile(r"[⓪①]+|[a-z_]+|\d+")
_OPERATIONS: dict[str, tuple[int, Callable[..., int]]] = {
    "add": (2, lambda a, b: a + b),
    "subtract": (2, lambda a, b: a - b),
    "multiply": (2, lambda a, b: a * b),
    "divide": (2, lambda a, b: a // b),
    "leftshift": (2, lambda a, b: a << b),
    "rightshift": (2, lambda a, b: a >> b),
    "increment": (1, lambda a: a + 1),
    "decrement": (1, lambda a: a - 1),
    "minimum": (2, min),
    "maximum": (2, max),
}
_PROSE: tuple[tuple[re.Pattern[str], str, bool], ...] = tuple(
    (re.compile(pattern.replace("#", "([⓪①]+|[01]+)"), re.IGNORECASE), operation, swapped)
    for pattern, operation, swapped in (
        (r"# plus #|# added to #|sum of # and #|add # (?:and|to) #", "add", False),
        (r"# minus #|difference (?:of|between) # and #", "subtract", False),
        (r"subtract # from #", "subtract", True),
        (r"# times #|# multiplied by #|product of # and #|multiply # (?:and|by|with) #", "multiply", False),
        (r"# divided by #|quotient of # and #|divide # by #", "divide", False),
        (r"# shifted left by #|shift # left by #|left shift # by #|leftshift # by #", "leftshift", False),
        (r"# shifted right by #|shift # right by #|right shift # by #|rightshift # by #", "rightshift", False),
    )
)
"""(what the prompt says, operation, whether the operands are named in the other order); a # is a number."""
MOST_SHIFT = 64
OLD_FORM = "old"
"""The scenario of a sample in this dialect."""
_NEWER = (
    "Compute:",
    "Compute [",
    "Symbol Key:",
    "Find the ",
    "True or False:",
    "Fill the blank:",
    "Which is greater:",
    "Property:",
    "Overflow:",
)


class DialectError(ModelwrightError):
    """A text that is not of the older dialect."""


class OldProblem(NamedTuple):
    """An expression in prefix notation. expression: its words. value: what it comes to. result: what the text says it is, as written, or
    None when it only asks."""

    expression: tuple[str, ...]
    value: int
    result: str | None


def parse(text: str) -> OldProblem:
    """Read `add a b = r` or `add a b`, or a prompt in prose that names its operation and operands. Raises DialectError."""
    for line in text.splitlines():
        asked, equals, result = line.partition("=")
        words = _WORD.findall(asked.lower().replace("left shift", "leftshift").replace("right shift", "rightshift"))
        for at, word in enumerate(words):
            if word in _OPERATIONS:
                found = _prefix(words, at)
                if found is not None and (at + len(found[1]) == len(words) or equals):
                    return OldProblem(found[1], found[0], "".join(result.split()) or None)
        prose = _in_prose(asked)
        if prose is not None:
            return prose._replace(result="".join(result.split()) or None)
    raise DialectError(f"Found {text[:80]!r}; allowed: `add a b`, or a question in words about two binary numbers.")


def _prefix(words: Sequence[str], at: int) -> tuple[int, tuple[str, ...]] | None:
    """(value, words used) of the expression that begins at `at`, or None when none does."""
    if at >= len(words):
        return None
    word = words[at]
    if word not in _OPERATIONS:
        return (_value(word), (word,)) if _BITS.fullmatch(word) else None
    arity, rule = _OPERATIONS[word]
    values: list[int] = []
    used: tuple[str, ...] = (word,)
    for _ in range(arity):
        part = _prefix(words, at + len(used))
        if part is None:
            return None
        values.append(part[0])
        used += part[1]
    return (rule(*values), used) if _defined(word, values) else None


def _in_prose(text: str) -> OldProblem | None:
    for pattern, operation, swapped in _PROSE:
        found = pattern.search(text)
        if found:
            first, second = [group for group in found.groups() if group is not None]
            if swapped:
                first, second = second, first
            values = [_value(first), _value(second)]
            if _defined(operation, values):
                return OldProblem((operation, first, second), _OPERATIONS[operation][1](*values), None)
    return None


def _defined(operation: str, values: Sequence[int]) -> bool:
    if operation == "divide":
        return values[1] != 0
    return not (operation.endswith("shift") and values[1] > MOST_SHIFT)


def _value(bits: str) -> int:
    return int(bits.replace("⓪", "0").replace("①", "1"), 2)


def in_digits(value: int) -> str:
    """A number in circled digits; a minus sign before a negative one."""
    return ("-" if value < 0 else "") + f"{abs(value):b}".replace("0", "⓪").replace("1", "①")


def judge(expected: str, reply: str) -> Verdict:
    """Judge a reply by the result behind the last `=` of the first line that has one; the expected text may be a whole line or only the
    result. Never raises."""
    golden, found = _result(expected) or "".join(expected.split()), _result(reply)
    if found is None:
        return Verdict(False, 0.0, "the reply has no result after =")
    if found == golden:
        return Verdict(True, 1.0, "", found)
    agreeing = sum(1 for one, other in zip(golden, found, strict=False) if one == other)
    return Verdict(False, agreeing / max(len(golden), len(found), 1), f"expected {golden}, found {found[:200]}", found)


def _result(text: str) -> str | None:
    line = next((line for line in text.split("\n") if "=" in line), "")
    return "".join(line.rpartition("=")[2].split()) or None


def is_old(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of an evaluation set is written in this dialect: its prompt does not begin like one of the newer forms."""
    return not str(entry.get("prompt", "")).startswith(_NEWER)
