"""Statements in decimal: whether they are true, what they come to and which numbers stand in them."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from guild.skills.binary.selfcheck.reading import UntrueError

_TOKEN = re.compile(r"[0-9]+|[a-z]+|\S")
_QUOTIENT = re.compile(r"([0-9]+) / ([0-9]+) = ([0-9]+)(?: remainder ([0-9]+))?")
_TRUTH = re.compile(r"(.+) (==|<|>) (.+) is (True|False)")
_SIGN = re.compile(r"(-?[0-9]+) ([<>=]) 0")
_NUMBER = re.compile(r"[0-9]+")


class Said(NamedTuple):
    """What a true statement says. numbers: all numbers on its left side, without their signs. sides: of a comparison, what its two sides
    come to."""

    value: int
    numbers: tuple[int, ...]
    sides: tuple[Fraction | int, ...] = ()


def statement(text: str) -> Said:
    """Check a statement and read its value: of `3 + 4 = 7` 7, of `37 < 14 is False` 0, of `13 / 4 = 3 remainder 1` 3. Raises
    UntrueError."""
    quotient = _QUOTIENT.fullmatch(text)
    if quotient:
        dividend, divisor, value, rest = (int(group or 0) for group in quotient.groups())
        if not (0 <= rest < divisor and dividend == divisor * value + rest):
            raise UntrueError(f"{text!r} is not true")
        return Said(value, (dividend, divisor))
    truth = _TRUTH.fullmatch(text)
    if truth:
        left, right = _value(truth[1]), _value(truth[3])
        holds = left == right if truth[2] == "==" else left < right if truth[2] == "<" else left > right
        if str(holds) != truth[4]:
            raise UntrueError(f"{text!r} is not true")
        return Said(int(holds), _numbers(truth[1]) + _numbers(truth[3]), (left, right))
    left_text, equals, right_text = text.rpartition("=")
    if not equals or not re.fullmatch(r"-?[0-9]+", right_text.strip()):
        raise UntrueError(f"{text!r} is no statement")
    value = int(right_text)
    if _value(left_text) != value:
        raise UntrueError(f"{text!r} is not true")
    return Said(value, _numbers(left_text))


def sign_statement(text: str) -> Said:
    """`-5 < 0`: the value is the sign. Raises UntrueError."""
    found = _SIGN.fullmatch(text)
    if not found:
        raise UntrueError(f"{text!r} says no sign")
    value = int(found[1])
    sign = {"<": -1, "=": 0, ">": 1}[found[2]]
    if (value > 0) - (value < 0) != sign:
        raise UntrueError(f"{text!r} is not true")
    return Said(sign, (abs(value),))


def place_values(text: str) -> Said:
    """`8 + 4 + 1 = 13`: a sum of different powers of two. Raises UntrueError."""
    said = statement(text)
    if len(set(said.numbers)) != len(said.numbers) or any(power & (power - 1) for power in said.numbers):
        raise UntrueError(f"{text!r} is no sum of different powers of two")
    return said


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _NUMBER.findall(text)))


def _value(text: str) -> Fraction | int:
    tokens = _TOKEN.findall(text)
    value, end = _sum(tokens, 0)
    if end != len(tokens):
        raise UntrueError(f"{text!r} is no expression in decimal")
    return value


def _sum(tokens: list[str], at: int) -> tuple[Fraction | int, int]:
    value, at = _term(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        more, end = _term(tokens, at + 1)
        value, at = (value + more if tokens[at] == "+" else value - more), end
    return value, at


def _term(tokens: list[str], at: int) -> tuple[Fraction | int, int]:
    value, at = _factor(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        more, end = _factor(tokens, at + 1)
        if tokens[at] == "/" and more == 0:
            raise UntrueError("a statement in decimal divides by zero")
        value, at = (value * more if tokens[at] == "*" else Fraction(value) / more), end
    return value, at


def _factor(tokens: list[str], at: int) -> tuple[Fraction | int, int]:
    if at >= len(tokens):
        raise UntrueError("a statement in decimal ends too early")
    token = tokens[at]
    if token.isascii() and token.isdecimal():
        return int(token), at + 1
    if token == "-":
        value, at = _factor(tokens, at + 1)
        return -value, at
    if token in ("(", "|"):
        value, at = _sum(tokens, at + 1)
        return (-value if token == "|" and value < 0 else value), _past(tokens, at, ")" if token == "(" else "|")
    if token in ("floor", "min", "max"):
        at = _past(tokens, at + 1, "(")
        value, at = _sum(tokens, at)
        if token == "floor":
            return value.__floor__(), _past(tokens, at, ")")
        other, at = _sum(tokens, _past(tokens, at, ","))
        first = value <= other if token == "min" else value >= other
        return (value if first else other), _past(tokens, at, ")")
    raise UntrueError(f"{token!r} has no place in a statement in decimal")


def _past(tokens: list[str], at: int, expected: str) -> int:
    if at >= len(tokens) or tokens[at] != expected:
        raise UntrueError(f"a statement in decimal lacks {expected!r}")
    return at + 1
