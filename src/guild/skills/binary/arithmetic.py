"""Verification in decimal: what a result says when it is read as ordinary numbers."""

from __future__ import annotations

from guild.skills.binary.expressions import Argument, Call, Step

_INFIX = {
    "add": "+", "add_signed": "+", "subtract": "-", "subtract_signed": "-", "multiply": "*", "multiply_signed": "*",
    "equals": "==", "lessthan": "<", "greaterthan": ">",
}  # fmt: skip
_WITH_CONSTANT = {"increment": "+ 1", "decrement": "- 1", "multiply_by_2": "* 2"}
_FUNCTIONS = {"minimum": "min", "maximum": "max"}


def verification(step: Step) -> str:
    """A true statement about one call: `3 + 4 = 7`, `37 < 14 is False`, `13 / 4 = 3 remainder 1`."""
    name, values, result = step.operation.name, step.values, step.result
    if name in ("divide", "divide_by_2"):
        divisor = values[1] if name == "divide" else 2
        rest = values[0] - result * divisor
        return f"{values[0]} / {divisor} = {result}" + (f" remainder {rest}" if rest else "")
    if name in ("tobinary", "todecimal"):
        return f"{place_sum(values[0])} = {values[0]}"
    if name == "sign_of":
        return f"{values[0]} {'<' if result < 0 else '>' if result > 0 else '='} 0"
    return statement(expression(Call(step.operation, values, step.width), outermost=True), step)


def chain_verification(call: Call, last: Step) -> str:
    """A true statement about a whole chain: `(2 + 2) + 1 = 5`. last: the step of the outer call."""
    return statement(expression(call, outermost=True), last)


def statement(text: str, step: Step) -> str:
    """An expression and what it is."""
    return f"{text} is {bool(step.result)}" if step.operation.result == "truth" else f"{text} = {step.result}"


def remark(step: Step) -> str:
    """The same for an inner call, without spaces: `2+2=4`, `floor(13/4)=3`."""
    text = place_sum(step.result) if step.operation.name == "tobinary" else expression(Call(step.operation, step.values), outermost=True)
    return f"{text}={step.result}".replace(" ", "")


def expression(argument: Argument, *, outermost: bool = False) -> str:
    """A tree in decimal, each inner sum in parentheses; a quotient that is rounded down is `floor(13 / 4)`."""
    if not isinstance(argument, Call):
        return str(argument) if argument >= 0 else f"({argument})"
    name = argument.operation.name
    first, *rest = [expression(inner) for inner in argument.arguments]
    if name in _INFIX:
        if first.startswith("(-") and outermost:
            first = first[1:-1]
        text = f"{first} {_INFIX[name]} {rest[0]}"
    elif name in _WITH_CONSTANT:
        text = f"{first} {_WITH_CONSTANT[name]}"
    elif name in _FUNCTIONS:
        return f"{_FUNCTIONS[name]}({bare(first)}, {bare(rest[0])})"
    elif name == "divide":
        return f"floor({first} / {rest[0]})"
    elif name == "divide_by_2":
        return f"floor({first} / 2)"
    elif name == "negate":
        text = f"0 - {first}"
    elif name == "absolute_value":
        return f"|{bare(first)}|"
    else:
        return bare(first) if outermost else first
    return text if outermost else f"({text})"


def bare(text: str) -> str:
    """Without a pair of parentheses that encloses everything."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and at < len(text) - 1:
            return text
    return text[1:-1]


def place_sum(value: int) -> str:
    """A number as the sum of its powers of two, the greatest first: `8 + 4 + 1`."""
    powers = [1 << at for at in range(value.bit_length() - 1, -1, -1) if value >> at & 1]
    return " + ".join(map(str, powers)) or "0"
