"""The ways to quantise a cache that are compared, and what each keeps in bits for one cached number.

An unquantised number counts 16 bits, as a served cache holds it; the study's cache is rounded to float16 before it is quantised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from benchmarks.medic_common.subjects import Damage, Pair
from torch import Tensor

from cachemedicpp.repair.spec import OperatorSpec
from modelwright.kv.quantisers import fake_quantise_cache
from modelwright.kv.settings import KVQuantisation, cache_bytes, parse

CACHE_DTYPE = "float16"
TERM_BITS = 16
"""Bits of one term of the extended form, as it would be kept beside the cache."""
WIDTHS = (2, 3, 4, 5, 6, 7, 8)
"""Bits for a value; all are measured without repair, so that a repair's bytes can be given to a wider quantiser instead."""
STUDIED = (4, 3, 2)
PLACEMENTS = ("recomputed", "kept")
"""Where the terms of D come from: computed from what was read at every step (no bytes), or kept beside the cache."""


@dataclass(frozen=True)
class Method:
    """A way to quantise. pattern: name of its settings (`modelwright.kv`), `{b}` the bits and `{k}` one more."""

    name: str
    pattern: str

    def settings(self, bits: int) -> KVQuantisation:
        """Raises ConfigError for bits that the kernel does not have."""
        return parse(self.pattern.format(b=bits, k=bits + 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Of WIDTHS, those that this method has."""
        return tuple(bits for bits in WIDTHS if "{k}" not in self.pattern or bits < WIDTHS[-1])


METHODS = (
    Method("groups", "group32-{b}"),
    Method("Hadamard + groups", "hadamard-group32-{b}"),
    Method("KIVI", "kivi-{b}"),
    Method("KIVI, 32 recent tokens", "kivi-{b}-recent32"),
    Method("KIVI, one more bit for K", "kivi-k{k}v{b}"),
    Method("KIVI, 1 % outliers", "kivi-{b}-outliers0.01"),
    Method("KIVI, residual of rank 2", "kivi-{b}-rank2-block64"),
)


def methods_named(names: Sequence[str]) -> tuple[Method, ...]:
    """Those of METHODS with these names, all for no names."""
    return tuple(method for method in METHODS if not names or method.name in names)


def quantiser(settings: KVQuantisation) -> Damage:
    """The damage that a cache held in float16 and quantised so does to what is read back, float32 `[B, Hkv, T, d]`."""

    def damage(key: Tensor, value: Tensor, layer: int, draw: int) -> Pair:
        lossy_key, lossy_value = fake_quantise_cache(key.half(), value.half(), settings)
        return lossy_key.to(torch.float32), lossy_value.to(torch.float32)

    return damage


def bits_per_value(settings: KVQuantisation, tokens: int, head_dim: int) -> float:
    """Bits for a cached number at this length: codes, scales, outliers, factors, the window and unfinished blocks."""
    return cache_bytes(settings, tokens, 1, head_dim, CACHE_DTYPE) * 8 / (2 * tokens * head_dim)


def term_bits(spec: OperatorSpec, head_dim: int) -> float:
    """Bits that the kept terms of an operator on every layer add to a cached number: r values a token for each repaired side."""
    sides = {"K": 1, "V": 1, "KV": 2}[spec.apply_to]
    return sides * spec.rank * TERM_BITS / (2 * head_dim)
