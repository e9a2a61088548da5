"""Operators with random parameters, and keys, values and queries to try them on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cachemedicpp.repair.operator import RepairOperator
from cachemedicpp.repair.spec import HeadLayout, OperatorSpec


class Block(NamedTuple):
    """query [B, Hq, Tq, d], key and value [B, Hkv, T, d], mask [B, 1, Tq, T] or None."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None


def random_operator(layout: HeadLayout, *, seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> RepairOperator:
    """An operator whose every parameter is away from its start, so that the repair really does something."""
    spec = OperatorSpec(**{"family": "A", "rank": 4, "protect_layers": (0,), "alpha_max": 0.9, **options})
    operator = RepairOperator(spec, layout, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for name, parameter in operator.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
            if name.endswith(".c"):
                parameter.abs_()
    return operator.to(dtype)


def random_block(
    layout: HeadLayout,
    *,
    batch: int = 1,
    rows: int = 1,
    tokens: int = 17,
    dtype: torch.dtype = torch.float64,
    rotary: bool = False,
    padded: bool = False,
    seed: int = 0,
) -> Block:
    """The newest `rows` of `tokens` tokens as queries; causal, and with `padded` row i begins at token 2 i."""
    generator = torch.Generator().manual_seed(seed)

    def draw(heads: int, length: int) -> Tensor:
        return torch.randn(batch, heads, length, layout.head_dim, generator=generator, dtype=torch.float64)

    query, key, value = draw(layout.query_heads, rows), draw(layout.kv_heads, tokens), draw(layout.kv_heads, tokens)
    if rotary:
        query, key = rotate(query, tokens - rows), rotate(key, 0)
    position = torch.arange(tokens)
    mask = (position[None] <= position[tokens - rows :, None])[None, None].expand(batch, 1, -1, -1)
    if padded:
        mask = mask & (position[None, None, None] >= 2 * torch.arange(batch)[:, None, None, None])
    plain = not padded and (rows == 1 or rows == tokens)
    return Block(query.to(dtype), key.to(dtype), value.to(dtype), None if plain else mask)


def rotate(x: Tensor, first: int) -> Tensor:
    """Rotary position embedding (half-split) of x [B, H, T, d] at positions `first` on."""
    half = x.shape[-1] // 2
    angle = torch.arange(first, first + x.shape[2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
