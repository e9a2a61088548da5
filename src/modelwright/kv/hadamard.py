"""The random-sign Hadamard rotation: spreads a channel's outliers evenly over all channels of its head.

R = diag(s) H / sqrt(d) with random signs s and the Sylvester-Hadamard matrix H is orthogonal, so scores survive when
queries are rotated as the keys are: (qR)(kR)^T = q k^T (QuIP#, Tseng et al. 2024; QuaRot, Ashkboos et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, seed: int = 0) -> Tensor:
    """x R along the last dimension, whose size d is a power of two. Same dtype; float32 is advised."""
    return _transform(x * _signs(x, seed))


def unrotate(x: Tensor, seed: int = 0) -> Tensor:
    """x R^T, the inverse of `rotate` with the same seed (to rounding)."""
    return _transform(x) * _signs(x, seed)


def _signs(x: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same signs for every device
    draws = torch.randint(0, 2, (x.shape[-1],), generator=generator)
    return (2 * draws - 1).to(device=x.device, dtype=x.dtype)


def _transform(x: Tensor) -> Tensor:
    """x H / sqrt(d) by butterflies: sums of pairs only, so a token's result does not depend on its neighbours in the
    batch, as it could with a matrix product."""
    size = x.shape[-1]
    half = 1
    while half < size:
        low, high = x.unflatten(-1, (-1, 2, half)).unbind(-2)  # each [..., d/(2*half), half]
        x = torch.stack((low + high, low - high), dim=-2).flatten(-3)
        half *= 2
    return x * size**-0.5
