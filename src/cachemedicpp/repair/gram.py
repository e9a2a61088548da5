"""The identity and contraction penalties from small Gram matrices, without building the repaired cache. (specs/medic.md, 12.3 c)

With terms C (`K_corr W`, or `phi(K_corr)`), damage `D = K_corr - K_clean` and gate a of one query row,

    ||K_rep - K_clean||^2 = ||D||^2 + 2 sum_j a_j (C^T D U)_jj + a^T [(C^T C) * (U^T U)] a

so the cache is read once, O(T d r), and each query head costs O(r^2). Norms are Frobenius norms over tokens, dimensions
and query heads of one sequence: a repaired key differs for every query head, so a KV head counts G times on both sides of a
ratio. Gates are those of the last query row, as in the original. Only the sides in `apply_to` count. [C14]
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cachemedicpp.repair.cache import Name, layer_term
from cachemedicpp.repair.operator import LayerRepair

EPS0 = 1e-8
NO_EFFECT = 1e-6
"""A corruption smaller than this share of the cache had no effect. [C12]"""


class Contraction(NamedTuple):
    """rho `[B]` (0 where there is nothing to contract) and whether the corruption had an effect `[B]`, bool."""

    rho: Tensor
    effective: Tensor


def squared_change(terms: Tensor, gate: Tensor, u: Tensor, damage: Tensor | None = None) -> Tensor:
    """`||x_rep - x_clean||^2`, summed over tokens, dimensions and query heads, `[B]`.

    terms `[B, Hkv, T, r]`; gate `[B, Hq, r]`; u `[d, r]` or `[Hkv, d, r]`; damage `x_corr - x_clean` `[B, Hkv, T, d]`, None
    when nothing was damaged. Rounding cannot take the result below 0.
    """
    batch, kv_heads, _, rank = terms.shape
    a = gate.reshape(batch, kv_heads, -1, rank)
    overlap = (terms.mT @ terms) * (u.mT @ u)
    total = ((a @ overlap) * a).sum(dim=(1, 2, 3))
    if damage is not None:
        linear = ((terms.mT @ damage) * u.mT).sum(-1, keepdim=True)
        total = total + 2 * (a @ linear).sum(dim=(1, 2, 3)) + a.shape[2] * damage.square().sum(dim=(1, 2, 3))
    return total.clamp_min(0)


def identity_penalty(
    repair: LayerRepair, query: Tensor, key: Tensor, value: Tensor, starts: Tensor | None = None, eps0: float = EPS0
) -> Tensor:
    """`L_id` of one layer for each sequence, `[B]`: how far the repair moves a clean cache, relative to its squared norm.

    query `[B, Hq, Tq, d]`, of which the last row gates; key and value `[B, Hkv, T, d]` of the clean pass; starts `[B]`: first
    real token of left-padded rows. No gradient flows into any of them.
    """
    moved, size = _zero(repair, key), _zero(repair, key)
    for name, x, gate, u in _sides(repair, query, key, value):
        terms = _cut(layer_term(repair, name, x, None, None, starts), starts)
        moved = moved + squared_change(terms, gate, u)
        size = size + repair.layout.group * _cut(x, starts).square().sum(dim=(1, 2, 3))
    return moved / (size + eps0)


def contraction_ratio(
    repair: LayerRepair,
    query: Tensor,
    corrupted: tuple[Tensor, Tensor],
    clean: tuple[Tensor, Tensor],
    starts: Tensor | None = None,
    eps0: float = EPS0,
) -> Contraction:
    """`rho` of one layer for each sequence: what is left of the damage after the repair, `N(dX_rep) / N(dX)`.

    corrupted and clean: keys and values `[B, Hkv, T, d]`, the clean ones from the teacher's pass [C13], whose projections are
    the checksums where the operator uses them. Sequences whose corruption had no effect have rho 0 and are marked, so that
    they can be left out of mean and penalty. The other arguments as in `identity_penalty`.
    """
    left, damage_size, cache_size = _zero(repair, clean[0]), _zero(repair, clean[0]), _zero(repair, clean[0])
    originals: dict[Name, Tensor] = {"keys": clean[0], "values": clean[1]}
    for name, x, gate, u in _sides(repair, query, *corrupted):
        original = originals[name].detach().to(x.dtype)
        side = repair.key if name == "keys" else repair.value
        assert side is not None
        check = side.check(original) if side.token is not None and side.token.spec.checksum else None
        terms = _cut(layer_term(repair, name, x, check, None, starts), starts)
        damage = _cut(x - original, starts)
        left = left + _root(squared_change(terms, gate, u, damage))
        group = repair.layout.group
        damage_size = damage_size + (group * damage.square().sum(dim=(1, 2, 3))).sqrt()
        cache_size = cache_size + (group * _cut(original, starts).square().sum(dim=(1, 2, 3))).sqrt()
    effective = damage_size > NO_EFFECT * cache_size
    rho = torch.where(effective, left / torch.where(effective, damage_size + eps0, 1.0), 0.0)
    return Contraction(rho, effective)


def _sides(repair: LayerRepair, query: Tensor, key: Tensor, value: Tensor) -> list[tuple[Name, Tensor, Tensor, Tensor]]:
    """Name, tensor in the dtype of the operator, gate `[B, Hq, r]` of the last query row and U, for each repaired side."""
    c = repair.coefficients(query[:, :, -1:].detach())
    sides: list[tuple[Name, Tensor, Tensor, Tensor]] = []
    if c.a is not None and c.u is not None:
        sides.append(("keys", key.detach().to(c.u.dtype), c.a[:, :, 0], c.u))
    if c.b is not None and c.uv is not None:
        sides.append(("values", value.detach().to(c.uv.dtype), c.b[:, :, 0], c.uv))
    return sides


def _cut(x: Tensor, starts: Tensor | None) -> Tensor:
    """x `[B, Hkv, T, n]` with zeros in place of padding."""
    if starts is None:
        return x
    real = torch.arange(x.shape[2], device=x.device)[None] >= starts[:, None]
    return x * real[:, None, :, None]


def _root(x: Tensor) -> Tensor:
    """The square root of x >= 0, with gradient 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def _zero(repair: LayerRepair, like: Tensor) -> Tensor:
    side = repair.key or repair.value
    assert side is not None
    return torch.zeros(like.shape[0], dtype=side.W.dtype, device=like.device)
