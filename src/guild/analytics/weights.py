"""The weights of a checkpoint folder, read a few megabytes at a time: no model is made and memory does not grow with it.

A safetensors file is a header (8 bytes of length, then JSON with dtype, shape and place of each tensor) and the bytes of the tensors, row
by row, little-endian. (Format: the safetensors project's README.) numpy knows no bfloat16: its 16 bits are the upper half of a float32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from modelwright.errors import DamagedFileError, MissingFileError, UsageError, storage_error
from modelwright.files import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]

CHUNK = 1 << 18
"""Numbers that are looked at together: 1 MiB of float32, which stays in a processor's cache."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""dtype → bytes of a number; other types are not weights that are trained."""
EMBEDDINGS, OTHER = -1, None
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|wpe|word_embeddings|embed_in|tok_embeddings)\.")


@dataclass(frozen=True)
class Tensor:
    """One tensor on disk. start: byte of its first number in `file`. size: numbers."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def trained(self) -> bool:
        """Whether it holds floating-point numbers that can be measured."""
        return self.dtype in BYTES


def layer_of(name: str) -> int | None:
    """The layer that a tensor belongs to: its number from 0, `EMBEDDINGS`, or `OTHER` (final norm, output head)."""
    match = _LAYER.search(name)
    if match:
        return int(match[1])
    return EMBEDDINGS if _EMBEDDING.search(name) else OTHER


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Name → tensor of the checkpoint in `folder`, one file or sharded, in the order of files and places.

    Raises MissingFileError when there are no safetensors, DamagedFileError for what is cut off or contradicts its index.
    """
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX)
        weight_map = listed.get("weight_map") if isinstance(listed, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise DamagedFileError(folder / INDEX, "it has no weight_map", "an object with weight_map: tensor → file")
        found: dict[str, Tensor] = {}
        for shard in sorted(set(weight_map.values())):
            found |= _header(folder / Path(shard).name)
        if missing := sorted(set(weight_map) - set(found)):
            raise DamagedFileError(folder / INDEX, f"{len(missing)} tensors stand in no file, first {missing[0]}", "every tensor it lists")
        return found
    if not (folder / SINGLE).is_file():
        raise MissingFileError(f"{folder} holds no weights as safetensors ({SINGLE} or {INDEX}).", folder / SINGLE)
    return _header(folder / SINGLE)


@contextmanager
def opened(tensors: Mapping[str, Tensor]) -> Iterator[Reader]:
    """A reader over the files of `tensors`, open until the end of the block."""
    with ExitStack() as stack:
        yield Reader({path: _open(stack, path) for path in sorted({tensor.file for tensor in tensors.values()})})


class Reader:
    """Reads tensors of open files into two buffers of its own: an array made anew for each chunk costs more in page faults than the sums
    that are taken over it."""

    def __init__(self, files: Mapping[Path, BinaryIO]) -> None:
        import numpy as np

        self._files = files
        self._raw = memoryview(bytearray(CHUNK * max(BYTES.values())))
        self._numbers = np.empty(CHUNK, np.float32)

    def chunks(self, tensor: Tensor) -> Iterator[Numbers]:
        """The numbers of a tensor in order, `CHUNK` at a time, each an array [<= CHUNK] of float32 (float64 for F64).

        An array is good until the next one, of whatever tensor, and may be overwritten. Raises StorageError, and UsageError for numbers
        that are no weights.
        """
        if not tensor.trained:
            raise UsageError(f"{tensor.file}: found numbers of type {tensor.dtype} in {tensor.name}; allowed: {', '.join(BYTES)}.")
        width, file = BYTES[tensor.dtype], self._files[tensor.file]
        for begin in range(0, tensor.size, CHUNK):
            count = min(CHUNK, tensor.size - begin)
            data = self._raw[: count * width]
            try:
                file.seek(tensor.start + begin * width)
                read = file.readinto(data)  # type: ignore[attr-defined]
            except OSError as error:
                raise storage_error(error, tensor.file, "read") from error
            if read != len(data):
                raise DamagedFileError(tensor.file, f"{tensor.name} is cut off", "as many bytes as its header says")
            yield as_numbers(data, tensor.dtype, self._numbers[:count])


def as_numbers(data: bytes | memoryview, dtype: str, target: Numbers) -> Numbers:
    """Little-endian bytes as float32, exactly, in `target` [numbers] of float32 for BF16 and F16; F32 and F64 stay where they are."""
    import numpy as np

    if dtype == "BF16":
        bits = target.view(np.uint32)
        bits[:] = np.frombuffer(data, dtype="<u2")
        bits <<= 16
        return target
    if dtype == "F16":
        target[:] = np.frombuffer(data, dtype="<f2")
        return target
    return np.frombuffer(data, dtype="<f8" if dtype == "F64" else "<f4")


def sum_of_squares(numbers: Numbers) -> float:
    """Σx²; in double precision where float32 would overflow, and inf or NaN only for numbers that are."""
    import numpy as np

    flat = numbers.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(np.dot(flat, flat))
        if not np.isfinite(found):
            wide = flat.astype(np.float64)
            found = float(np.dot(wide, wide))
    return found


def _open(stack: ExitStack, path: Path) -> BinaryIO:
    try:
        return stack.enter_context(open(path, "rb"))
    except OSError as error:
        raise storage_error(error, path, "read") from error


def _header(path: Path) -> dict[str, Tensor]:
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise DamagedFileError(path, f"{size} bytes do not hold its header", "a whole safetensors file")
            header = orjson.loads(file.read(length))
    except OSError as error:
        raise storage_error(error, path, "read") from error
    except orjson.JSONDecodeError as error:
        raise DamagedFileError(path, f"its header is no JSON ({error.msg})", "a whole safetensors file") from error
    found = {}
    try:
        for name, told in header.items():
            if name == "__metadata__":
                continue
            begin, end = told["data_offsets"]
            shape = tuple(int(length) for length in told["shape"])
            numbers = 1
            for extent in shape:
                numbers *= extent
            if (told["dtype"] in BYTES and numbers * BYTES[told["dtype"]] != end - begin) or 8 + length + end > size:
                raise DamagedFileError(path, f"{name} is cut off or of another size", "as many bytes as its header says")
            found[name] = Tensor(name, path, str(told["dtype"]), shape, 8 + length + begin, numbers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(path, f"its header cannot be read ({type(error).__name__})", "a whole safetensors file") from error
    return dict(sorted(found.items(), key=lambda entry: entry[1].start))
