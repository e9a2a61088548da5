"""The parameters of one repaired side, keys or values, and the matrices and gate constants that follow from them.

Every family is one form, `x_hat = x + ((x W) * a(q)) U^T` (specs/medic.md, 12.3):

    A, C, D   W, U free, U = 0 at the start          a = gate                 gate = alpha_max * sigma(W2 silu(W1 q + b1) + b2)
    B         W = U = basis, QR-orthonormalised      a = -c * gate            c in [0, 1], 0 at the start
    B plain   W = U = basis, small at the start      a = gate - 1
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cachemedicpp.repair.spec import OperatorSpec
from cachemedicpp.repair.token_gate import TokenGate, xavier

PLAIN_BASIS_SCALE = 1e-3
"""Start of a basis that is not orthonormalised: the first map differs from the identity by about its square."""


class Side(nn.Module):
    """One side of one layer. * stands for Hkv when heads do not share a set, for nothing when they do.

    Parameters: `W`, `U` [*, d, r] (a basis has no `U`), `c` [*, r] with an orthonormal basis, the gate `W1` [*, r, d],
    `b1` [*, r], `W2` [*, r, r], `b2` [*, r], and `token.*` for family D.
    """

    def __init__(self, spec: OperatorSpec, head_dim: int, kv_heads: int, generator: torch.Generator) -> None:
        super().__init__()
        rank, lead = spec.rank, () if spec.share_across_heads else (kv_heads,)
        self.on_basis, self.orthonormal, self.alpha_max = spec.base == "B", bool(spec.orthonormal), spec.alpha_max
        start = xavier((*lead, head_dim, rank), generator)
        self.W = nn.Parameter(start * PLAIN_BASIS_SCALE if self.on_basis and not self.orthonormal else start)
        if not self.on_basis:
            self.U = nn.Parameter(torch.zeros(*lead, head_dim, rank))
        if self.orthonormal:
            self.c = nn.Parameter(torch.zeros(*lead, rank))
        self.W1 = nn.Parameter(xavier((*lead, rank, head_dim), generator))
        self.b1 = nn.Parameter(torch.zeros(*lead, rank))
        self.W2 = nn.Parameter(xavier((*lead, rank, rank), generator))
        self.b2 = nn.Parameter(torch.zeros(*lead, rank))
        self.token = TokenGate(spec.token_gate, rank, head_dim, lead, generator) if spec.token_gate else None

    def matrices(self) -> tuple[Tensor, Tensor]:
        """W and U `[*, d, r]`; an orthonormal basis is the Q factor of its parameter."""
        if not self.on_basis:
            return self.W, self.U
        basis = torch.linalg.qr(self.W).Q if self.orthonormal else self.W
        return basis, basis

    def gain(self) -> Tensor:
        """What the logistic gate is multiplied with, `[*, r]`: alpha_max, or -alpha_max * c."""
        if self.orthonormal:
            share: Tensor = _Clamp.apply(self.c)
            return -self.alpha_max * share
        return torch.full_like(self.b2, self.alpha_max)

    @property
    def offset(self) -> float:
        """What is added to the gate after that: -1 for a plain basis (a = s - 1)."""
        return -1.0 if self.on_basis and not self.orthonormal else 0.0

    def check(self, x: Tensor) -> Tensor:
        """The projection x W `[B, Hkv, T, r]` of keys or values `[B, Hkv, T, d]`: what the extended form and the checksum
        keep."""
        weight = self.matrices()[0]
        return x.to(weight.dtype) @ weight

    def term(self, x: Tensor, check: Tensor | None = None, distance: Tensor | None = None) -> Tensor:
        """What `a` multiplies, `[B, Hkv, T, r]`: x W, or phi(x) with a token gate (its inputs as in `TokenGate`)."""
        x = x.to(self.W.dtype)
        projected = self.check(x)
        return projected if self.token is None else self.token(x, projected, projected if check is None else check.to(x.dtype), distance)


class _Clamp(torch.autograd.Function):
    """Clamp to [0, 1] whose gradient stops only where a step along it would lead further out.

    A plain clamp never lets a value back that once left the interval, and c starts on its border.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,), gradient = ctx.saved_tensors, gradients[0]
        outward = ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0)
