"""The operations: what each computes, where it is defined and how its result is written. (specs/guild.md 6.1)

Values are Python ints; a truth value is a bool. Signed operations take two's complement numbers of one width in bits. An operation is
asked only where it is defined: nothing is divided by zero, no unsigned result lies below zero and no signed result leaves its width
(whether one would is what the overflow task asks).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

Difficulty = Literal["easy", "medium", "hard", "expert"]
Result = Literal["bits", "signed", "product", "truth", "decimal", "sign", "parity", "order"]
"""How a result is written: bits without leading zeros; bits of the operands' width or of twice that; True or False; decimal digits;
POSITIVE, ZERO or NEGATIVE; even or odd; first, second or equal."""


class Operation(NamedTuple):
    """compute(*values) gives the result; defined(width, *values) says whether the problem may be asked (width 0 when unsigned).

    place: the kind of reply lines that show its steps. inner: whether its result may be an argument of another call.
    """

    name: str
    arity: int
    difficulty: Difficulty
    result: Result
    place: str
    compute: Callable[..., int]
    defined: Callable[..., bool]
    signed: bool = False
    inner: bool = False
    literal: Literal["bits", "decimal"] = "bits"


def _always(width: int, *values: int) -> bool:
    return True


def fits(value: int, width: int) -> bool:
    """Whether a two's complement number of `width` bits can hold the value."""
    return -(1 << (width - 1)) <= value < 1 << (width - 1)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _unsigned() -> list[Operation]:
    def positive(width: int, a: int) -> bool:
        return a > 0

    return [
        Operation("increment", 1, "easy", "bits", "add", lambda a: a + 1, _always, inner=True),
        Operation("decrement", 1, "easy", "bits", "subtract", lambda a: a - 1, positive, inner=True),
        Operation("multiply_by_2", 1, "easy", "bits", "double", lambda a: a * 2, _always, inner=True),
        Operation("divide_by_2", 1, "easy", "bits", "halve", lambda a: a // 2, _always, inner=True),
        Operation("equals", 2, "easy", "truth", "compare", lambda a, b: a == b, _always),
        Operation("lessthan", 2, "easy", "truth", "compare", lambda a, b: a < b, _always),
        Operation("greaterthan", 2, "easy", "truth", "compare", lambda a, b: a > b, _always),
        Operation("minimum", 2, "easy", "bits", "compare", min, _always, inner=True),
        Operation("maximum", 2, "easy", "bits", "compare", max, _always, inner=True),
        Operation("add", 2, "medium", "bits", "add", lambda a, b: a + b, _always, inner=True),
        Operation("subtract", 2, "medium", "bits", "subtract", lambda a, b: a - b, lambda width, a, b: a >= b, inner=True),
        Operation("tobinary", 1, "medium", "bits", "tobinary", lambda a: a, _always, inner=True, literal="decimal"),
        Operation("todecimal", 1, "medium", "decimal", "todecimal", lambda a: a, _always),
        Operation("multiply", 2, "hard", "bits", "multiply", lambda a, b: a * b, _always, inner=True),
        Operation("divide", 2, "hard", "bits", "divide", lambda a, b: a // b, lambda width, a, b: b > 0, inner=True),
    ]


def _signed() -> list[Operation]:
    return [
        Operation("sign_of", 1, "easy", "sign", "sign", _sign, _always, signed=True),
        Operation("negate", 1, "medium", "signed", "negate", lambda a: -a, lambda width, a: fits(-a, width), signed=True),
        Operation("absolute_value", 1, "medium", "signed", "absolute", abs, lambda width, a: fits(abs(a), width), signed=True),
        Operation("add_signed", 2, "hard", "signed", "add", lambda a, b: a + b, lambda width, a, b: fits(a + b, width), signed=True),
        Operation(
            "subtract_signed", 2, "hard", "signed", "subtract", lambda a, b: a - b, lambda width, a, b: fits(a - b, width), signed=True
        ),
        Operation("multiply_signed", 2, "expert", "product", "multiply", lambda a, b: a * b, _always, signed=True),
    ]


def _questions() -> list[Operation]:
    """What only the auxiliary tasks ask."""
    return [
        Operation("parity", 1, "easy", "parity", "", lambda a: a % 2, _always),
        Operation("length", 1, "easy", "decimal", "", lambda a: max(1, a.bit_length()), _always),
        Operation("ones", 1, "medium", "decimal", "", int.bit_count, _always),
        Operation("power_of_two", 1, "medium", "truth", "", lambda a: a.bit_count() == 1, _always),
        Operation("compare", 2, "medium", "order", "", lambda a, b: _sign(a - b), _always),
    ]


OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in (*_unsigned(), *_signed())}
"""The operations of the table, by name."""
QUESTIONS: dict[str, Operation] = {operation.name: operation for operation in _questions()}
SIGNS = {-1: "NEGATIVE", 0: "ZERO", 1: "POSITIVE"}


def sign_word(value: int) -> str:
    """NEGATIVE, ZERO or POSITIVE."""
    return SIGNS[_sign(value)]


def overflow_question(name: str) -> Operation:
    """`add_signed` or `subtract_signed` as the overflow task asks it: also where the result leaves the width."""
    return OPERATIONS[name]._replace(defined=_always)
