"""The collapsed and the extended form with the fewest tensor operations, for inference: ten small ones around the kernel.

At one query row a layer's time goes into calls, not into numbers. So the hidden units of both gates and `U^T q` stand side
by side in n columns, and every later matrix has zeros where a column does not concern it:

    h = x E + e              columns [gates' first layers (m) | U^T q (r)]
    g = sigma(silu(h) M + f) columns [b | unused | a]
    q' = x + (g * h) P       P = alpha_max W^T in the rows of a, else 0
    out = o + (g * (o R)) S  R = W', S = alpha_max U'^T in the columns and rows of b, else 0

The extended form takes `alpha_max U^T q` in E instead, so that the r further dimensions of the query are the last columns
of `g * h`; with a token-dependent gate those of the output meet `g` and `alpha_max U'^T` without R.

The same numbers as `forms.collapsed` and `forms.extended_stored`, which stay the readable reference and serve training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from cachemedicpp.repair.forms import Kernel


class RowPlan(NamedTuple):
    """The merged matrices of one layer; a side that is not repaired has None. Letters as in the module's description."""

    entry: Tensor  # E [d, n]
    entry_bias: Tensor  # e [n] or [Hq, n]
    mix: Tensor  # M [n, n]
    mix_bias: Tensor  # f [n]
    key: Tensor | None  # P [n, d]
    value: tuple[Tensor, Tensor] | None  # R [d, n], S [n, d]
    wide_entry: Tensor  # E of the extended form
    rank: int


def row_plan(
    rank: int,
    entry: Tensor,
    entry_bias: Tensor,
    mix: Tensor,
    mix_bias: Tensor,
    gain: Tensor,
    key: tuple[Tensor, Tensor] | None,
    value: tuple[Tensor, Tensor] | None,
) -> RowPlan:
    """Merge the folded parameters of a layer whose heads share one set.

    entry `[n, d]`, entry_bias `[n]` or `[Hq, 1, n]`; mix `[m, m]`, mix_bias and gain `[m]`, keys before values; key and
    value: (W, U) `[d, r]`.
    """
    n, m = entry.shape[0], mix.shape[0]
    merged, bias = entry.new_zeros(n, n), entry.new_zeros(n)
    if key is not None:
        merged[:m, m:] = mix[:rank].mT
        bias[m:] = mix_bias[:rank]
    if value is not None:
        merged[:m, :rank] = mix[m - rank :].mT
        bias[:rank] = mix_bias[m - rank :]
    back = None
    if key is not None:
        back = entry.new_zeros(n, entry.shape[1])
        back[m:] = gain[:rank, None] * key[0].mT
    after = None
    if value is not None:
        after = (entry.new_zeros(entry.shape[1], n), entry.new_zeros(n, entry.shape[1]))
        after[0][:, :rank] = value[0]
        after[1][:rank] = gain[m - rank :, None] * value[1].mT
    by_head = entry_bias if entry_bias.ndim == 1 else entry_bias[:, 0]
    first = entry.mT.contiguous()
    further = first if key is None else torch.cat([first[:, :m], first[:, m:] * gain[:rank]], dim=1)
    return RowPlan(first, by_head, merged, bias, back, after, further, rank)


def collapsed_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, plan: RowPlan, kernel: Kernel) -> Tensor:
    """The collapsed form of `forms`, with per-query gates: query `[B, Hq, Tq, d]`, key and value `[B, Hkv, T, d]`."""
    x, hidden, gates = _gates(query, plan, plan.entry)
    if plan.key is not None:
        query = _like(query, torch.addmm(x, hidden.mul_(gates), plan.key))
    return _after(kernel(query, key, value, mask, scale), gates, plan)


def extended_rows(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, plan: RowPlan, token_gated: bool, kernel: Kernel
) -> Tensor:
    """The extended form of `forms` from a cache that holds the terms, with per-query gates.

    query `[B, Hq, Tq, d]`; key `[B, Hkv, T, d + r]`, or d where keys are not repaired; value the same, with d also where no
    gate looks at tokens. kernel: one that takes these widths (`forms.wide_attention`).
    """
    head_dim, rank = query.shape[-1], plan.rank
    _, hidden, gates = _gates(query, plan, plan.wide_entry)
    wide = query
    if plan.key is not None:
        further = hidden.mul_(gates).narrow(1, hidden.shape[1] - rank, rank).view(*query.shape[:3], rank)
        wide = torch.cat([query, further.to(query.dtype)], dim=-1)
    out = kernel(wide, key, value, mask, scale)
    if plan.value is None:
        return out[..., :head_dim]
    if not token_gated:
        return _after(out[..., :head_dim], gates, plan)
    o = out.reshape(-1, out.shape[-1])
    if o.dtype != plan.entry.dtype:
        o = o.to(plan.entry.dtype)
    summed = o[:, head_dim : head_dim + rank] * gates[:, :rank]
    return _like(query, torch.addmm(o[:, :head_dim], summed, plan.value[1][:rank]))


def _like(given: Tensor, rows: Tensor) -> Tensor:
    """Rows `[N, d]` in the shape and dtype of `given`. (`view(shape)` and a cast to the same dtype cost 7 and 2 us, `view_as` 2.)"""
    shaped = rows.view_as(given)
    return shaped if shaped.dtype == given.dtype else shaped.to(given.dtype)


def _gates(query: Tensor, plan: RowPlan, entry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows x `[N, d]`, h and g `[N, n]` in the dtype of the operator."""
    x = query.reshape(-1, query.shape[-1])
    if x.dtype != entry.dtype:
        x = x.to(entry.dtype)
    if plan.entry_bias.ndim == 1:
        hidden = torch.addmm(plan.entry_bias, x, entry)
    else:
        by_head = (x @ entry).view(*query.shape[:3], -1) + plan.entry_bias[:, None]
        hidden = by_head.view(-1, entry.shape[1])
    return x, hidden, torch.addmm(plan.mix_bias, F.silu(hidden), plan.mix).sigmoid_()


def _after(out: Tensor, gates: Tensor, plan: RowPlan) -> Tensor:
    """`o + (g * (o R)) S`; o itself where values are not repaired."""
    if plan.value is None:
        return out
    o = out.reshape(-1, out.shape[-1])
    if o.dtype != plan.entry.dtype:
        o = o.to(plan.entry.dtype)
    seen = torch.mm(o, plan.value[0]).mul_(gates)
    return _like(out, torch.addmm(o, seen, plan.value[1]))
