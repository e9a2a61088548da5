"""The seven auxiliary tasks; each reply is one line, `Answer: …`, and never stands in its prompt. (specs/guild.md 6.1)

- error_detection: a statement, true or wrong in one bit; the answer is the right result, or "no error"
- fill_blank: some neighbouring digits of a result are missing; the answer is those digits
- true_false: a statement, true or wrong in one bit
- comparison: two expressions; the answer is which one is greater: first, second or equal
- properties: parity, length in digits, number of one bits, power of two
- overflow: whether a signed result leaves its width
- reverse: an operand is missing; the answer is that operand
"""

from __future__ import annotations

from collections.abc import Sequence

from guild.skills.binary.expressions import Call, Step, steps
from guild.skills.binary.forms import Problem, argument_text, expression_text, result_text
from guild.skills.binary.operations import OPERATIONS, QUESTIONS, fits, overflow_question
from guild.skills.binary.templates import Template, comparisons, single

TASKS = ("error_detection", "fill_blank", "true_false", "comparison", "properties", "overflow", "reverse")
BLANK = "_"
UNKNOWN = "?"
MOST_BLANKS = 4
NO_ERROR = "no error"
REVERSIBLE = ("add", "subtract", "increment", "decrement", "multiply_by_2")
"""Operations whose operand follows from the result and the other operand."""
_IN_BITS = ("bits", "signed", "product")


def task_templates(task: str, allowed: Sequence[str]) -> list[Template]:
    """The shapes of problems that a task asks about, among the allowed operations."""
    operations = [OPERATIONS[name] for name in allowed]
    if task == "comparison":
        return comparisons(allowed)
    if task == "properties":
        return [single(QUESTIONS[name]) for name in ("parity", "length", "ones", "power_of_two")]
    if task == "overflow":
        return [single(overflow_question(name)) for name in ("add_signed", "subtract_signed") if name in allowed]
    if task == "reverse":
        return [single(operation) for operation in operations if operation.name in REVERSIBLE]
    return [single(operation) for operation in operations if operation.result in _IN_BITS]


def task_prompt(problem: Problem) -> str:
    """The prompt without the key."""
    call, notation = problem.call, problem.notation
    whole = expression_text(call, notation, with_width=True)
    if problem.form == "comparison":
        first, second = [expression_text(inner, notation) for inner in call.arguments if isinstance(inner, Call)]
        return f"Which is greater: {first} or {second}"
    if problem.form == "properties":
        return f"Property: {whole}"
    if problem.form == "overflow":
        return f"Overflow: {whole}"
    last = steps(call)[-1]
    if problem.form == "error_detection":
        return f"Find the error: {whole} = {_shown(problem, last)}"
    if problem.form == "true_false":
        return f"True or False: {whole} = {_shown(problem, last)}"
    if problem.form == "fill_blank":
        text = result_text(last, notation)
        start, count = _blanks(problem.twist, len(text))
        return f"Fill the blank: {whole} = {text[:start]}{BLANK * count}{text[start + count :]}"
    return f"Find the operand: {_with_unknown(problem)} = {result_text(last, notation)}"


def task_answer(problem: Problem) -> str:
    """The golden answer: `Answer: …`."""
    return f"Answer: {_answer(problem, steps(problem.call)[-1])}"


def _answer(problem: Problem, last: Step) -> str:
    notation = problem.notation
    result = result_text(last, notation)
    if problem.form == "error_detection":
        return result if _is_wrong(problem) else NO_ERROR
    if problem.form == "true_false":
        return str(not _is_wrong(problem))
    if problem.form == "fill_blank":
        start, count = _blanks(problem.twist, len(result))
        return result[start : start + count]
    if problem.form == "overflow":
        return str(not fits(last.result, last.width))
    if problem.form == "reverse":
        return argument_text(problem.call.arguments[_unknown_place(problem)], problem.call, notation)
    return result


def _is_wrong(problem: Problem) -> bool:
    return bool(problem.twist & 1)


def _shown(problem: Problem, last: Step) -> str:
    """The result that the prompt claims: the true one, or one with a flipped bit."""
    if not _is_wrong(problem):
        return result_text(last, problem.notation)
    width = {"bits": max(1, last.result.bit_length()), "signed": last.width, "product": 2 * last.width}[last.operation.result]
    return result_text(last, problem.notation, last.result ^ 1 << (problem.twist >> 1) % width)


def _blanks(twist: int, length: int) -> tuple[int, int]:
    """(start, count) of the missing digits."""
    count = 1 + twist % min(MOST_BLANKS, length)
    return (twist >> 3) % (length - count + 1), count


def _unknown_place(problem: Problem) -> int:
    return problem.twist % len(problem.call.arguments)


def _with_unknown(problem: Problem) -> str:
    call, notation = problem.call, problem.notation
    place = _unknown_place(problem)
    parts = [UNKNOWN if at == place else argument_text(argument, call, notation) for at, argument in enumerate(call.arguments)]
    return f"{notation.name(call.operation.name)}({', '.join(parts)})"


def used_names(problem_call: Call) -> list[str]:
    """The operations that a prompt names, which a key must hold. The comparison itself is asked in words."""
    names = [] if problem_call.operation.name == "compare" else [problem_call.operation.name]
    return names + [inner.operation.name for inner in problem_call.arguments if isinstance(inner, Call)]
