"""What llama-server tells in its log alone: the types and the size of its cache, and the device it computes on. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from macprovider.engines.base import EngineError

BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}
"""Of one value: blocks of 32 share a scale of two bytes, those ending in _1 a smallest value of two bytes as well."""
_CACHE = re.compile(r"size =\s*([\d.]+) MiB \(\s*\d+ cells,.*?K \((\w+)\):\s*[\d.]+ MiB, V \((\w+)\):\s*[\d.]+ MiB")
_ROTATED = re.compile(r"attn_rot_([kv]) = (\d)")
_DEVICE = re.compile(r"using device (\S+) \(([^)]*)\)")


@dataclass(frozen=True)
class CacheInLog:
    """mebibytes: of keys and values of all layers and slots. rotated: whether both are rotated by a Hadamard matrix before they are
    rounded, None where this version does not tell."""

    keys: str
    values: str
    mebibytes: float
    rotated: bool | None

    @property
    def bytes_per_value(self) -> float:
        return (BYTES[self.keys] + BYTES[self.values]) / 2


def cache_in(log: str) -> CacheInLog:
    """The cache. Raises EngineError where the log does not tell it."""
    found = _CACHE.findall(log)
    if not found or {kind for _, *kinds in found for kind in kinds} - set(BYTES):
        raise EngineError("llamacpp: llama-server's log does not tell the type of its cache; install a current llama.cpp.")
    rotated = [value == "1" for _, value in _ROTATED.findall(log)]
    return CacheInLog(found[0][1], found[0][2], sum(float(size) for size, _, _ in found), all(rotated) if rotated else None)


def accelerator_in(log: str) -> str | None:
    """The first device that is no processor, as "CUDA0 NVIDIA H100"."""
    found = _DEVICE.search(log)
    return f"{found[1]} {found[2]}" if found else None
