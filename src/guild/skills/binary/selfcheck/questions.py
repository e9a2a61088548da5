"""The auxiliary tasks, read back from their prompts."""

from __future__ import annotations

import re
from collections.abc import Callable

from guild.skills.binary.selfcheck.reading import Done, Key, UntrueError, evaluate, number, read_expression, without_width, written

_REVERSIBLE = ("add", "subtract", "increment", "decrement", "multiply_by_2")
_STARTS: dict[str, str] = {
    "Find the error: ": "error",
    "True or False: ": "truth",
    "Fill the blank: ": "blank",
    "Which is greater: ": "order",
    "Property: ": "property",
    "Overflow: ": "overflow",
    "Find the operand: ": "operand",
}


def check_question(question: str, reply: str, key: Key, limit: int | None) -> None:
    """Check the answer to an auxiliary task. Raises UntrueError."""
    start = next((start for start in _STARTS if question.startswith(start)), None)
    if start is None:
        raise UntrueError(f"{question[:40]!r} is no question")
    if not reply.startswith("Answer: ") or "\n" in reply:
        raise UntrueError(f"{reply[:40]!r} is no answer")
    _TASKS[_STARTS[start]](question[len(start) :], reply.removeprefix("Answer: "), key, limit)


def _last(text: str, key: Key, limit: int | None, *, overflows: bool = False) -> Done:
    expression, width = without_width(read_expression(text, key))
    return evaluate(expression, key, width, limit, overflows=overflows)[-1]


def _claim(text: str, key: Key, limit: int | None) -> tuple[str, str]:
    """(the result that is claimed, the true one), both as written."""
    whole, equals, claimed = text.rpartition(" = ")
    last = _last(whole, key, limit)
    width = last.width * (2 if last.name == "multiply_signed" else 1)
    if not equals:
        raise UntrueError(f"{text!r} claims nothing")
    if "_" not in claimed:
        number(claimed, key, width)  # raises when it is no number of this width
    return claimed, written(last, key)


def _error(text: str, answer: str, key: Key, limit: int | None) -> None:
    claimed, true = _claim(text, key, limit)
    _equal(answer, "no error" if claimed == true else true)


def _truth(text: str, answer: str, key: Key, limit: int | None) -> None:
    claimed, true = _claim(text, key, limit)
    _equal(answer, str(claimed == true))


def _blank(text: str, answer: str, key: Key, limit: int | None) -> None:
    claimed, true = _claim(text, key, limit)
    if not re.fullmatch(r"[^_]*_+[^_]*", claimed) or claimed.count("_") != len(answer):
        raise UntrueError(f"{answer!r} does not fill {claimed!r}")
    _equal(re.sub("_+", answer, claimed), true)


def _order(text: str, answer: str, key: Key, limit: int | None) -> None:
    first, second = (_last(part, key, limit).result for part in text.split(" or "))
    _equal(answer, "equal" if first == second else "first" if first > second else "second")


def _property(text: str, answer: str, key: Key, limit: int | None) -> None:
    _equal(answer, written(_last(text, key, limit), key))


def _overflow(text: str, answer: str, key: Key, limit: int | None) -> None:
    last = _last(text, key, limit, overflows=True)
    half = 2 ** (last.width - 1)
    _equal(answer, str(last.result >= half or last.result < -half))


def _operand(text: str, answer: str, key: Key, limit: int | None) -> None:
    whole, _, result = text.rpartition(" = ")
    if whole.count("?") != 1:
        raise UntrueError(f"{text!r} lacks one operand exactly")
    last = _last(whole.replace("?", answer), key, limit)
    if last.name not in _REVERSIBLE:
        raise UntrueError(f"the operand of {last.name} does not follow from its result")
    _equal(written(last, key), result)


def _equal(found: str, expected: str) -> None:
    if found != expected:
        raise UntrueError(f"the answer {found!r} is wrong: it is {expected!r}")


_TASKS: dict[str, Callable[[str, str, Key, int | None], None]] = {
    "error": _error,
    "truth": _truth,
    "blank": _blank,
    "order": _order,
    "property": _property,
    "overflow": _overflow,
    "operand": _operand,
}
