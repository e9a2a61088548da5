"""The gate of family D that looks at each cached token: features, their small network, and the terms `phi`.

    phi(x) = (x W) * sigma(w2 . silu(W3 f(x)) + b2)

f(x), one vector for each token and KV head, without units: log RMS, largest magnitude over RMS, projections on a learned
basis over RMS; optionally the log distance from the token before, relative to the RMS; optionally the residual
`x W - check` over RMS and its log size, where `check` is x W as it was when the token entered the cache. A fault after
the write leaves the check alone, so the residual shows it. (specs/medic.md, 12.5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cachemedicpp.repair.spec import TokenGateSpec

EPS = 1e-8
FLOOR = 1e-3
"""Size relative to the RMS below which a distance or a residual counts as rounding. Equal tokens lie a rounding apart, and
the log of a rounding would make the gate depend on the order of the additions."""


class TokenGate(nn.Module):
    """Parameters: `basis` [*, m, d], `W3` [*, hidden, n], `w2` [*, 1, hidden], `b2` [*, 1]; * is Hkv when heads do not share."""

    def __init__(self, spec: TokenGateSpec, rank: int, head_dim: int, lead: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        count = 2 + spec.basis + spec.neighbour + (rank + 1 if spec.checksum else 0)
        if spec.basis:
            self.basis = nn.Parameter(xavier((*lead, spec.basis, head_dim), generator))
        self.W3 = nn.Parameter(xavier((*lead, spec.hidden, count), generator))
        self.w2 = nn.Parameter(xavier((*lead, 1, spec.hidden), generator))
        self.b2 = nn.Parameter(torch.zeros(*lead, 1))

    def forward(self, x: Tensor, projected: Tensor, check: Tensor | None, distance: Tensor | None) -> Tensor:
        """phi `[B, Hkv, T, r]` for keys or values x `[B, Hkv, T, d]`.

        projected: x W `[B, Hkv, T, r]`. check: the same at write time, needed with `checksum`. distance: RMS of the
        difference from the token before `[B, Hkv, T, 1]`, 0 where there is none, needed with `neighbour`.
        """
        rms = (x.square().mean(-1, keepdim=True) + EPS).sqrt()
        features = [rms.log(), x.abs().amax(-1, keepdim=True) / rms]
        if self.spec.basis:
            features.append(linear(x, self.basis) / rms)
        if self.spec.neighbour and distance is not None:
            features.append((distance / rms + FLOOR).log())
        if self.spec.checksum and check is not None:
            residual = (projected - check) / rms
            size = (residual.square().mean(-1, keepdim=True) + FLOOR**2).sqrt()
            features += [residual, size.log()]
        hidden = F.silu(linear(torch.cat(features, -1), self.W3))
        bias = self.b2 if self.b2.ndim == 1 else self.b2[:, None, :]
        return projected * torch.sigmoid(linear(hidden, self.w2) + bias)


class TokenPlan(NamedTuple):
    """The gates of a layer's s repaired sides, h hidden units each, merged for inference: `written_terms` reads it."""

    entry: Tensor  # [s, d, r + h]: W, then the basis and the rows of W3 for it in one
    peak: Tensor  # [s, 1, h]: W3 for the largest magnitude
    size: Tensor  # [s, 1, h]: half of W3 for log RMS, since log RMS is half the log of the mean square
    start: Tensor  # [s, 1, h]: what a residual of zero adds
    last: Tensor  # [s, h, 1]
    bias: Tensor  # [s, 1, 1]
    eps: Tensor  # [1]


def token_plan(gates: Sequence[TokenGate], weights: Sequence[Tensor]) -> TokenPlan:
    """Merge the gates of a layer whose heads share one set, without the neighbour feature; weights: W `[d, r]` of each side."""
    rank, parts = weights[0].shape[1], []
    for gate, weight in zip(gates, weights, strict=True):
        first, basis = gate.W3.mT, gate.spec.basis
        seen = gate.basis.mT @ first[2 : 2 + basis] if basis else weight.new_zeros(weight.shape[0], first.shape[1])
        start = first[2 + basis + rank] * math.log(FLOOR) if gate.spec.checksum else torch.zeros_like(first[0])
        parts.append((torch.cat([weight, seen], dim=1), first[1:2], first[:1] / 2, start[None], gate.w2.mT, gate.b2[None]))
    merged = [torch.stack(part) for part in zip(*parts, strict=True)]
    return TokenPlan._make([*merged, merged[0].new_full((1,), EPS)])


def written_terms(plan: TokenPlan, sides: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """x W and phi(x) `[s, B, Hkv, t, r]` of tokens as they enter the cache; sides: keys, values `[B, Hkv, t, d]`, those repaired.

    The numbers of `TokenGate.forward` with `check = projected`, in thirteen small operations for both sides together.
    """
    shape, rank = (len(sides), *sides[0].shape[:-1], -1), plan.entry.shape[2] - plan.last.shape[1]
    x = (torch.stack(tuple(sides)) if len(sides) > 1 else sides[0][None]).to(plan.entry.dtype).reshape(shape[0], -1, sides[0].shape[-1])
    both = torch.bmm(x, plan.entry)
    projected, seen = both.narrow(-1, 0, rank), both.narrow(-1, rank, plan.last.shape[1])
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    peak = x.abs().amax(-1, keepdim=True)
    square = torch.addcmul(plan.eps, length, length, value=1 / x.shape[-1])
    hidden = torch.addcmul(plan.start, square.log(), plan.size).addcmul_(torch.addcmul(seen, peak, plan.peak), square.rsqrt_())
    gate = torch.baddbmm(plan.bias, F.silu(hidden, inplace=True), plan.last).sigmoid_()
    return projected.view(shape), (projected * gate).view(shape)


def distances(x: Tensor, previous: Tensor | None, starts: Tensor | None, offset: int) -> Tensor:
    """RMS of `x_t - x_(t-1)` `[B, Hkv, T, 1]`, 0 for the first token of a row.

    previous: the token before x[:, :, 0] `[B, Hkv, 1, d]`, or None when x begins the sequence. starts: first real token
    of each left-padded row `[B]`, None for 0; offset: position of x[:, :, 0] in the cache.
    """
    before = torch.cat([x[:, :, :1] if previous is None else previous.to(x.dtype), x[:, :, :-1]], dim=2)
    distance = ((x - before).square().mean(-1, keepdim=True) + EPS**2).sqrt()
    position = torch.arange(offset, offset + x.shape[2], device=x.device)
    first = position[None] == (torch.zeros_like(position[:1]) if starts is None else starts[:, None])
    return distance.masked_fill(first[:, None, :, None], 0.0)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """`x weight^T` for x `[B, H, T, in]` and weight `[out, in]`, or `[H, out, in]` with one matrix for each head."""
    return F.linear(x, weight) if weight.ndim == 2 else x @ weight.mT


def xavier(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Xavier-uniform numbers, float32, for matrices in the last two dimensions of `shape`."""
    bound = (6.0 / (shape[-1] + shape[-2])) ** 0.5
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound
