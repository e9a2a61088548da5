"""Which models are tried, and what their names say about their size. (spec 4, 5.5; D8, D12)

Sizes are read from names on purpose: the order of a list must be known before anything is fetched.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelwright.errors import UsageError

ENGINES = ("transformers", "openvino", "llamacpp", "vllm", "mlx")
"""The engines that have a list."""
FULL_BITS = 16
"""Bits of one parameter when a name does not say."""

_PARAMETERS = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)([BbMm])(?![A-Za-z])")
_BITS = re.compile(r"(?<![\d.])(\d+)-?bit(?![A-Za-z])", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)[Bb]?")
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True)
class Candidate:
    """A model of a built-in list. params_b: parameters in billions. bits: of one parameter. weights_gb: GB (10^9 bytes) to fetch."""

    id: str
    params_b: float
    bits: int
    weights_gb: float


_MLX = (
    Candidate("mlx-community/Qwen2.5-32B-Instruct-4bit", 32, 4, 17),
    Candidate("mlx-community/Qwen2.5-14B-Instruct-4bit", 14, 4, 8),
    Candidate("mlx-community/Qwen2.5-Coder-7B-Instruct-4bit", 7, 4, 4),
    Candidate("mlx-community/Llama-3.2-3B-Instruct-4bit", 3, 4, 1.8),
    Candidate("mlx-community/Llama-3.2-1B-Instruct-4bit", 1, 4, 0.7),
)
_OFFICIAL = (
    Candidate("Qwen/Qwen2.5-32B-Instruct", 32, 16, 65.5),
    Candidate("Qwen/Qwen2.5-14B-Instruct", 14, 16, 29.5),
    Candidate("Qwen/Qwen2.5-Coder-7B-Instruct", 7, 16, 15.2),
    Candidate("meta-llama/Llama-3.2-3B-Instruct", 3, 16, 6.4),
    Candidate("meta-llama/Llama-3.2-1B-Instruct", 1, 16, 2.5),
)
# OpenVINO's reader of GGUF leaves the scaled positions of Llama 3.2 out, so its two smallest are Qwen's.
_WITHOUT_SCALED_POSITIONS = (
    *_OFFICIAL[:3],
    Candidate("Qwen/Qwen2.5-3B-Instruct", 3, 16, 6.2),
    Candidate("Qwen/Qwen2.5-1.5B-Instruct", 1.5, 16, 3.1),
)


def built_in(engine: str) -> tuple[Candidate, ...]:
    """The built-in list of `engine`, largest first: five sizes, the same for every engine.

    mlx reads 4-bit repositories of its own. The other engines read the official weights: transformers and vllm as they are,
    llamacpp and openvino through `macprovider-cli models export-gguf`. Raises UsageError for an unknown engine.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine: found {engine!r}; allowed: {', '.join(ENGINES)}.")
    return {"mlx": _MLX, "openvino": _WITHOUT_SCALED_POSITIONS}.get(engine, _OFFICIAL)


def in_size_range(
    candidates: Iterable[Candidate], *, largest_b: float | None = None, smallest_b: float | None = None
) -> tuple[Candidate, ...]:
    """The candidates of at most `largest_b` and at least `smallest_b` billion parameters, order kept."""
    return tuple(
        candidate
        for candidate in candidates
        if (largest_b is None or candidate.params_b <= largest_b) and (smallest_b is None or candidate.params_b >= smallest_b)
    )


def parse_size(text: str, flag: str = "size") -> float:
    """Billions of parameters from `16B`, `16b`, `16` or `0.5B`. Raises UsageError, naming `flag`, for anything else and for 0."""
    match = _SIZE.fullmatch(text.strip()) if text.isascii() else None
    size = float(match[1]) if match else 0.0
    if not 0 < size < math.inf:
        raise UsageError(f"{flag}: found {text!r}; allowed: billions of parameters above 0, such as 16B, 16 or 0.5B.")
    return size


def normal_id(model_id: str) -> str:
    """The form in which two ids are compared: Unicode NFC, then ASCII letters in lower case. (spec 2)"""
    return unicodedata.normalize("NFC", model_id).translate(_ASCII_LOWER)


def same_id(one: str, other: str) -> bool:
    """Whether two ids name the same model."""
    return normal_id(one) == normal_id(other)


def parameters_b(model_id: str) -> float | None:
    """Billions of parameters that the last path segment of `model_id` names (`7B`, `0.5b`, `135M`), or None."""
    match = _PARAMETERS.search(_last_segment(model_id))
    if match is None:
        return None
    number = float(match[1]) * (1.0 if match[2] in "Bb" else 1e-3)
    return number or None


def named_bits(model_id: str) -> int:
    """Bits of one parameter that the last path segment names (`4bit`), 16 when it names none."""
    match = _BITS.search(_last_segment(model_id))
    return int(match[1]) if match and int(match[1]) else FULL_BITS


def weight_footprint(model_id: str) -> float | None:
    """Bytes of the weights as the name has it: parameters x bits / 8; None when it names no number of parameters. (D12)"""
    parameters = parameters_b(model_id)
    return None if parameters is None else parameters * 1e9 * named_bits(model_id) / 8


def size_order(ids: Sequence[str]) -> tuple[int, ...]:
    """Positions of `ids`, the smallest model first. (5.5, D12)

    A model without a readable size counts as smaller than every earlier one and larger than every later one, which always
    holds; it therefore parts the list, and footprints order the models between two such. Equal ones: the later first.
    """
    footprints = [weight_footprint(model_id) for model_id in ids]
    ordered: list[int] = []
    readable: list[int] = []
    for position in reversed(range(len(ids))):
        if footprints[position] is not None:
            readable.append(position)
            continue
        ordered += [*_by_footprint(readable, footprints), position]
        readable = []
    return tuple(ordered + _by_footprint(readable, footprints))


def smaller_than(ids: Sequence[str], chosen: int) -> tuple[int, ...]:
    """Positions after `chosen` whose models count as smaller than it: the alternates. (spec 2, 5.5)"""
    limit = weight_footprint(ids[chosen])
    found = []
    for position in range(chosen + 1, len(ids)):
        footprint = weight_footprint(ids[position])
        if limit is None or footprint is None or footprint < limit:
            found.append(position)
    return tuple(found)


def _by_footprint(positions: Iterable[int], footprints: Sequence[float | None]) -> list[int]:
    return sorted(positions, key=lambda position: footprints[position] or 0.0)


def _last_segment(model_id: str) -> str:
    return model_id.rstrip("/").rpartition("/")[2]
