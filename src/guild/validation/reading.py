"""Lines of a byte range of a file, in blocks, in constant memory.

A range owns the lines that begin in it; so ranges that cover a file share out its lines, each to exactly one, wherever they are cut. A
line above the limit is never held: its bytes are counted and dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 100_000_000
"""No line of a training file may be longer. (specs/guild.md 2.1.1)"""


@dataclass(frozen=True, slots=True)
class Overlong:
    """In the place of a line above the limit: how many bytes it has."""

    size: int


Line = bytes | Overlong


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines without their newlines, in file order. offset: the byte where the first of them begins."""

    offset: int
    lines: list[Line]


def read_blocks(
    path: str | PathLike[str],
    start: int = 0,
    end: int | None = None,
    *,
    block_bytes: int = BLOCK_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Block]:
    """The lines that begin in the bytes `start` to `end` (None: the end of the file); a last line without a newline counts.

    Holds at most one block and one line within the limit. Raises OSError.
    """
    with open(path, "rb", buffering=0) as file:
        begin = _line_start(file, start, end, block_bytes)
        if begin is not None:
            file.seek(begin)
            yield from _blocks(file, begin, end, block_bytes, max_line_bytes)


def _line_start(file: BinaryIO, start: int, end: int | None, block_bytes: int) -> int | None:
    """Where the first line that begins in the range begins; None when none does."""
    if start == 0:
        return 0
    position = start - 1
    file.seek(position)
    while end is None or position < end - 1:
        data = file.read(block_bytes)
        if not data:
            return None
        newline = data.find(b"\n")
        if newline >= 0:
            position += newline + 1
            return position if end is None or position < end else None
        position += len(data)
    return None


def _blocks(file: BinaryIO, begin: int, end: int | None, block_bytes: int, limit: int) -> Iterator[Block]:
    unfinished = _Unfinished(limit)
    first = position = begin
    while True:
        inside = end is None or position < end
        if not inside and not unfinished.size:
            return
        data = file.read(block_bytes if end is None or not inside else min(block_bytes, end - position))
        if not data:
            break
        position += len(data)
        # past the range only the unfinished line is read, to its end
        last = data.rfind(b"\n") if inside else data.find(b"\n")
        if last < 0:
            unfinished.add(data)
            continue
        lines: list[Line] = [*data[:last].split(b"\n")]
        if last > limit:
            lines = [line if len(line) <= limit else Overlong(len(line)) for line in data[:last].split(b"\n")]
        if unfinished.size:
            unfinished.add(data[: data.find(b"\n")])
            lines[0] = unfinished.take()
        yield Block(first, lines)
        if not inside:
            return
        unfinished.add(data[last + 1 :])
        first = position - unfinished.size
    if unfinished.size:
        yield Block(first, [unfinished.take()])


class _Unfinished:
    """A line that is not read to its end yet; above the limit only its size is kept."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._pieces: list[bytes] = []

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= self.limit:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def take(self) -> Line:
        """The line; nothing is unfinished afterwards."""
        line: Line = b"".join(self._pieces) if self.size <= self.limit else Overlong(self.size)
        self._pieces, self.size = [], 0
        return line
