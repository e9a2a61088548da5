"""How the text of one flag becomes its value: each rule gives the value or a fault, and never stops at the first. Pure.
(specs/autotune.md, 4)"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TypeVar

from macprovider.weights.candidates import normal_id, parse_size
from modelwright.errors import Fault, UsageError

T = TypeVar("T")
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
LARGEST = 2**31 - 1
"""The largest whole number that any flag takes."""
LONGEST_S = 604_800
"""The longest timeout of a single wait: a week, in seconds."""


class Faults(list[Fault]):
    """The faults of one command line, in the order they were met."""

    def add(self, flag: str, found: str, allowed: str, todo: str = "") -> None:
        """One more."""
        self.append(Fault(flag, found, allowed, todo))


def whole(faults: Faults, flag: str, text: str, least: int, greatest: int = LARGEST) -> int | None:
    """A whole number in a range; None with a fault otherwise."""
    value = int(text) if _WHOLE.fullmatch(text.strip()) else None
    if value is None or not least <= value <= greatest:
        bounded = greatest != LARGEST or (re.fullmatch(r"\s*\+?\d+\s*", text, re.ASCII) and int(text) > greatest)
        allowed = f"a whole number from {least} to {greatest}" if bounded else f"a whole number of at least {least}"
        faults.add(flag, repr(text), allowed)
        return None
    return value


def real(faults: Faults, flag: str, text: str, *, above: float | None = None, most: float = math.inf) -> float | None:
    """A finite number of at least 0, or above `above`; at most `most`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (above is not None and value <= above) or value > most:
        allowed = "a finite number, at least 0" if above is None else f"a finite number above {above:g}"
        faults.add(flag, repr(text), allowed if math.isinf(most) else f"{allowed} and at most {most:g}")
        return None
    return value


def size_b(faults: Faults, flag: str, text: str) -> float | None:
    """A model size in billions of parameters: `16B`, `16b`, `16`, `0.5B`."""
    try:
        return parse_size(text, flag)
    except UsageError:
        faults.add(flag, repr(text), "billions of parameters above 0, such as 16B, 16 or 0.5B")
        return None


def cells_of(faults: Faults, flag: str, text: str) -> list[str] | None:
    """The trimmed cells of a list with commas; None with a fault for an empty cell."""
    cells = [cell.strip() for cell in text.split(",")]
    if any(not cell for cell in cells):
        faults.add(flag, repr(text), "values with one comma between them", "Remove the empty cell")
        return None
    return cells


def models(faults: Faults, flag: str, text: str) -> tuple[str, ...] | None:
    """Model ids in their order, no two the same."""
    cells = cells_of(faults, flag, text)
    if cells is None:
        return None
    seen: dict[str, str] = {}
    for place, cell in enumerate(cells):
        if cell.startswith("-") or any(character.isspace() or not character.isprintable() for character in cell):
            faults.add(flag, repr(cell), "model ids such as owner/name, without spaces, not beginning with '-'")
            return None
        before = seen.setdefault(normal_id(cell), cell)
        if len(seen) <= place:
            found = f"{cell!r} twice" if before == cell else f"{before!r} and {cell!r}, which name one model"
            faults.add(flag, found, "each model once", "Remove the repeated one")
            return None
    return tuple(cells)


def kv_bits_axis(faults: Faults, flag: str, text: str) -> tuple[int | None, ...] | None:
    """`unset`, `4`, `8` in the operator's order, none twice."""
    cells = cells_of(faults, flag, text)
    if cells is None:
        return None
    known = {"unset": None, "4": 4, "8": 8}
    wrong = [cell for cell in cells if cell not in known]
    if wrong:
        faults.add(flag, ", ".join(map(repr, wrong)), "unset, 4 and 8")
        return None
    return _without_repeats(faults, flag, [known[cell] for cell in cells], cells)


def batch_axis(faults: Faults, flag: str, text: str) -> tuple[int, ...] | None:
    """Whole numbers of at least 1 in the operator's order, none twice."""
    values = _whole_cells(faults, flag, text)
    return None if values is None else _without_repeats(faults, flag, values, [str(value) for value in values])


def context_axis(faults: Faults, flag: str, text: str, target_context: int | None) -> tuple[int, ...] | None:
    """Absolute caps in tokens, none below the target context (unless that is itself unreadable: None), sorted; "" is none."""
    if not text.strip():
        return ()
    values = _whole_cells(faults, flag, text)
    if values is None or _without_repeats(faults, flag, values, [str(value) for value in values]) is None:
        return None
    below = [value for value in values if target_context is not None and value < target_context]
    if below:
        faults.add(
            flag, ", ".join(map(str, below)), f"caps of at least {target_context}, the --target-context",
            "These are whole caps, not additions",
        )  # fmt: skip
        return None
    return tuple(sorted(values))


def _whole_cells(faults: Faults, flag: str, text: str) -> list[int] | None:
    cells = cells_of(faults, flag, text)
    if cells is None:
        return None
    values = [whole(faults, flag, cell, 1) for cell in cells]
    return None if any(value is None for value in values) else [value for value in values if value is not None]


def _without_repeats(faults: Faults, flag: str, values: Sequence[T], words: Sequence[str]) -> tuple[T, ...] | None:
    repeated = sorted({word for value, word in zip(values, words, strict=True) if list(values).count(value) > 1})
    if repeated:
        faults.add(flag, f"{', '.join(repeated)} twice", "each value once")
        return None
    return tuple(values)
