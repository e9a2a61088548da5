"""Every line is read once, whole, wherever the file is cut; a huge one is counted and never held."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from guild.validation.reading import Overlong, read_blocks

LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=12)


def lines_of(path: Path, start: int, end: int | None, block: int, limit: int) -> list[bytes | Overlong]:
    return [line for part in read_blocks(path, start, end, block_bytes=block, max_line_bytes=limit) for line in part.lines]


@settings(max_examples=300, deadline=None)
@given(lines=LINES, ended=st.booleans(), step=st.integers(1, 40), block=st.integers(1, 30), limit=st.integers(1, 14))
def test_any_cut_into_ranges_and_blocks_gives_the_same_lines(
    tmp_path_factory, lines: list[bytes], ended: bool, step: int, block: int, limit: int
) -> None:
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(data)
    expected = data.split(b"\n")[:-1] if data.endswith(b"\n") or not data else data.split(b"\n")
    told = [line if len(line) <= limit else Overlong(len(line)) for line in expected]
    assert lines_of(path, 0, None, block, limit) == told
    cut = [line for start in range(0, len(data), step) for line in lines_of(path, start, min(start + step, len(data)), block, limit)]
    assert cut == told


@settings(max_examples=100, deadline=None)
@given(lines=LINES, block=st.integers(1, 30))
def test_a_block_says_where_its_first_line_begins(tmp_path_factory, lines: list[bytes], block: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    path = tmp_path_factory.getbasetemp() / "offsets.jsonl"
    path.write_bytes(data)
    for part in read_blocks(path, block_bytes=block):
        first = part.lines[0]
        assert isinstance(first, bytes)
        assert data[part.offset : part.offset + len(first) + 1] == first + b"\n"
        assert part.offset == 0 or data[part.offset - 1 : part.offset] == b"\n"


def test_a_line_above_the_limit_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + b"x" * 40_000_000 + b'\n{"text": "behind"}\n')
    tracemalloc.start()
    lines = lines_of(path, 0, None, 1 << 20, 2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lines == [b'{"text": "before"}', Overlong(40_000_000), b'{"text": "behind"}']
    assert peak < 8_000_000
