"""The header reader against files that safetensors writes, and against every kind of damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from macprovider.weights.safetensors_header import read_header
from modelwright.errors import DamagedFileError, MissingFileError
from modelwright.tiny import tiny_model_path


def test_it_reads_what_safetensors_writes(tmp_path: Path) -> None:
    arrays = {"a": numpy.ones((3, 4), numpy.float32), "b": numpy.ones((5,), numpy.int8), "empty": numpy.ones((0, 2), numpy.float16)}
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = {entry.name: entry for entry in read_header(tmp_path / "x.safetensors")}
    assert {name: entry.shape for name, entry in found.items()} == {name: array.shape for name, array in arrays.items()}
    assert {name: entry.end - entry.start for name, entry in found.items()} == {name: array.nbytes for name, array in arrays.items()}
    assert (tmp_path / "x.safetensors").read_bytes()[found["b"].start : found["b"].end] == arrays["b"].tobytes()


def test_it_agrees_with_the_library_on_a_packaged_model() -> None:
    path = tiny_model_path("tiny-0.4m") / "model.safetensors"
    with safe_open(path, "np") as file:
        assert {entry.name: list(entry.shape) for entry in read_header(path)} == {
            name: file.get_slice(name).get_shape()
            for name in file.keys()  # noqa: SIM118 - no mapping
        }


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


GOOD = {"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}


def test_a_hand_written_file_is_fine(tmp_path: Path) -> None:
    assert read_header(written(tmp_path / "x", GOOD, b"1234"))[0].shape == (4,)


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (GOOD, b"123", None),
        (GOOD, b"12345", None),
        (GOOD, b"1234", 10**12),
        (GOOD, b"1234", 5),
        (b"{}{}", b"", None),
        (b"[1]", b"", None),
        (b"\xff\xfe", b"", None),
        (b"[" * 100_000, b"", None),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}, b"1234", None),
        ({"w": {"dtype": "U8", "shape": [4]}}, b"1234", None),
        ({"w": 3}, b"", None),
        ({"w": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}, b"1234", None),
        ({"w": {"dtype": "U8", "shape": "x", "data_offsets": [0, 4]}}, b"1234", None),
    ],
)
def test_damage_is_named(tmp_path: Path, header: Any, data: bytes, length: int | None) -> None:
    with pytest.raises(DamagedFileError, match="is damaged"):
        read_header(written(tmp_path / "x.safetensors", header, data, length))


@pytest.mark.parametrize("content", [b"", b"1234", b"\x02\0\0\0\0\0\0\0"])
def test_a_file_too_short_for_a_header_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DamagedFileError):
        read_header(tmp_path / "x")


def test_every_cut_of_a_file_is_found(tmp_path: Path) -> None:
    whole = written(tmp_path / "x", GOOD, b"1234").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(DamagedFileError):
            read_header(tmp_path / "x")


def test_a_file_that_is_not_there_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_header(tmp_path / "x")
