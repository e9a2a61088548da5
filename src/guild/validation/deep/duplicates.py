"""Rows that stand in a file more than once, counted in bounded memory. (specs/guild.md 5.2)

Two rows are the same when their roles and texts are; what their metadata says does not count.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from sys import byteorder

import orjson

from guild.validation.deep.views import RowView

CAPACITY = 1 << 20
"""Different rows that are remembered, at about 110 bytes each."""
_ALL = 1 << 64


def digest(view: RowView) -> int:
    """64 bits that stand for a row's roles and texts: among a million rows two different ones meet with a chance of 3 in 10^8."""
    texts = orjson.dumps([view.roles, view.contents or view.replies])
    return int.from_bytes(blake2b(texts, digest_size=8).digest(), byteorder)


@dataclass(frozen=True)
class DuplicateCount:
    """repeated: rows that stand in the file before, of `rows` looked at. sampled: the share of all different rows that was looked at,
    1.0 when it was all of them."""

    rows: int
    repeated: int
    sampled: float

    @property
    def share(self) -> float:
        """Repeated rows of those looked at."""
        return self.repeated / self.rows if self.rows else 0.0


class DuplicateCounter:
    """Counts digests in file order; what it says depends on that order only.

    Exact while there are at most `capacity` different rows. Beyond, only digests below a threshold are kept, which halves whenever they
    are too many: an even sample of the different rows with all their repetitions.
    """

    def __init__(self, capacity: int = CAPACITY, examples: int = 5) -> None:
        self.examples: list[tuple[int, int]] = []
        """The first repetitions: (line, line of the same row before)."""
        self._capacity, self._wanted = capacity, examples
        self._threshold = _ALL
        self._first: dict[int, int] = {}
        self._repeated: dict[int, int] = {}

    def add(self, digests: array[int], lines: Iterable[int]) -> None:
        """Rows by their digests and the numbers of their lines in the file."""
        first, capacity = self._first, self._capacity
        for value, line in zip(digests, lines, strict=True):
            if value >= self._threshold:
                continue
            before = first.setdefault(value, line)
            if before != line:
                self._repeated[value] = self._repeated.get(value, 0) + 1
                if len(self.examples) < self._wanted:
                    self.examples.append((line, before))
            elif len(first) > capacity:
                self._thin_out()

    def count(self) -> DuplicateCount:
        """What was found so far."""
        repeated = sum(self._repeated.values())
        return DuplicateCount(len(self._first) + repeated, repeated, self._threshold / _ALL)

    def _thin_out(self) -> None:
        while len(self._first) > self._capacity:
            self._threshold //= 2
            for kept in (self._first, self._repeated):
                for value in [value for value in kept if value >= self._threshold]:
                    del kept[value]
