"""One sample, read back and recomputed line by line."""

from __future__ import annotations

import re
from collections.abc import Callable

from guild.skills.binary.selfcheck import decimals
from guild.skills.binary.selfcheck.questions import check_question
from guild.skills.binary.selfcheck.reading import (
    SIGNED,
    TRUTHS,
    Done,
    Expression,
    Key,
    Node,
    UntrueError,
    evaluate,
    number,
    read_expression,
    read_prompt,
    signed_word,
    without_width,
    written,
)
from guild.skills.binary.selfcheck.worked import check_working
from guild.skills.contract import Sample

_COMPUTE = re.compile(r"Compute(?: \[(verify|show-work|trace)\])?: (.+)")
_OPERAND = re.compile(r"([a-h]) = (?:(\S+) \((-?[0-9]+), (negative|zero|positive)\)|([0-9]+))")
_PLACE_SUMS = ("tobinary", "todecimal")
_CONSTANTS = {"increment": (1,), "decrement": (1,), "multiply_by_2": (2,), "divide_by_2": (2,), "negate": (0,)}
"""Numbers that an operation has beside its operands."""
_ENDLESS = re.compile(r"[0-9]{60}")
"""No sample has so long a number, and Python refuses to read much longer ones."""
KEY_STEPS = 4


def faults_of(sample: Sample) -> list[str]:
    """What is untrue in a sample: sentences, none when every line of prompt and reply is right. The level in its metadata, if there is
    one, says how long operands may be."""
    level = sample.metadata.get("level")
    limit = None if not isinstance(level, int) else 32 if level == 30 else level + 1
    try:
        if _ENDLESS.search(sample.user_prompt) or _ENDLESS.search(sample.assistant_response):
            raise UntrueError("a number has sixty digits or more")
        key, question, hint = read_prompt(sample.user_prompt)
        computed = _COMPUTE.fullmatch(question)
        form = "brief" if computed is None else computed[1] or "brief"
        if computed is None:
            if hint:
                raise UntrueError("an auxiliary task has a second line")
            check_question(question, sample.assistant_response, key, limit)
        else:
            expression, width = without_width(read_expression(computed[2], key))
            done = evaluate(expression, key, width, limit)
            _check_hint(hint, done[-1])
            _FORMS[form](expression, done, sample.assistant_response.split("\n"), key)
            if sample.scenario not in (None, form):
                raise UntrueError(f"the scenario is {sample.scenario!r}, the prompt asks {form!r}")
    except UntrueError as error:
        return [f"{sample.id}: {error}."]
    return []


def _check_hint(hint: str, last: Done) -> None:
    if not hint:
        return
    words = [signed_word(value) for value in last.values]
    expected = f"First is {words[0]}." if len(words) == 1 else f"First is {words[0]}, second is {words[1]}."
    if last.name not in SIGNED or hint != expected:
        raise UntrueError(f"{hint!r} is not what the operands are")


def _echo(expression: Expression, line: str, key: Key) -> None:
    if read_expression(line, key) != expression:
        raise UntrueError(f"{line!r} is not the expression of the prompt")


def _result_line(expression: Expression, last: Done, line: str, key: Key) -> None:
    echo, equals, result = line.rpartition(" = ")
    if not equals or result != written(last, key):
        raise UntrueError(f"{line!r} has not the result {written(last, key)}")
    _echo(expression, echo, key)


def _take(lines: list[str], label: str) -> str:
    if not lines or not lines[0].startswith(label):
        raise UntrueError(f"the line {label!r} is missing")
    return lines.pop(0)[len(label) :]


def _until(lines: list[str], label: str) -> list[str]:
    taken = []
    while lines and not lines[0].startswith(label):
        taken.append(lines.pop(0))
    return taken


def _nothing_left(lines: list[str]) -> None:
    if lines:
        raise UntrueError(f"{lines[0]!r} has no place in the reply")


def _chained(expression: Expression) -> bool:
    return any(isinstance(part, Expression) for part in expression.parts)


def _brief(expression: Expression, done: list[Done], lines: list[str], key: Key) -> None:
    _result_line(expression, done[-1], lines.pop(0), key)
    _nothing_left(lines)


def _verify(expression: Expression, done: list[Done], lines: list[str], key: Key) -> None:
    if _chained(expression):
        _echo(expression, lines.pop(0), key)
        _chain(done, _until(lines, "Verification: "), key)
    else:
        _result_line(expression, done[-1], lines.pop(0), key)
    _verification(expression, done, _take(lines, "Verification: "), key)
    _nothing_left(lines)


def _show_work(expression: Expression, done: list[Done], lines: list[str], key: Key) -> None:
    _echo(expression, lines.pop(0), key)
    if done[-1].name in SIGNED:
        _sign_rule(done[-1], _take(lines, "Sign rule: "), key)
    _nothing_left([rest for rest in [_take(lines, "Key steps:")] if rest])
    _steps(expression, done, _until(lines, "Result: "), key, KEY_STEPS)
    result = _take(lines, "Result: ")
    if result != written(done[-1], key):
        raise UntrueError(f"the result is {written(done[-1], key)}, not {result!r}")
    _verification(expression, done, _take(lines, "Verification: "), key)
    _nothing_left(lines)


