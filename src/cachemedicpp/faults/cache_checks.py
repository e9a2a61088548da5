"""The plain defences against memory faults in a KV cache: checksums that find damaged blocks, and range clipping.

A checksum detects; the repair is to compute the block's tokens again, which is exact (`restore_blocks` puts them in).
Clipping bounds the harm of a flipped exponent without knowing where it is (Ranger, Chen, Li and Pattabiraman 2021).
Shapes and blocks as in `cache_faults.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from cachemedicpp.faults.cache_faults import as_words
from modelwright.errors import ConfigError, Fault

_WEIGHTS_SEED = 0x5EED


def block_checksums(x: Tensor, size: int) -> Tensor:
    """One checksum for each block of each sequence, int64 `[B, N]`, N = ceil(T / size).

    The block's bytes as 32-bit integers, each times a fixed random odd 64-bit weight, summed modulo 2^64
    (multiply-shift hashing, Dietzfelbinger 1996). A change inside one integer is always seen; any other change is
    missed for at most one in 2^32 choices of the weights.
    """
    if size < 1:
        raise ConfigError([Fault("size", str(size), "1 or more tokens; 16 is usual")])
    blocks = -(-x.shape[2] // size)
    words = as_words(x)
    if words.dtype == torch.int16 and words.shape[3] % 2 == 0:
        words = words.view(torch.int32)  # two 16-bit words at once: half the multiplications
    short = blocks * size - x.shape[2]
    if short:
        words = torch.nn.functional.pad(words, (0, 0, 0, short))
    words = words.unflatten(2, (blocks, size))  # [B, H, N, size, d or d/2]
    return (words * _weights(words)).sum(dim=(1, 3, 4))


def changed_blocks(x: Tensor, checksums: Tensor, size: int) -> Tensor:
    """Which blocks no longer have their checksum, bool `[B, N]`. Raises ConfigError for checksums of another cache."""
    found = block_checksums(x, size)
    if found.shape != checksums.shape:
        raise ConfigError([Fault("checksums", f"{list(checksums.shape)}", f"{list(found.shape)}, one for each block")])
    return found != checksums.to(found.device)


def restore_blocks(x: Tensor, clean: Tensor, changed: Tensor, size: int) -> Tensor:
    """x with the changed blocks (bool `[B, N]`) taken from `clean`, which was computed again."""
    tokens = changed.repeat_interleave(size, dim=1)[:, None, : x.shape[2], None]  # [B, 1, T, 1]
    return torch.where(tokens.to(x.device), clean, x)


def _weights(words: Tensor) -> Tensor:
    """Odd int64 [H, 1, size, d] for words [B, H, N, size, d], the same on every machine."""
    generator = torch.Generator().manual_seed(_WEIGHTS_SEED)
    limits = torch.iinfo(torch.int64)
    drawn = torch.randint(limits.min, limits.max, (words.shape[1], 1, *words.shape[3:]), generator=generator)
    return (drawn | 1).to(words.device)


@dataclass(frozen=True)
class ChannelLimits:
    """The range of each channel of each head, low and high `[H, d]` in float32."""

    low: Tensor
    high: Tensor


def calibrate_limits(tensors: Iterable[Tensor], margin: float = 0.0) -> ChannelLimits:
    """The smallest and largest value of every channel over clean keys (or values) `[B, H, T, d]`, widened on either
    side by `margin` times the range. Raises ConfigError for no data, values that are not finite, a negative margin.
    """
    low: Tensor | None = None
    high: Tensor | None = None
    for x in tensors:
        here_low, here_high = x.float().amin(dim=(0, 2)), x.float().amax(dim=(0, 2))
        low = here_low if low is None else torch.minimum(low, here_low)
        high = here_high if high is None else torch.maximum(high, here_high)
    if low is None or high is None:
        raise ConfigError([Fault("calibration", "no tensor", "at least one of clean keys or values")])
    faults = []
    if not bool((low.isfinite() & high.isfinite()).all()):
        faults.append(Fault("calibration", "values that are not finite", "clean keys or values"))
    if margin < 0:
        faults.append(Fault("margin", repr(margin), "0 or more, as a share of the range"))
    if faults:
        raise ConfigError(faults)
    spread = margin * (high - low)
    return ChannelLimits(low - spread, high + spread)


def outside_limits(x: Tensor, limits: ChannelLimits) -> Tensor:
    """Which values are out of their channel's range or NaN, bool in the shape of x: what clipping can detect."""
    low, high = _bounds(x, limits)
    return ~((x.float() >= low) & (x.float() <= high))


def clip_to_limits(x: Tensor, limits: ChannelLimits) -> Tensor:
    """x with values beyond their channel's range moved to its end, and NaN to its middle. Values in range keep
    every bit."""
    low, high = _bounds(x, limits)
    clipped = torch.where(x.isnan(), (low + high) / 2, x.float().clamp(low, high))
    return torch.where(outside_limits(x, limits), clipped.to(x.dtype), x)


def _bounds(x: Tensor, limits: ChannelLimits) -> tuple[Tensor, Tensor]:
    """[H, 1, d] each, on x's device."""
    if limits.low.shape != (x.shape[1], x.shape[3]):
        raise ConfigError([Fault("limits", f"{list(limits.low.shape)}", f"[{x.shape[1]}, {x.shape[3]}], the heads and channels of x")])
    return limits.low[:, None].to(x.device), limits.high[:, None].to(x.device)
