"""Shapes of problems: one operation, with a number or a call for each argument; drawing one at random, listing all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random
from typing import NamedTuple

from guild.skills.binary.expressions import Argument, Call
from guild.skills.binary.operations import OPERATIONS, QUESTIONS, Difficulty, Operation
from guild.skills.contract import held_out

SHORT_SHARE = 0.5
"""Share of numbers whose length is drawn first; the others are even over all values, so nearly all of them are long."""
PAIRED_INNER = ("add", "subtract")
"""Inner operations of expressions with two inner calls."""
PAIRED_OUTER = ("add", "subtract", "minimum", "maximum", "lessthan", "greaterthan")


class Template(NamedTuple):
    """inners: for each argument the operation of its call, None for a number."""

    operation: Operation
    inners: tuple[Operation | None, ...]

    @property
    def chain(self) -> bool:
        """Whether an argument is a call."""
        return any(self.inners)

    @property
    def difficulty(self) -> Difficulty:
        """A chain is hard with one inner call and expert with two, else the operation decides."""
        inner = sum(1 for operation in self.inners if operation)
        if self.operation.name == "compare":
            return self.operation.difficulty
        return "expert" if inner == 2 else "hard" if inner else self.operation.difficulty

    def names(self) -> tuple[str, ...]:
        """The names of its operations, outer first."""
        return (self.operation.name, *(operation.name for operation in self.inners if operation))


def single(operation: Operation) -> Template:
    """An operation over numbers."""
    return Template(operation, (None,) * operation.arity)


def chains(allowed: Sequence[str]) -> list[Template]:
    """Every chain of the allowed operations: one inner call in any place, or two. Signed calls are not nested."""
    operations = [OPERATIONS[name] for name in allowed if not OPERATIONS[name].signed]
    made: list[Template] = []
    for outer in operations:
        if outer.literal == "decimal":
            continue
        for inner in operations:
            if inner.inner:
                places = range(outer.arity)
                made += [Template(outer, tuple(inner if at == place else None for at in range(outer.arity))) for place in places]
        if outer.name in PAIRED_OUTER:
            paired = [operation for operation in operations if operation.name in PAIRED_INNER]
            made += [Template(outer, pair) for pair in product(paired, paired)]
    return made


def comparisons(allowed: Sequence[str]) -> list[Template]:
    """Which of two calls gives the greater value."""
    inner = [OPERATIONS[name] for name in allowed if OPERATIONS[name].inner and OPERATIONS[name].place in ("add", "subtract")]
    return [Template(QUESTIONS["compare"], pair) for pair in product(inner, inner)]


def draw(template: Template, rng: Random, bits: int) -> Call:
    """A problem with operands, inner results included, of at most `bits` bits, defined at every step."""
    operation = template.operation
    if operation.signed:
        return _draw_signed(operation, rng, bits)
    limit = 1 << bits
    while True:
        if not template.chain:
            values = _numbers(operation, rng, limit)
            arguments: tuple[Argument, ...] = values
        else:
            arguments, values = _with_calls(template, rng, limit)
        if operation.defined(0, *values):
            return Call(operation, arguments)


def _with_calls(template: Template, rng: Random, limit: int) -> tuple[tuple[Argument, ...], tuple[int, ...]]:
    arguments: list[Argument | None] = []
    values: list[int] = []
    for inner in template.inners:
        if inner is None:
            arguments.append(None)
            values.append(-1)
        else:
            numbers = _inner_numbers(inner, rng, limit)
            arguments.append(Call(inner, numbers))
            values.append(inner.compute(*numbers))
    if None in arguments:
        place = arguments.index(None)
        number = _beside(template.operation.name, place, values[1 - place] if len(values) == 2 else 0, rng, limit)
        arguments[place] = values[place] = number
    return tuple(arguments), tuple(values)  # type: ignore[arg-type]


def _beside(name: str, place: int, other: int, rng: Random, limit: int) -> int:
    """A number beside an inner call of value `other`, so that the outer call is defined."""
    if name == "subtract":
        return other + _number(rng, limit - other) if place == 0 else _number(rng, other + 1)
    return 1 + _number(rng, limit - 1) if name == "divide" and place == 1 else _number(rng, limit)


def _numbers(operation: Operation, rng: Random, limit: int) -> tuple[int, ...]:
    """Numbers for an unsigned operation; equality is drawn as often as difference."""
    first = _number(rng, limit)
    if operation.arity == 1:
        return (first,)
    name = operation.name
    if name == "divide":
        return first, 1 + _number(rng, limit - 1)
    if name == "equals" and rng.random() < 0.5:
        return first, first
    second = _number(rng, limit)
    if name == "subtract" and second > first:
        return second, first
    return first, second


def _inner_numbers(operation: Operation, rng: Random, limit: int) -> tuple[int, ...]:
    """Numbers for an inner call whose result is below the limit."""
    name = operation.name
    if name == "add":
        total = _number(rng, limit)
        first = _number(rng, total + 1)
        return first, total - first
    if name == "multiply":
        first = _number(rng, limit)
        return first, _number(rng, (limit - 1) // max(1, first) + 1)
    if name == "multiply_by_2":
        return (_number(rng, limit // 2),)
    if name == "increment":
        return (_number(rng, limit - 1),)
    if name == "decrement":
        return (1 + _number(rng, limit - 1),)
    return _numbers(operation, rng, limit)


def _number(rng: Random, below: int) -> int:
    """A number from 0 to `below` - 1."""
    if rng.random() < SHORT_SHARE:
        below = min(below, 1 << (1 + int(rng.random() * max(1, (below - 1).bit_length()))))
    return int(rng.random() * below)


def _draw_signed(operation: Operation, rng: Random, bits: int) -> Call:
    width = bits if rng.random() >= SHORT_SHARE else 2 + int(rng.random() * (bits - 1))
    half = 1 << (width - 1)
    while True:
        values = tuple([int(rng.random() * 2 * half) - half for _ in range(operation.arity)])
        if operation.defined(width, *values):
            return Call(operation, values, width)


def listed(template: Template, bits: int, *, evaluation: bool) -> Iterator[Call]:
    """Every problem that `draw` can give and that belongs to training, or to evaluation, in a fixed order."""
    if template.operation.signed:
        yield from _listed_signed(template.operation, bits, evaluation)
        return
    operation, limit = template.operation, 1 << bits
    columns = [_column(inner, limit, evaluation) for inner in template.inners]
    known: dict[tuple[int, ...], bool] = {}
    for row in product(*columns):
        values = tuple([entry[1] for entry in row])
        if not operation.defined(0, *values):
            continue
        held = known.get(values)
        if held is None:
            held = known[values] = held_out(f"{operation.name}({','.join(map(str, values))})")
        if template.chain:
            if held and not evaluation:
                continue
            held = held_out(f"{operation.name}({','.join([entry[2] for entry in row])})")
        if held == evaluation:
            yield Call(operation, tuple([entry[0] for entry in row]))


def _column(inner: Operation | None, limit: int, evaluation: bool) -> list[tuple[Argument, int, str]]:
    """What may stand in one place: (argument, value, canonical text). In training no inner call is held out."""
    if inner is None:
        return [(value, value, str(value)) for value in range(limit)]
    column: list[tuple[Argument, int, str]] = []
    for numbers in product(range(limit), repeat=inner.arity):
        if inner.defined(0, *numbers) and (value := inner.compute(*numbers)) < limit:
            text = f"{inner.name}({','.join(map(str, numbers))})"
            if evaluation or not held_out(text):
                column.append((Call(inner, numbers), value, text))
    return column


def _listed_signed(operation: Operation, bits: int, evaluation: bool) -> Iterator[Call]:
    for width in range(2, bits + 1):
        half = 1 << (width - 1)
        for values in product(range(-half, half), repeat=operation.arity):
            text = f"{operation.name}:{width}({','.join(map(str, values))})"
            if operation.defined(width, *values) and held_out(text) == evaluation:
                yield Call(operation, values, width)


def at_least(template: Template, bits: int) -> int:
    """A lower bound of how many problems the template has, held out or not, found without listing them."""
    values = 1 << bits
    if not template.chain:
        return values - 1 if template.operation.arity == 1 else values * values // 2
    inner = 1
    for operation in template.inners:
        if operation is not None:
            pairs = 2 * values if operation.name == "multiply" else values * values // 2
            inner *= pairs if operation.arity == 2 else values // 2
    if all(template.inners):
        return max(1, inner // 16) if template.operation.arity == 2 else max(1, inner // 4)
    if template.operation.name == "subtract":
        return inner
    return max(1, inner // 4) * (values - 1)
