"""The header of a safetensors file, read and checked without a tensor library.

A file is an 8-byte little-endian length, that many bytes of JSON (tensor name → dtype, shape, byte range), then the data.
(https://github.com/huggingface/safetensors, "Format")
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.errors import DamagedFileError, storage_error

MAX_HEADER_BYTES = 100_000_000
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_TODO = "Delete it and fetch the model again"


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file. start, end: bytes of its data, counted in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> tuple[TensorEntry, ...]:
    """The tensors of `path`, in the order of their data.

    Raises DamagedFileError when the header cannot be read or does not account for every byte of the file (the size of a cut or
    padded file differs from what its header says), StorageError when the file cannot be opened.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise DamagedFileError(path, f"a header of {length:,} bytes in a file of {size:,}", "a safetensors header", _TODO)
            raw = file.read(length)
    except OSError as error:
        raise storage_error(error, path, "read") from error
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"its header is no JSON: {error}", "a safetensors header", _TODO) from error
    return _checked(path, document, 8 + length, size)


def _checked(path: Path, document: Any, data_start: int, size: int) -> tuple[TensorEntry, ...]:
    if not isinstance(document, dict):
        raise DamagedFileError(path, "its header is no object", "a safetensors header", _TODO)
    entries = sorted(
        (_entry(path, name, about, data_start) for name, about in document.items() if name != "__metadata__"), key=lambda e: e.start
    )
    reached = data_start
    for entry in entries:
        bits = DTYPE_BITS.get(entry.dtype)
        if bits is not None and (entry.end - entry.start) * 8 != entry.elements * bits:
            raise DamagedFileError(path, f"tensor {entry.name}", f"{entry.elements * bits // 8:,} bytes for its shape", _TODO)
        if entry.start != reached:
            raise DamagedFileError(path, f"tensor {entry.name} starts at byte {entry.start:,}", f"byte {reached:,}", _TODO)
        reached = entry.end
    if reached != size:
        raise DamagedFileError(path, f"it has {size:,} bytes", f"{reached:,} bytes as its header says", _TODO)
    return tuple(entries)


def _entry(path: Path, name: str, about: Any, data_start: int) -> TensorEntry:
    try:
        start, end = about["data_offsets"]
        shape = tuple(int(side) for side in about["shape"])
        return TensorEntry(name, str(about["dtype"]), shape, data_start + int(start), data_start + int(end))
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedFileError(path, f"the entry of tensor {name}", "dtype, shape and data_offsets", _TODO) from error
