"""Expression trees, the steps of their evaluation and their canonical text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Union

from guild.skills.binary.operations import Operation
from guild.skills.contract import held_out

Argument = Union[int, "Call"]


class Call(NamedTuple):
    """One call. arguments: numbers or inner calls. width: bits of the operands of a signed operation, else 0."""

    operation: Operation
    arguments: tuple[Argument, ...]
    width: int = 0

    @property
    def nested(self) -> bool:
        """Whether an argument is a call: a chain."""
        arguments = self.arguments
        return type(arguments[0]) is Call or type(arguments[-1]) is Call


class Step(NamedTuple):
    """One call with the values of its arguments."""

    operation: Operation
    values: tuple[int, ...]
    width: int
    result: int


def steps(call: Call) -> list[Step]:
    """The evaluation, innermost first; the last step is the whole expression."""
    done: list[Step] = []
    _evaluate(call, done)
    return done


def _evaluate(call: Call, done: list[Step]) -> int:
    values = tuple(_evaluate(argument, done) if type(argument) is Call else argument for argument in call.arguments)  # type: ignore[misc]
    result = call.operation.compute(*values)
    done.append(Step(call.operation, values, call.width, result))  # type: ignore[arg-type]
    return result


def canonical(call: Call) -> str:
    """What makes two problems the same: expression and operands in decimal, `add_signed:4(-5,3)`, whatever form and symbols they wear."""
    width = f":{call.width}" if call.width else ""
    inside = ",".join([canonical(argument) if type(argument) is Call else str(argument) for argument in call.arguments])
    return f"{call.operation.name}{width}({inside})"


def texts(call: Call) -> Iterator[str]:
    """The canonical text of the whole, then, for a chain, that of each step with its values: the problems that its reply solves."""
    yield canonical(call)
    if call.nested:
        for step in steps(call):
            yield canonical(Call(step.operation, step.values, step.width))


def is_training(call: Call) -> bool:
    """Whether training may show it: neither the problem nor any step of it is held out."""
    return not any(held_out(text) for text in texts(call))


def is_evaluation(call: Call) -> bool:
    """Whether the problem itself is held out."""
    return held_out(canonical(call))
