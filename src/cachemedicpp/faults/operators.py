"""The six corruption operators as pure arithmetic on one tensor, draws given.

    x  [B, Hkv, T, d], keys in the form in which they are cached, or values

Each returns the whole damaged tensor in the dtype of `x`; the caller puts the masks on. Arithmetic runs in float32 for
half types and is rounded once. `share` is the share of full strength (`tau` of section 2.3), in (0, 1].
(specs/medic.md, 2.3 and 2.5)
"""

from __future__ import annotations

import functools
import math

import torch

RMS_FLOOR = 1e-8
SCALE_FLOOR = 1e-8
JUMP_FLOOR = 1e-3


def rms(x: torch.Tensor) -> torch.Tensor:
    """`sqrt(mean over d of x^2 + 1e-8)` in float32, cast back: `[..., T, 1]`."""
    return (x.float().square().mean(dim=-1, keepdim=True) + RMS_FLOOR).sqrt().to(x.dtype)


def add_noise(x: torch.Tensor, noise: torch.Tensor, epsilon: float) -> torch.Tensor:
    """`gaussian`: `x + epsilon * rms(x) * n`; noise `[B, Hkv, T, d]` float32 from N(0, 1)."""
    wide = _widened(x)
    return (wide + epsilon * rms(wide) * noise.to(wide)).to(x.dtype)


def zero_out(x: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    """`dropout_zero`: 0 where `dropped` (bool `[B, Hkv, T, d]`) holds."""
    return x.masked_fill(dropped.to(x.device), 0)


def rotate(x: torch.Tensor, rotation_seed: int, share: float) -> torch.Tensor:
    """`orthogonal_rotation`: `x + share * (x R - x)` with the matrix of `rotation_matrix`, one for every head."""
    wide = _widened(x)
    return torch.lerp(wide, wide @ _rotation(x.shape[-1], rotation_seed).to(wide), share).to(x.dtype)


def flip(x: torch.Tensor, negated: torch.Tensor, sign: torch.Tensor, jump: float) -> torch.Tensor:
    """`bitflipish_sparse`: `-x` where `negated` (bool), else `x + jump * max(abs(x), 1e-3) * sign`.

    `sign` `[B, Hkv, T, d]` is -1, 0 or 1, and 0 where nothing is selected or where `negated` holds.
    """
    wide = _widened(x)
    jumped = wide + jump * wide.abs().clamp_min(JUMP_FLOOR) * sign.to(wide)
    return torch.where(negated.to(x.device), -wide, jumped).to(x.dtype)


def quantise(x: torch.Tensor, bits: int, share: float, real: torch.Tensor | None = None) -> torch.Tensor:
    """`quant_noise`: `x + share * (Q(x) - x)`, Q symmetric with one scale per sequence and KV head.

    `Q(x) = scale * clamp(round(x / scale), -m, m)`, `m = 2^(bits-1) - 1`, `scale = (max over t, d of abs(x) + 1e-8) / m`.
    real: bool `[B, T]`, which steps are no padding and count for the scale; None for all.
    """
    wide = _widened(x)
    magnitude = wide.abs() if real is None else wide.abs().masked_fill(~real.to(x.device)[:, None, :, None], 0)
    highest = 2 ** (bits - 1) - 1
    scale = (magnitude.amax(dim=(-2, -1), keepdim=True) + SCALE_FLOOR) / highest
    quantised = scale * (wide / scale).round().clamp(-highest, highest)
    return torch.lerp(wide, quantised, share).to(x.dtype)


def overwrite_span(window: tuple[int, int], length: int, donor_length: int, share: float) -> tuple[int, int]:
    """`contiguous_overwrite`: the positions `[first, last)` of a sequence of `length` tokens that donor steps 0, 1, …
    replace.

    The window `[a, b)` shrinks to `[a, a + ceil(share * (b - a)))`, is cut to the sequence, and ends with the donor.
    Empty spans have `last == first`.
    """
    start, end = window
    # Rounding keeps 0.01/0.16 * 32 from becoming 2.0000000000000004 and then 3.
    end = start + math.ceil(round(share * (end - start), 9))
    first, last = max(0, start), min(length, end)
    return first, max(first, min(last, first + donor_length))


def rotation_matrix(size: int, seed: int) -> torch.Tensor:
    """The orthogonal matrix of `orthogonal_rotation`, `[size, size]` float32 on CPU.

    The Q factor of a matrix of normal draws from `seed`. The same for K, V, every head and the whole run.
    """
    return _rotation(size, seed).clone()


@functools.lru_cache(maxsize=16)
def _rotation(size: int, seed: int) -> torch.Tensor:
    normal = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(normal).Q.contiguous()


def _widened(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
