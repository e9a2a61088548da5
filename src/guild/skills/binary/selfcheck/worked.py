"""The lines of working of one operation: each is recomputed by arithmetic on the whole operands, not by following the steps before."""

from __future__ import annotations

import re
from collections.abc import Callable

from guild.skills.binary.selfcheck.reading import Done, Key, UntrueError, number, signed_word

_SUM = re.compile(r"bit ([0-9]+): (\S) ([+-]) (\S) [+-] (carry|borrow) (\S) -> write (\S), (carry|borrow) (\S)")
_PRODUCT = re.compile(r"bit ([0-9]+): (-?[0-9]+) \* (-?[0-9]+) = (-?[0-9]+)")
_QUOTIENT = re.compile(r"bit ([0-9]+): ([0-9]+) (<|>=) ([0-9]+) -> write (\S)(?:, remainder ([0-9]+))?")
_MOVED = re.compile(r"bit ([0-9]+) -> bit ([0-9]+): (\S)")
_AGREE = re.compile(r"bit ([0-9]+): (\S) and (\S) (agree|differ)")
_HALVED = re.compile(r"bit ([0-9]+): ([0-9]+) / 2 = ([0-9]+), write (\S)")
_PLACE = re.compile(r"bit ([0-9]+): ([0-9]+)")
_NOTHING = "no bit is set"


def check_working(step: Done, lines: list[str], key: Key, *, most: int | None) -> None:
    """Check the lines of one operation; `most` of them at most, all when None. Raises UntrueError."""
    check, positions = _CHECKS[step.name], _POSITIONS[step.name](step)
    wanted = positions if most is None else positions[:most]
    if len(lines) != max(1, len(wanted)):
        raise UntrueError(f"{len(lines)} lines of working where {max(1, len(wanted))} belong")
    if not wanted:
        if lines != [_NOTHING]:
            raise UntrueError(f"{lines[0]!r} where {_NOTHING!r} belongs")
        return
    for position, line in zip(wanted, lines, strict=True):
        check(step, position, line, key)


def _long(value: int) -> int:
    return len(f"{abs(value):b}")


def _digit(key: Key, value: int) -> str:
    return key.one if value & 1 else key.zero


def _match(pattern: re.Pattern[str], line: str) -> re.Match[str]:
    found = pattern.fullmatch(line)
    if found is None:
        raise UntrueError(f"{line!r} is no line of this working")
    return found


def _require(holds: bool, line: str) -> None:
    if not holds:
        raise UntrueError(f"{line!r} is not true")


def _check_sum(step: Done, at: int, line: str, key: Key) -> None:
    found = _match(_SUM, line)
    first, second = step.values if len(step.values) == 2 else (step.values[0], 1)
    below, through = 1 << at, 2 << at
    if step.name in ("add", "add_signed", "increment"):
        into = first % below + second % below >= below
        out = first % through + second % through >= through
        result, mark, word = first + second, "+", "carry"
    else:
        into = first % below < second % below
        out = first % through < second % through
        result, mark, word = first - second, "-", "borrow"
    digits = [_digit(key, value) for value in (first >> at, second >> at, into, result >> at, out)]
    said = [found[2], found[4], found[6], found[7], found[9]]
    _require(int(found[1]) == at and said == digits and found[3] == mark and found[5] == found[8] == word, line)


def _check_product(step: Done, at: int, line: str, key: Key) -> None:
    found = _match(_PRODUCT, line)
    first, second = step.values
    place, factor, weight, product = map(int, found.groups())
    expected = -(1 << at) if step.width and at == step.width - 1 else 1 << at
    _require((place, factor, weight) == (at, first, expected) and product == factor * weight and bool(second >> at & 1), line)


def _check_quotient(step: Done, at: int, line: str, key: Key) -> None:
    found = _match(_QUOTIENT, line)
    dividend, divisor = step.values
    before = (dividend >> (at + 1)) % divisor * 2 + (dividend >> at & 1)
    goes = before >= divisor
    rest = str((dividend >> at) % divisor) if goes else None
    expected = (str(at), str(before), ">=" if goes else "<", str(divisor), _digit(key, goes), rest)
    _require(found.groups() == expected and goes == bool(step.result >> at & 1), line)


