"""The defences of the study, and what each finds. Stored keys and values `[B, Hkv, T, d]` by layer, blocks `[B, N]`.

What each does with values that are not finite (a repair cannot multiply NaN away: NaN times any gate is NaN):

    none            nothing: they reach the softmax
    guard           zero in place of every value that is not finite or larger than `LARGEST`; nothing else
    clip            an infinity becomes the end of its channel's range, NaN the middle (`cache_checks.clip_to_limits`)
    recompute       the whole block is replaced by what a fresh prefill gives, whatever stands in it
    zero_block      the whole block is replaced by zeros
    D, D_checked    family D reads through `guard`, since it computes its terms from every stored value anyway
    clip_D, ...     family D reads through `clip`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from benchmarks.medic_common.subjects import Pairs
from torch import Tensor

from cachemedicpp.faults.cache_checks import (
    ChannelLimits,
    block_checksums,
    calibrate_limits,
    changed_blocks,
    clip_to_limits,
    outside_limits,
    restore_blocks,
)
from cachemedicpp.repair.cache import Checks
from cachemedicpp.repair.operator import RepairOperator

LARGEST = 65_504.0
"""The largest float16. bfloat16 holds values whose squares are beyond float32, and the gradients of a repair with them."""
MARGINS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Widths, as a share of the channel's range, from which the margin of clipping is chosen on validation text."""
FALSE_ALARMS = 0.01
"""Share of clean blocks of validation text on which a detector with a threshold may raise an alarm."""
CHECKSUM_BYTES = 8

Limits = list[tuple[ChannelLimits, ChannelLimits]]
"""By layer, the ranges of keys and values."""
Sums = list[tuple[Tensor, Tensor]]
"""By layer, the checksums of the blocks of keys and values, `[B, N]` each."""


@dataclass(frozen=True)
class Trained:
    """A defence with a trained operator. front: the plain defence that it reads through. checksum: its gate's residual."""

    name: str
    front: str
    checksum: bool
    words: str


TRAINED = (
    Trained("D", "guard", False, "D"),
    Trained("D_checked", "guard", True, "D, gate with checksum residual"),
    Trained("clip_D", "clip", False, "clipping, then D"),
    Trained("clip_D_checked", "clip", True, "clipping, then D with checksum residual"),
)
PLAIN: Mapping[str, str] = {
    "none": "none",
    "guard": "unusable values to zero",
    "clip": "range clipping",
    "recompute": "checksum, block recomputed",
    "zero_block": "checksum, block zeroed",
}
WORDS: Mapping[str, str] = {**PLAIN, **{one.name: one.words for one in TRAINED}}


@dataclass(frozen=True)
class Written:
    """What the plain defences know of a cache from the time it was written.

    fresh: a second prefill, the source of recomputed blocks. sums: the checksums. size: tokens to a block.
    """

    fresh: Pairs
    sums: Sums
    size: int


def remember(stored: Pairs, fresh: Pairs, size: int) -> Written:
    """Take the checksums of a cache as it is now."""
    return Written(fresh, [(block_checksums(key, size), block_checksums(value, size)) for key, value in stored], size)


def guard(x: Tensor) -> Tensor:
    """x with zero in place of values that are not finite or larger than `LARGEST`."""
    return torch.where(x.abs() <= LARGEST, x, torch.zeros_like(x))  # a comparison with NaN is false


def clipped(pairs: Pairs, limits: Limits) -> Pairs:
    """Every layer within its ranges."""
    return [
        (clip_to_limits(key, key_limits), clip_to_limits(value, value_limits))
        for (key, value), (key_limits, value_limits) in zip(pairs, limits, strict=True)
    ]


def defend(name: str, stored: Pairs, limits: Limits, written: Written) -> Pairs:
    """The keys and values that attention reads under the plain defence `name`, in the dtype in which they are stored."""
    if name == "none":
        return stored
    if name == "guard":
        return [(guard(key), guard(value)) for key, value in stored]
    if name == "clip":
        return clipped(stored, limits)
    read: Pairs = []
    for pair, fresh, sums in zip(stored, written.fresh, written.sums, strict=True):
        key, value = (
            restore_blocks(x, clean if name == "recompute" else torch.zeros_like(x), changed_blocks(x, own, written.size), written.size)
            for x, clean, own in zip(pair, fresh, sums, strict=True)
        )
        read.append((key, value))
    return read


