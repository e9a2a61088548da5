"""A parser of prompts: the key, the expression and its value."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple, Union

Value = int | bool
Node = Union[str, "Expression"]

_TOKEN = re.compile(r"[^\s(),]+|[(),]")
_LIKE_DIGITS = frozenset("○●◯⊙⊚oOlI|")


class UntrueError(Exception):
    """What is wrong with a sample, a sentence; caught where samples are checked."""


class Key(NamedTuple):
    """The two digits, and the operations by the names they have here."""

    zero: str
    one: str
    names: dict[str, str]


class Expression(NamedTuple):
    """A call as it was read. name: of the operation, canonical. parts: inner calls and number texts."""

    name: str
    parts: tuple[Node, ...]


class Done(NamedTuple):
    """One evaluated call. width: bits of its operands when signed, else 0."""

    name: str
    values: tuple[int, ...]
    width: int
    result: int


SIGNED = {"negate": 1, "absolute_value": 1, "sign_of": 1, "add_signed": 2, "subtract_signed": 2, "multiply_signed": 2}
TRUTHS = ("equals", "lessthan", "greaterthan", "power_of_two")
_RULES: dict[str, tuple[int, Callable[..., int]]] = {
    "add": (2, int.__add__),
    "subtract": (2, int.__sub__),
    "multiply": (2, int.__mul__),
    "divide": (2, int.__floordiv__),
    "increment": (1, (1).__add__),
    "decrement": (1, (-1).__add__),
    "multiply_by_2": (1, (2).__mul__),
    "divide_by_2": (1, lambda number: number >> 1),
    "equals": (2, lambda left, right: int(left == right)),
    "lessthan": (2, lambda left, right: int(left < right)),
    "greaterthan": (2, lambda left, right: int(left > right)),
    "minimum": (2, lambda left, right: left if left < right else right),
    "maximum": (2, lambda left, right: right if left < right else left),
    "tobinary": (1, int),
    "todecimal": (1, int),
    "negate": (1, int.__neg__),
    "absolute_value": (1, int.__abs__),
    "sign_of": (1, lambda number: 0 if number == 0 else 1 if number > 0 else -1),
    "add_signed": (2, int.__add__),
    "subtract_signed": (2, int.__sub__),
    "multiply_signed": (2, int.__mul__),
    "parity": (1, lambda number: number & 1),
    "length": (1, lambda number: len(f"{number:b}")),
    "ones": (1, lambda number: f"{number:b}".count("1")),
    "power_of_two": (1, lambda number: int(number > 0 and number & (number - 1) == 0)),
}


def read_prompt(prompt: str) -> tuple[Key, str, str]:
    """(key, question line, line that names the signs or "")."""
    lines = prompt.split("\n")
    key = Key("⓪", "①", {name: name for name in _RULES})
    if lines[0] == "Symbol Key:":
        end = lines.index("") if "" in lines else 0
        if end < 5 or lines[3] != "Operations:":
            raise UntrueError("the symbol key is not complete")
        key = _read_key(lines[1:3], lines[4:end])
        lines = lines[end + 1 :]
    if not 1 <= len(lines) <= 2:
        raise UntrueError(f"the prompt has {len(lines)} lines where a question belongs")
    return key, lines[0], lines[1] if len(lines) == 2 else ""


def _read_key(digits: list[str], operations: list[str]) -> Key:
    zero, one = digits[0].removesuffix(" = 0 (zero bit)"), digits[1].removesuffix(" = 1 (one bit)")
    names: dict[str, str] = {}
    for line in operations:
        name, _, operation = line.partition(" = ")
        if name in names or operation in names.values():
            raise UntrueError(f"the key names {line!r} twice")
        if operation not in _RULES:
            raise UntrueError(f"the key has an unknown operation {operation!r}")
        names[name] = operation
    symbols = [zero, one, *names]
    if len(set(symbols)) != len(symbols):
        raise UntrueError("two symbols of the key are the same")
    if len(zero) != 1 or len(one) != 1 or any(zero in name or one in name for name in names):
        raise UntrueError("a digit of the key is no single sign, or part of a name")
    for symbol in symbols:
        if symbol in _LIKE_DIGITS or any(unicodedata.numeric(sign, None) is not None for sign in symbol):
            raise UntrueError(f"the symbol {symbol!r} of the key is a digit, or looks like one")
    if any(name in _RULES for name in names):
        raise UntrueError("a name of the key is the name of an operation")
    return Key(zero, one, names)


def read_expression(text: str, key: Key) -> Expression:
    """The expression that is the whole text."""
    tokens = _TOKEN.findall(text)
    node, end = _node(tokens, 0, key)
    if end != len(tokens) or isinstance(node, str):
        raise UntrueError(f"{text!r} is no expression")
    return node


def _node(tokens: list[str], at: int, key: Key) -> tuple[Node, int]:
    if at >= len(tokens) or tokens[at] in "(),":
        raise UntrueError("an expression ends too early")
    name = tokens[at]
    if at + 1 >= len(tokens) or tokens[at + 1] != "(":
        return name, at + 1
    if name not in key.names:
        raise UntrueError(f"{name!r} is no operation of the prompt")
    parts = []
    at += 1
    while tokens[at] != ")":
        part, at = _node(tokens, at + 1, key)
        parts.append(part)
        if at >= len(tokens) or tokens[at] not in (",", ")"):
            raise UntrueError("a parenthesis is not closed")
    return Expression(key.names[name], tuple(parts)), at + 1


def without_width(expression: Expression) -> tuple[Expression, int]:
    """A prompt's expression without its width argument, and that width; 0 for an unsigned one."""
    arity = SIGNED.get(expression.name)
    if arity is None:
        return expression, 0
    last = expression.parts[-1]
    if len(expression.parts) != arity + 1 or not isinstance(last, str) or not last.isascii() or not last.isdecimal():
        raise UntrueError("a signed prompt has no width argument")
    return Expression(expression.name, expression.parts[:-1]), int(last)


def number(text: str, key: Key, width: int = 0) -> int:
    """The value of digits: two's complement when there is a width, else without leading zeros."""
    digits = text.replace(key.zero, "0").replace(key.one, "1")
    if not digits or digits.strip("01") or "0" in text or "1" in text:
        raise UntrueError(f"{text!r} is no binary number of this prompt")
    value = int(digits, 2)
    if not width:
        if len(digits) > 1 and digits[0] == "0":
            raise UntrueError(f"{text!r} has leading zeros")
        return value
    if len(digits) != width:
        raise UntrueError(f"{text!r} has {len(digits)} digits; its width is {width}")
    return value - (1 << width) if digits[0] == "1" else value


def evaluate(expression: Expression, key: Key, width: int, limit: int | None, *, overflows: bool = False) -> list[Done]:
    """The steps, innermost first. limit: most bits of an operand. overflows: whether a signed result may leave its width."""
    done: list[Done] = []
    _evaluate(expression, key, width, done)
    for step in done:
        for value in step.values:
            bits = step.width or value.bit_length()
            if limit is not None and bits > limit:
                raise UntrueError(f"an operand of {step.name} has {bits} bits; the level allows {limit}")
        kept = 2 * step.width if step.name == "multiply_signed" else step.width
        if not step.width and step.result < 0:
            raise UntrueError(f"{step.name} gives a negative number")
        if kept and step.name != "sign_of" and not overflows and not -(1 << kept - 1) <= step.result < 1 << kept - 1:
            raise UntrueError(f"the result of {step.name} leaves its width")
    return done


def _evaluate(node: Expression, key: Key, width: int, done: list[Done]) -> int:
    arity, rule = _RULES[node.name]
    if len(node.parts) != arity:
        raise UntrueError(f"{node.name} has {len(node.parts)} arguments; it takes {arity}")
    values = []
    for part in node.parts:
        if isinstance(part, Expression):
            values.append(_evaluate(part, key, width, done))
        elif node.name == "tobinary":
            if not (part.isascii() and part.isdecimal()):
                raise UntrueError(f"{part!r} is no decimal number")
            values.append(int(part))
        else:
            values.append(number(part, key, width))
    if node.name == "divide" and values[1] == 0:
        raise UntrueError("a division by zero")
    result = rule(*values)
    done.append(Done(node.name, tuple(values), width, result))
    return result


def written(step: Done, key: Key) -> str:
    """How the result of a step must be written."""
    name, value, width = step.name, step.result, step.width
    if name in TRUTHS:
        return "True" if value else "False"
    if name in ("todecimal", "length", "ones"):
        return str(value)
    if name == "parity":
        return "odd" if value else "even"
    if name == "sign_of":
        return signed_word(value)
    if width:
        width = width * 2 if name == "multiply_signed" else width
        value %= 1 << width
    digits: list[str] = []
    while value or len(digits) < max(1, width):
        digits.append(key.one if value & 1 else key.zero)
        value >>= 1
    return "".join(reversed(digits))


def signed_word(value: int) -> str:
    """The word for a sign."""
    return "ZERO" if value == 0 else "POSITIVE" if value > 0 else "NEGATIVE"
