"""The steps of one operation, line by line, lowest bit first where bits are handled one by one; division starts at the top.

Digits wear the prompt's symbols, positions and plain numbers are decimal.
"""

from __future__ import annotations

from collections.abc import Callable

from guild.skills.binary.expressions import Step
from guild.skills.binary.operations import sign_word
from guild.skills.binary.symbols import Notation

NOTHING_SET = "no bit is set"


def working(step: Step, notation: Notation, most: int | None = None) -> list[str]:
    """The lines of one operation, or the first `most` of them."""
    return _LINES[step.operation.place](step, notation)[:most]


def _length(*values: int) -> int:
    return max(1, *(value.bit_length() for value in values))


def _add(step: Step, notation: Notation) -> list[str]:
    first, second = step.values if len(step.values) == 2 else (step.values[0], 1)
    digits = (notation.zero, notation.one)
    carry, lines = 0, []
    for at in range(step.width or _length(first, second)):
        x, y = first >> at & 1, second >> at & 1
        total = x + y + carry
        into, carry = carry, total >> 1
        lines.append(f"bit {at}: {digits[x]} + {digits[y]} + carry {digits[into]} -> write {digits[total & 1]}, carry {digits[carry]}")
    return lines


def _subtract(step: Step, notation: Notation) -> list[str]:
    first, second = step.values if len(step.values) == 2 else (step.values[0], 1)
    digits = (notation.zero, notation.one)
    borrow, lines = 0, []
    for at in range(step.width or _length(first)):
        x, y = first >> at & 1, second >> at & 1
        total = x - y - borrow
        into, borrow = borrow, int(total < 0)
        lines.append(f"bit {at}: {digits[x]} - {digits[y]} - borrow {digits[into]} -> write {digits[total & 1]}, borrow {digits[borrow]}")
    return lines


def _multiply(step: Step, notation: Notation) -> list[str]:
    first, second = step.values
    lines = []
    for at in range(step.width or _length(second)):
        if second >> at & 1:
            weight = -(1 << at) if step.width and at == step.width - 1 else 1 << at  # the first bit of two's complement counts below zero
            lines.append(f"bit {at}: {first} * {weight} = {first * weight}")
    return lines or [NOTHING_SET]


def _divide(step: Step, notation: Notation) -> list[str]:
    dividend, divisor = step.values
    rest, lines = 0, []
    for at in range(_length(dividend) - 1, -1, -1):
        rest = rest << 1 | (dividend >> at & 1)
        if rest >= divisor:
            lines.append(f"bit {at}: {rest} >= {divisor} -> write {notation.one}, remainder {rest - divisor}")
            rest -= divisor
        else:
            lines.append(f"bit {at}: {rest} < {divisor} -> write {notation.zero}")
    return lines


def _double(step: Step, notation: Notation) -> list[str]:
    value = step.values[0]
    return [f"bit {at} -> bit {at + 1}: {notation.bit(value >> at & 1)}" for at in range(_length(value))]


def _halve(step: Step, notation: Notation) -> list[str]:
    value = step.values[0]
    moved = [f"bit {at} -> bit {at - 1}: {notation.bit(value >> at & 1)}" for at in range(1, _length(value))]
    return [f"bit 0 drops out: {notation.bit(value & 1)}", *moved]


def _compare(step: Step, notation: Notation) -> list[str]:
    first, second = step.values
    lengths = _length(first), _length(second)
    lines = [f"lengths: {lengths[0]} and {lengths[1]}"]
    if lengths[0] == lengths[1]:
        for at in range(lengths[0] - 1, -1, -1):
            x, y = first >> at & 1, second >> at & 1
            lines.append(f"bit {at}: {notation.bit(x)} and {notation.bit(y)} {'agree' if x == y else 'differ'}")
            if x != y:
                break
    return lines


def _tobinary(step: Step, notation: Notation) -> list[str]:
    left = step.values[0]
    lines = []
    for at in range(_length(left)):
        lines.append(f"bit {at}: {left} / 2 = {left >> 1}, write {notation.bit(left & 1)}")
        left >>= 1
    return lines


def _todecimal(step: Step, notation: Notation) -> list[str]:
    value = step.values[0]
    return [f"bit {at}: {1 << at}" for at in range(value.bit_length()) if value >> at & 1] or [NOTHING_SET]


def _negate(step: Step, notation: Notation) -> list[str]:
    value, width = step.values[0], step.width
    return [f"invert: {notation.bits(~value, width)}", f"add one: {notation.bits(-value, width)}"]


def _absolute(step: Step, notation: Notation) -> list[str]:
    if step.values[0] < 0:
        return [f"first bit {notation.one}: negate", *_negate(step, notation)]
    return [f"first bit {notation.zero}: keep"]


def _sign(step: Step, notation: Notation) -> list[str]:
    value = step.values[0]
    word = sign_word(value)
    if value < 0:
        return [f"first bit {notation.one}: {word}"]
    return [f"first bit {notation.zero}, {'some bit is set' if value else NOTHING_SET}: {word}"]


_LINES: dict[str, Callable[[Step, Notation], list[str]]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "double": _double,
    "halve": _halve,
    "compare": _compare,
    "tobinary": _tobinary,
    "todecimal": _todecimal,
    "negate": _negate,
    "absolute": _absolute,
    "sign": _sign,
}