# ---- what is found


def checksum_alarms(stored: Pairs, written: Written) -> Tensor:
    """Blocks whose checksum changed, bool `[layers, 2, B, N]`."""
    return torch.stack(
        [
            torch.stack([changed_blocks(x, own, written.size) for x, own in zip(pair, sums, strict=True)])
            for pair, sums in zip(stored, written.sums, strict=True)
        ]
    )


def range_alarms(stored: Pairs, limits: Limits, size: int) -> Tensor:
    """Blocks with a value outside its channel's range, bool `[layers, 2, B, N]`."""
    return torch.stack(
        [
            torch.stack([by_block(outside_limits(x, own).any(-1).any(1), size).any(-1) for x, own in zip(pair, of_layer, strict=True)])
            for pair, of_layer in zip(stored, limits, strict=True)
        ]
    )


@torch.no_grad()
def gates(operator: RepairOperator, read: Pairs, checks: Checks | None) -> Tensor:
    """The token gate of family D, `sigma(...)` in 0 to 1, of every token and KV head, `[layers, 2, B, Hkv, T]`.

    read: float32, finite. checks: `x W` at write time, None without checksum. The operator gives `phi = (x W) * gate`; here
    it is asked with ones in place of `x W` and the check moved along, so that the residual stays and phi is the gate.
    """
    found = []
    for layer, pair in enumerate(read):
        repair, of_layer = operator.layer(layer), (checks or {}).get(layer, (None, None))
        sides = []
        for side, x, check in zip((repair.key, repair.value), pair, of_layer, strict=True):
            assert side is not None and side.token is not None, "the study repairs keys and values with family D"
            projected = side.check(x)
            ones = torch.ones_like(projected)
            sides.append(side.token(x, ones, None if check is None else ones - (projected - check), None)[..., 0])
        found.append(torch.stack(sides))
    return torch.stack(found)


def gate_scores(found: Tensor, size: int) -> Tensor:
    """The highest gate in each block, `[layers, 2, B, N]` of `[layers, 2, B, Hkv, T]`."""
    whole = found.shape[-1] // size
    return found[..., : whole * size].unflatten(-1, (whole, size)).amax(-1).amax(-2)


def by_block(tokens: Tensor, size: int) -> Tensor:
    """`[B, T]` to whole blocks `[B, N, size]`."""
    whole = tokens.shape[1] // size
    return tokens[:, : whole * size].unflatten(1, (whole, size))


# ---- what is learned from clean text


def calibrate(train: Sequence[Pairs], validation: Sequence[Pairs], size: int) -> tuple[Limits, float]:
    """Channel ranges of clean caches of `train`, widened by the smallest of `MARGINS` that keeps alarms on clean blocks of
    `validation` within `FALSE_ALARMS` (the widest when none does); the ranges and the margin."""
    layers = range(len(train[0]))

    def ranges(layer: int, side: int, margin: float) -> ChannelLimits:
        return calibrate_limits((pairs[layer][side] for pairs in train), margin)

    def alarming(limits: Limits) -> float:
        return float(torch.cat([range_alarms(pairs, limits, size).flatten() for pairs in validation]).float().mean())

    for margin in MARGINS:
        limits: Limits = [(ranges(layer, 0, margin), ranges(layer, 1, margin)) for layer in layers]
        if alarming(limits) <= FALSE_ALARMS:
            break
    return limits, margin


def threshold(scores: Sequence[Tensor]) -> Tensor:
    """The score that `FALSE_ALARMS` of clean blocks exceed, for each layer and side: `[layers, 2]` of `[layers, 2, B, N]` each."""
    return torch.cat([one.flatten(2) for one in scores], dim=-1).quantile(1 - FALSE_ALARMS, dim=-1)
