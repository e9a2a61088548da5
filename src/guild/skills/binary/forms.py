"""Prompts and replies of the four forms: brief, verify, show-work and trace. (specs/guild.md 6.1)"""

from __future__ import annotations

from typing import NamedTuple

from guild.skills.binary.arithmetic import chain_verification, remark, verification
from guild.skills.binary.expressions import Argument, Call, Step, steps
from guild.skills.binary.operations import sign_word
from guild.skills.binary.symbols import PLAIN, Notation
from guild.skills.binary.working import working

FORMS = ("brief", "verify", "show-work", "trace")
KEY_STEPS = 4
"""Most lines under `Key steps:`."""
_ORDER = {1: "first", 0: "equal", -1: "second"}
_PLACES = ("First", "second")


class Problem(NamedTuple):
    """form: one of FORMS or of the auxiliary tasks. hint: whether a signed prompt names the signs. twist: a number from which an
    auxiliary task takes what it changes in the true statement."""

    form: str
    call: Call
    notation: Notation = PLAIN
    hint: bool = False
    twist: int = 0


def expression_text(call: Call, notation: Notation, *, with_width: bool = False) -> str:
    """`op(args)`; in prompts a signed call ends with its width."""
    parts = [argument_text(argument, call, notation) for argument in call.arguments]
    if with_width and call.width:
        parts.append(str(call.width))
    return f"{notation.name(call.operation.name)}({', '.join(parts)})"


def argument_text(argument: Argument, call: Call, notation: Notation) -> str:
    """An inner call, or a number as the operation takes it."""
    if type(argument) is Call:
        return expression_text(argument, notation)
    if call.operation.literal == "decimal":
        return str(argument)
    return notation.bits(argument, call.width)  # type: ignore[arg-type]


def result_text(step: Step, notation: Notation, result: int | None = None) -> str:
    """How the result of a step is written; `result` in its place when given."""
    kind, width = step.operation.result, step.width
    value = step.result if result is None else result
    if kind == "bits":
        return notation.bits(value)
    if kind == "signed":
        return notation.bits(value, width)
    if kind == "product":
        return notation.bits(value, 2 * width)
    if kind == "truth":
        return str(bool(value))
    if kind == "sign":
        return sign_word(value)
    if kind == "parity":
        return "odd" if value else "even"
    return _ORDER[value] if kind == "order" else str(value)


def prompt_line(problem: Problem) -> str:
    """`Compute: op(args)` with the form's tag, and the line that names the signs when the problem has one."""
    tag = "" if problem.form == "brief" else f" [{problem.form}]"
    text = f"Compute{tag}: {expression_text(problem.call, problem.notation, with_width=True)}"
    return f"{text}\n{sign_hint(problem.call)}" if problem.hint else text


def sign_hint(call: Call) -> str:
    """`First is NEGATIVE, second is POSITIVE.`"""
    named = [f"{place} is {sign_word(value)}" for place, value in zip(_PLACES, call.arguments, strict=False)]  # type: ignore[arg-type]
    return ", ".join(named) + "."


def reply(problem: Problem) -> str:
    """The golden answer of a problem in one of the four forms."""
    done = steps(problem.call)
    last, notation = done[-1], problem.notation
    result = result_text(last, notation)
    echo = expression_text(problem.call, notation)
    if problem.form == "brief":
        return f"{echo} = {result}"
    proof = f"Verification: {_proof(problem.call, last)}"
    if problem.form == "verify":
        lines = [echo, *chain_lines(done, notation), proof] if problem.call.nested else [f"{echo} = {result}", proof]
    elif problem.form == "show-work":
        rule = [f"Sign rule: {sign_rule(last, notation)}"] if last.width else []
        shown = chain_lines(done, notation) if problem.call.nested else working(last, notation, KEY_STEPS)
        lines = [echo, *rule, "Key steps:", *shown, f"Result: {result}", proof]
    else:
        shown = chain_lines(done, notation) if problem.call.nested else working(last, notation)
        final = f"Final: {result}" if last.operation.result in ("truth", "decimal", "sign") else f"Final: {result} = {last.result}"
        lines = [echo, "Operands:", *operand_lines(problem.call, notation), "Step-by-step:", *shown, final, f"{proof} ✓"]
    return "\n".join(lines)


def _proof(call: Call, last: Step) -> str:
    return chain_verification(call, last) if call.nested else verification(last)


def chain_lines(done: list[Step], notation: Notation) -> list[str]:
    """`Inner: …` for each inner call with its value in decimal, then `Outer: …`."""
    lines = []
    for step in done:
        text = f"{expression_text(Call(step.operation, step.values, step.width), notation)} = {result_text(step, notation)}"
        lines.append(f"Outer: {text}" if step is done[-1] else f"Inner: {text} ({remark(step)})")
    return lines


def sign_rule(step: Step, notation: Notation) -> str:
    """What the signs of the operands say, and the sign that comes out."""
    name = step.operation.name
    signs = [sign_word(value) for value in step.values]
    if name == "sign_of":
        return f"first bit {notation.one} is NEGATIVE" if step.result < 0 else f"first bit {notation.zero} is not NEGATIVE"
    if name == "negate":
        return f"-{signs[0]} = {sign_word(step.result)}"
    if name == "absolute_value":
        return f"|{signs[0]}| = {sign_word(step.result)}"
    mark = {"add_signed": "+", "subtract_signed": "-", "multiply_signed": "*"}[name]
    return f"{signs[0]} {mark} {signs[1]} = {sign_word(step.result)}"


def operand_lines(call: Call, notation: Notation) -> list[str]:
    """`a = bits (value, positive)` for each number of the expression, from left to right; decimal operands have no bits before."""
    found: list[tuple[str, int]] = []
    _collect(call, notation, found)
    names = "abcdefgh"
    return [
        f"{names[at]} = {text} ({value}, {sign_word(value).lower()})" if text else f"{names[at]} = {value}"
        for at, (text, value) in enumerate(found)
    ]


def _collect(call: Call, notation: Notation, found: list[tuple[str, int]]) -> None:
    for argument in call.arguments:
        if type(argument) is Call:
            _collect(argument, notation, found)
        else:
            text = "" if call.operation.literal == "decimal" else argument_text(argument, call, notation)
            found.append((text, argument))  # type: ignore[arg-type]