def _check_moved(step: Done, at: int, line: str, key: Key) -> None:
    value = step.values[0]
    if step.name == "divide_by_2" and at == 0:
        _require(line == f"bit 0 drops out: {_digit(key, value)}", line)
        return
    target = at + 1 if step.name == "multiply_by_2" else at - 1
    found = _match(_MOVED, line)
    same = (step.result >> target & 1) == (value >> at & 1)
    _require(found.groups() == (str(at), str(target), _digit(key, value >> at)) and same, line)


def _check_order(step: Done, at: int, line: str, key: Key) -> None:
    first, second = step.values
    if at < 0:
        _require(line == f"lengths: {_long(first)} and {_long(second)}", line)
        return
    x, y = _digit(key, first >> at), _digit(key, second >> at)
    found = _match(_AGREE, line)
    _require(found.groups() == (str(at), x, y, "agree" if x == y else "differ") and first >> (at + 1) == second >> (at + 1), line)


def _check_halved(step: Done, at: int, line: str, key: Key) -> None:
    left = step.values[0] >> at
    _require(_match(_HALVED, line).groups() == (str(at), str(left), str(left // 2), _digit(key, left)), line)


def _check_place(step: Done, at: int, line: str, key: Key) -> None:
    place, value = map(int, _match(_PLACE, line).groups())
    _require(place == at and value == 2**at and bool(step.values[0] // value % 2), line)


def _check_negated(step: Done, at: int, line: str, key: Key) -> None:
    value, width = step.values[0], step.width
    if at == 0:
        _require(line == f"first bit {key.one}: negate", line)
        return
    label, _, digits = line.partition(": ")
    expected = {1: ("invert", -1 - value), 2: ("add one", -value)}[at]
    fitted = number(digits, key, width)
    _require((label, fitted % (1 << width)) == (expected[0], expected[1] % (1 << width)), line)


def _check_kept(step: Done, at: int, line: str, key: Key) -> None:
    if step.values[0] < 0:
        _check_negated(step, at, line, key)
    else:
        _require(line == f"first bit {key.zero}: keep", line)


def _check_sign(step: Done, at: int, line: str, key: Key) -> None:
    value = step.values[0]
    set_bits = "some bit is set" if value else _NOTHING
    start = f"first bit {key.one}" if value < 0 else f"first bit {key.zero}, {set_bits}"
    _require(line == f"{start}: {signed_word(value)}", line)


def _sum_positions(step: Done) -> list[int]:
    return list(range(step.width or max(map(_long, step.values))))


def _set_bits(step: Done) -> list[int]:
    value = step.values[-1] % (1 << step.width) if step.width else step.values[-1]
    return [at for at in range(value.bit_length()) if value >> at & 1]


def _order_positions(step: Done) -> list[int]:
    first, second = step.values
    length = _long(first)
    if length != _long(second):
        return [-1]
    differing = [at for at in range(length - 1, -1, -1) if (first ^ second) >> at & 1]
    return [-1, *range(length - 1, (differing[0] if differing else 0) - 1, -1)]


def _subtract_positions(step: Done) -> list[int]:
    return list(range(step.width or _long(step.values[0])))


def _from_first(step: Done) -> list[int]:
    return list(range(_long(step.values[0])))


_Check = Callable[[Done, int, str, Key], None]
_ALL: dict[str, tuple[_Check, Callable[[Done], list[int]]]] = {
    **dict.fromkeys(("add", "add_signed", "increment"), (_check_sum, _sum_positions)),
    **dict.fromkeys(("subtract", "subtract_signed", "decrement"), (_check_sum, _subtract_positions)),
    **dict.fromkeys(("multiply", "multiply_signed"), (_check_product, _set_bits)),
    "divide": (_check_quotient, lambda step: list(range(_long(step.values[0]) - 1, -1, -1))),
    **dict.fromkeys(("multiply_by_2", "divide_by_2"), (_check_moved, _from_first)),
    **dict.fromkeys(("equals", "lessthan", "greaterthan", "minimum", "maximum"), (_check_order, _order_positions)),
    "tobinary": (_check_halved, _from_first),
    "todecimal": (_check_place, _set_bits),
    "negate": (_check_negated, lambda step: [1, 2]),
    "absolute_value": (_check_kept, lambda step: [0, 1, 2] if step.values[0] < 0 else [0]),
    "sign_of": (_check_sign, lambda step: [0]),
}
_CHECKS = {name: check for name, (check, _) in _ALL.items()}
_POSITIONS = {name: positions for name, (_, positions) in _ALL.items()}
