"""The faults of the study: which kinds there are, and how one is drawn and put into a stored cache.

A cache is stored as one tensor each for keys and values of every layer, `[B, Hkv, T, d]` in bfloat16 or float16, cut into
blocks of `size` tokens. A trial has one fault, in the keys or the values of one layer, in one block (two for a swap). What
it hits depends on its counter `(seed, phase, kind, number)` alone, so every defence meets the same fault and a stopped run
goes on with the same draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from benchmarks.medic_common.subjects import Pairs
from torch import Tensor

from cachemedicpp import seeds
from cachemedicpp.faults.cache_faults import BitField, BlockFault, as_words, damage_block, flip_single_bits
from modelwright.errors import ConfigError, Fault

SIDES = ("keys", "values")
PERIODS = (32, 64, 128)
"""Words between two hits of the drawn periodic pattern."""
RATE = 1e-3
"""Share of the bits of a block that `bits_at_rate` inverts."""

How = Literal["single", "rate", "periodic", "zeroed", "swapped"]


@dataclass(frozen=True)
class Kind:
    """One kind of fault. field: of a single flip. bits: of the periodic pattern, drawn when empty. words: for the page."""

    name: str
    how: How
    words: str
    field: BitField = "any"
    bits: tuple[int, ...] = ()


KINDS = (
    Kind("one_bit", "single", "one bit, any"),
    Kind("one_exponent_bit", "single", "one bit of an exponent", field="exponent"),
    Kind("one_mantissa_bit", "single", "one bit of a mantissa", field="mantissa"),
    Kind("bits_at_rate", "rate", f"every bit of a block with probability {RATE:g}"),
    Kind("periodic", "periodic", "two neighbouring bits, drawn, in every 32nd, 64th or 128th word of a block"),
    Kind("periodic_exponent", "periodic", "bits 13 and 14 in every 32nd, 64th or 128th word of a block", bits=(13, 14)),
    Kind("zeroed", "zeroed", "a block lost (all zeros)"),
    Kind("swapped", "swapped", "two blocks exchanged (a wrong block table)"),
)


@dataclass(frozen=True)
class CacheShape:
    """What a place is drawn from: layers, tokens of the stored prefix, tokens to a block."""

    layers: int
    tokens: int
    size: int

    def __post_init__(self) -> None:
        if self.size < 1 or self.tokens < 2 * self.size:
            allowed = f"at least two blocks of {self.size}"
            raise ConfigError([Fault("prefix", f"{self.tokens} tokens", allowed, "lengthen the prefix or shorten the blocks")])

    @property
    def blocks(self) -> int:
        """Whole blocks."""
        return self.tokens // self.size


@dataclass(frozen=True)
class Place:
    """Where a fault strikes. other: the block that a swap exchanges it with."""

    layer: int
    side: int
    block: int
    other: int


def kind_named(name: str) -> Kind:
    """Raises ConfigError for a kind that is not one of `KINDS`."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise ConfigError([Fault("kind of fault", repr(name), ", ".join(kind.name for kind in KINDS))])


def trial_generator(seed: int, phase: int, kind: Kind, number: int) -> torch.Generator:
    """The random stream of one fault. phase: `seeds.TRAIN` or `seeds.BENCHMARK`."""
    return seeds.generator(seed, seeds.CORRUPTION, phase, seeds.unit_number("medic_faults", kind.name), number)


def draw_place(shape: CacheShape, generator: torch.Generator) -> Place:
    """The first four numbers of a fault's stream; blocks are whole ones, `other` differs from `block`."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    layer, side, block = below(shape.layers), below(len(SIDES)), below(shape.blocks)
    return Place(layer, side, block, (block + 1 + below(shape.blocks - 1)) % shape.blocks)


def strike(x: Tensor, kind: Kind, place: Place, size: int, generator: torch.Generator) -> Tensor:
    """A copy of x `[1, Hkv, T, d]`, the struck side of the struck layer, with the fault. generator: behind `draw_place`."""
    if kind.how == "single":
        damaged = x.clone()
        here = slice(place.block * size, (place.block + 1) * size)
        damaged[:, :, here] = flip_single_bits(x[:, :, here], 1, generator, kind.field)
        return damaged
    if kind.how == "periodic":
        period = PERIODS[int(torch.randint(len(PERIODS), (), generator=generator))]
        offset, low = int(torch.randint(period, (), generator=generator)), int(torch.randint(15, (), generator=generator))
        fault = BlockFault("periodic", place.block, size, period=period, offset=offset, bits=kind.bits or (low, low + 1))
        return damage_block(x, fault)
    if kind.how == "rate":
        return damage_block(x, BlockFault("bit_flips", place.block, size, rate=RATE), generator)
    other = place.other if kind.how == "swapped" else None
    return damage_block(x, BlockFault(kind.how, place.block, size, other=other))


def strike_row(stored: Pairs, row: int, kind: Kind, shape: CacheShape, generator: torch.Generator) -> Place:
    """Put one fault into row `row` of a stored cache, in place of its tensors (the old ones are not written to)."""
    place = draw_place(shape, generator)
    pair = list(stored[place.layer])
    hit = pair[place.side].clone()
    hit[row : row + 1] = strike(hit[row : row + 1], kind, place, shape.size, generator)
    pair[place.side] = hit
    stored[place.layer] = (pair[0], pair[1])
    return place


def struck_blocks(clean: Tensor, damaged: Tensor, size: int) -> Tensor:
    """The truth for detection: blocks with a changed word, bool `[B, N]`, N = whole blocks of `[B, Hkv, T, d]`."""
    changed = (as_words(clean) != as_words(damaged)).any(-1).any(1)
    whole = changed.shape[1] // size
    return changed[:, : whole * size].unflatten(1, (whole, size)).any(-1)