def _trace(expression: Expression, done: list[Done], lines: list[str], key: Key) -> None:
    _echo(expression, lines.pop(0), key)
    _nothing_left([rest for rest in [_take(lines, "Operands:")] if rest])
    _operands(expression, done, _until(lines, "Step-by-step:"), key)
    _nothing_left([rest for rest in [_take(lines, "Step-by-step:")] if rest])
    _steps(expression, done, _until(lines, "Final: "), key, None)
    final, last = _take(lines, "Final: "), done[-1]
    in_bits = last.name not in (*TRUTHS, "todecimal", "sign_of")
    if final != (f"{written(last, key)} = {last.result}" if in_bits else written(last, key)):
        raise UntrueError(f"the final result {final!r} is wrong")
    _verification(expression, done, _take(lines, "Verification: ").removesuffix(" ✓"), key)
    _nothing_left(lines)


def _steps(expression: Expression, done: list[Done], lines: list[str], key: Key, most: int | None) -> None:
    if _chained(expression):
        _chain(done, lines, key)
    else:
        check_working(done[-1], lines, key, most=most)


def _chain(done: list[Done], lines: list[str], key: Key) -> None:
    """`Inner:` lines in order of evaluation, then `Outer:`, each a call on numbers."""
    if len(lines) != len(done):
        raise UntrueError(f"{len(lines)} lines for a chain of {len(done)} calls")
    for step, line in zip(done, lines, strict=True):
        label = "Outer: " if step is done[-1] else "Inner: "
        text = _take([line], label)
        if step is not done[-1]:
            text, opened, remark = text.rpartition(" (")
            if not opened or not remark.endswith(")"):
                raise UntrueError(f"{line!r} lacks its value in decimal")
            spaced = remark[:-1].replace(",", ", ")
            said = decimals.place_values(spaced) if step.name == "tobinary" else decimals.statement(spaced)
            if said.value != step.result:
                raise UntrueError(f"{line!r} says {said.value} where {step.result} belongs")
            if step.name != "tobinary":
                _names_operands([step], list(step.values), said, line)
        echo, equals, result = text.rpartition(" = ")
        if not equals or result != written(step, key):
            raise UntrueError(f"{line!r} has not the result {written(step, key)}")
        read = read_expression(echo, key)
        if read.name != step.name or _numbers(read, key, step.width) != list(step.values):
            raise UntrueError(f"{line!r} is not the step that belongs there")


def _numbers(expression: Expression, key: Key, width: int) -> list[int]:
    """The numbers of an expression, from left to right."""
    found: list[int] = []
    for part in expression.parts:
        if isinstance(part, Expression):
            found += _numbers(part, key, width)
        else:
            found.append(int(part) if expression.name == "tobinary" else number(part, key, width))
    return found


def _names_operands(steps: list[Done], operands: list[int], said: decimals.Said, line: str) -> None:
    """The numbers of a statement are the operands and the constants of the operations, no others."""
    constants = [number for step in steps for number in _CONSTANTS.get(step.name, ())]
    if sorted(said.numbers) != sorted([*map(abs, operands), *constants]) or (said.sides and said.sides != steps[-1].values):
        raise UntrueError(f"{line!r} is not about this expression")


def _verification(expression: Expression, done: list[Done], text: str, key: Key) -> None:
    last = done[-1]
    if last.name == "sign_of":
        said = decimals.sign_statement(text)
    elif last.name in _PLACE_SUMS and len(done) == 1:
        said = decimals.place_values(text)
    else:
        said = decimals.statement(text)
    if said.value != last.result:
        raise UntrueError(f"the verification {text!r} is of {said.value}, not of {last.result}")
    if len(done) > 1 or last.name not in _PLACE_SUMS:
        _names_operands(done, _numbers(expression, key, last.width), said, text)


def _sign_rule(last: Done, text: str, key: Key) -> None:
    words = [signed_word(value) for value in last.values]
    if last.name == "sign_of":
        expected = f"first bit {key.one} is NEGATIVE" if last.values[0] < 0 else f"first bit {key.zero} is not NEGATIVE"
    elif last.name in ("negate", "absolute_value"):
        shown = f"-{words[0]}" if last.name == "negate" else f"|{words[0]}|"
        expected = f"{shown} = {signed_word(last.result)}"
    else:
        mark = {"add_signed": "+", "subtract_signed": "-", "multiply_signed": "*"}[last.name]
        expected = f"{words[0]} {mark} {words[1]} = {signed_word(last.result)}"
    if text != expected:
        raise UntrueError(f"the sign rule {text!r} does not hold")


def _operands(expression: Expression, done: list[Done], lines: list[str], key: Key) -> None:
    leaves = list(_leaves(expression))
    width = done[-1].width
    values = _numbers(expression, key, width)
    if len(lines) != len(leaves):
        raise UntrueError(f"{len(lines)} operands listed, {len(leaves)} stand in the expression")
    for at, (line, leaf, value) in enumerate(zip(lines, leaves, values, strict=True)):
        found = _OPERAND.fullmatch(line)
        if found is None or found[1] != "abcdefgh"[at]:
            raise UntrueError(f"{line!r} lists no operand")
        said = (found[5],) if found[5] else (found[2], int(found[3]), found[4])
        if said != ((leaf,) if found[5] else (leaf, value, signed_word(value).lower())):
            raise UntrueError(f"{line!r} is not the operand {leaf}")


def _leaves(expression: Expression) -> list[Node]:
    found: list[Node] = []
    for part in expression.parts:
        found += _leaves(part) if isinstance(part, Expression) else [part]
    return found


_FORMS: dict[str, Callable[[Expression, list[Done], list[str], Key], None]] = {
    "brief": _brief,
    "verify": _verify,
    "show-work": _show_work,
    "trace": _trace,
}
