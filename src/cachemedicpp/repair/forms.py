"""The three forms of a repair inside attention: materialised (the reference), extended and collapsed. (specs/medic.md, 12.3)

    materialised   K_hat, V_hat for every query row and query head; never served
    extended       q~ = [q ; a * U^T q],  K~ = [K ; K W or phi(K)],  V~ = [V ; phi(V)]: r more dimensions in any kernel
    collapsed      q' = q + W (a * U^T q) before any kernel, out = o + U' (b * W'^T o) after it: nothing per token

Shapes: query `[B, Hq, Tq, d]`, key and value `[B, Hkv, T, d]`, output `[B, Hq, Tq, d]`. mask: bool (True is seen) or additive,
`[B, 1 or Hq, Tq, T]`; None means causal from the first token on, or everything for a single query row. scale: softmax
scale of the layer, None for 1/sqrt(d): it never follows the width that the kernel sees (placement rule 1). Keys are as
cached, rotated ones rotated (rule 3). Small products run in the dtype of the operator and are cast once (rule 8).
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from cachemedicpp.repair.operator import Coefficients, rows_times
from cachemedicpp.repair.spec import OperatorSpec
from modelwright.errors import ConfigError, Fault

Form = Literal["materialised", "extended", "collapsed"]
WIDTH_MULTIPLE = 8
WIDEST = 256
"""Head widths of the usual kernels: multiples of 8 up to 256."""


class FormError(ConfigError):
    """A form cannot express the operator; every reason at once, by name."""


class Kernel(Protocol):
    """An unmodified attention kernel with an explicit scale; `[B, Hq, Tq, d]` in and out."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor: ...


def require_form(form: str, spec: OperatorSpec, head_dim: int) -> None:
    """Raise FormError when `form` cannot express the operator `spec` on heads of `head_dim` dimensions. (12.4)"""
    faults = []
    if form not in get_args(Form):
        raise FormError([Fault("form", repr(form), ", ".join(get_args(Form)))])
    if form == "collapsed" and spec.family == "D":
        todo = "the token-dependent gate phi(K) looks at each cached token, which the collapsed form never does"
        faults.append(Fault("form", "'collapsed' with family D (a token-dependent gate)", "extended, materialised", todo))
    if form != "materialised" and spec.renormalise:
        todo = "the length of a repaired key depends on query and token together, which no folded form can express"
        faults.append(Fault("form", f"{form!r} with renormalisation after repair", "materialised", todo))
    if form == "extended" and (width := kernel_width(head_dim + spec.rank)) > WIDEST:
        other = "a smaller rank" if spec.family == "D" else "collapsed"
        found = f"'extended' with a width of {width} (head dimension {head_dim} + rank {spec.rank}, padded to {WIDTH_MULTIPLE})"
        faults.append(Fault("form", found, f"at most {WIDEST}", f"use {other}"))
    if faults:
        raise FormError(faults)


def kernel_width(width: int) -> int:
    """`width` rounded up to the multiple that fused kernels take."""
    return -(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def sdpa_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """torch's scaled-dot-product attention with grouped queries."""
    causal = mask is None and query.shape[2] > 1
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped)


def collapsed(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, c: Coefficients, kernel: Kernel = sdpa_kernel
) -> Tensor:
    """The collapsed form. Raises FormError for a token-dependent gate and for renormalisation."""
    if c.token_gated or c.renormalise:
        raise _cannot("collapsed", c)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if c.a is not None:
        assert c.w is not None
        query = (rows_times(c.a * _query_product(query, c), c.w) + query).to(query.dtype)
    return _after_kernel(kernel(query, key, value, mask, scale), c)


def extended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    c: Coefficients,
    key_terms: Tensor | None = None,
    value_terms: Tensor | None = None,
    kernel: Kernel = sdpa_kernel,
) -> Tensor:
    """The extended form, from keys and values of width d.

    key_terms, value_terms: what `a` and `b` multiply, `[B, Hkv, T, r]`; phi(K), phi(V) are needed with a token-dependent
    gate, `K W` is computed when left out. Raises FormError for renormalisation.
    """
    if c.a is not None:
        key = extend(key, _terms(key, key_terms, c.w, c))
    if c.b is not None and c.token_gated:
        value = extend(value, _terms(value, value_terms, c.wv, c))
    return extended_stored(query, key, value, mask, scale, c, kernel)


def extended_stored(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, c: Coefficients, kernel: Kernel = sdpa_kernel
) -> Tensor:
    """The extended form, from a cache that holds `[K ; terms]` and, with a token-dependent gate, `[V ; terms]`."""
    if c.renormalise:
        raise _cannot("extended", c)
    head_dim = query.shape[-1]
    scale = head_dim**-0.5 if scale is None else scale
    if c.a is not None:
        query = extend(query, c.a * _query_product(query, c))
    out = wide_attention(query, key, value, mask, scale, kernel)
    if c.b is None:
        return out[..., :head_dim]
    if not c.token_gated:
        return _after_kernel(out[..., :head_dim], c)
    assert c.uv is not None
    summed = out[..., head_dim : head_dim + c.b.shape[-1]]
    return (rows_times(c.b * summed, c.uv) + out[..., :head_dim]).to(out.dtype)


def wide_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, kernel: Kernel = sdpa_kernel) -> Tensor:
    """Attention of a query and a key of the same extended width with values of that width or a smaller one.

    Returns at least the width of the values. One row goes through plain products where they cost less than the kernel:
    fused kernels want equal widths, so the whole cache would be padded, and that of the processor reads grouped keys anew
    for every query head.
    """
    if query.shape[2] == 1:
        grouped = query.shape[1] != key.shape[1] and query.device.type == "cpu" and query.dtype.itemsize > 2
        if grouped or key.shape[-1] != value.shape[-1]:
            return single_row(query, key, value, mask, scale)
    # The processor's kernel takes any width; the others want a multiple of 8.
    width = max(key.shape[-1], value.shape[-1])
    width = width if query.device.type == "cpu" else kernel_width(width)
    return kernel(_padded(query, width), _padded(key, width), _padded(value, width), mask, scale)


def extend(x: Tensor, terms: Tensor) -> Tensor:
    """`[x ; terms]` along the last dimension, in the dtype of x."""
    return torch.cat([x, terms.to(x.dtype)], dim=-1)


def materialised(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    c: Coefficients,
    key_terms: Tensor | None = None,
    value_terms: Tensor | None = None,
    kernel: Kernel = sdpa_kernel,
) -> Tensor:
    """The reference: repairs the whole cache for each query row (once, when one row gates all). Arguments as `extended`.

    O(Hq T d r) for each row. Cast to the dtype of the model before attention.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key_terms = None if c.a is None else _terms(key, key_terms, c.w, c)
    value_terms = None if c.b is None else _terms(value, value_terms, c.wv, c)
    rows, tokens = query.shape[2], key.shape[2]
    if rows == 1 or all(gate is None or gate.shape[2] == 1 for gate in (c.a, c.b)):
        k_hat = repaired(key, key_terms, c.a, c.u, query.shape[1], 0, c.renormalise)
        v_hat = repaired(value, value_terms, c.b, c.uv, query.shape[1], 0, c.renormalise)
        return kernel(query, k_hat, v_hat, mask, scale)
    if mask is None:
        mask = torch.ones(rows, tokens, dtype=torch.bool, device=query.device).tril()[None, None]
    outputs = []
    for row in range(rows):
        k_hat = repaired(key, key_terms, c.a, c.u, query.shape[1], row, c.renormalise)
        v_hat = repaired(value, value_terms, c.b, c.uv, query.shape[1], row, c.renormalise)
        outputs.append(kernel(query[:, :, row : row + 1], k_hat, v_hat, mask[:, :, row : row + 1], scale))
    return torch.cat(outputs, dim=2)


def repaired(
    x: Tensor, terms: Tensor | None, gate: Tensor | None, u: Tensor | None, query_heads: int, row: int = -1, renormalise: bool = False
) -> Tensor:
    """`x_hat = x + (terms * gate_row) U^T` for every query head, `[B, Hq, T, d]`; x itself for a side left alone.

    x: keys or values `[B, Hkv, T, d]`; terms `[B, Hkv, T, r]`; gate `[B, Hq, Tq or 1, r]`.
    """
    group = query_heads // x.shape[1]
    full = x.repeat_interleave(group, dim=1)
    if terms is None or gate is None or u is None:
        return full
    chosen = gate[:, :, :1] if gate.shape[2] == 1 else gate[:, :, row : row + 1 or None]
    change = rows_times(terms.repeat_interleave(group, dim=1) * chosen, u)
    if not renormalise:
        return (full + change).to(x.dtype)
    moved = full + change
    length = full.to(moved.dtype).norm(dim=-1, keepdim=True)
    return (moved * length / moved.norm(dim=-1, keepdim=True).clamp_min(1e-8)).to(x.dtype)


def single_row(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of one query row as two plain products; key and value may differ in width, values be wider or not."""
    return _mixed(_logits(query, key, mask, scale).softmax(-1, dtype=torch.float32 if query.dtype.itemsize == 2 else None), value)


def old_tokens_only(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, c: Coefficients, recent: int
) -> Tensor:
    """Repair all but the `recent` newest tokens, exactly: two collapsed passes merged by log-sum-exp (placement rule 10).

    The old part sees `q'` and the value map, the recent part plain q. Holds the logits `[B, Hq, Tq, T]` in memory.
    Raises FormError as `collapsed` does.
    """
    if c.token_gated or c.renormalise:
        raise _cannot("collapsed", c)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if mask is None and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
    old = max(0, key.shape[2] - recent)
    parts, sizes = [], []
    for repaired_part, span in ((True, slice(0, old)), (False, slice(old, None))):
        rows = query
        if repaired_part and c.a is not None:
            assert c.w is not None
            rows = rows_times(c.a * _query_product(query, c), c.w) + query
        seen = None if mask is None else mask[..., span]
        logits = _logits(rows, key[:, :, span].to(rows.dtype), seen, scale)
        size = logits.logsumexp(-1, keepdim=True)
        out = _mixed((logits - size.nan_to_num(neginf=0.0)).exp(), value[:, :, span])
        parts.append(_after_kernel(out, c) if repaired_part else out)
        sizes.append(size)
    share = (sizes[0] - torch.logaddexp(*sizes)).exp().nan_to_num()  # a row that sees nothing at all
    return (parts[0] * share + parts[1] * (1 - share)).to(query.dtype)


def _query_product(query: Tensor, c: Coefficients) -> Tensor:
    """`U^T q` `[B, Hq, Tq, r]`."""
    assert c.u is not None
    return rows_times(query.to(c.u.dtype), c.u.mT) if c.uq is None else c.uq


def _after_kernel(out: Tensor, c: Coefficients) -> Tensor:
    """`o + U' (b * W'^T o)`."""
    if c.b is None:
        return out
    assert c.wv is not None and c.uv is not None
    return (rows_times(c.b * rows_times(out.to(c.wv.dtype), c.wv.mT), c.uv) + out).to(out.dtype)


def _terms(x: Tensor, terms: Tensor | None, weight: Tensor | None, c: Coefficients) -> Tensor:
    if terms is not None:
        return terms
    if c.token_gated or weight is None:
        raise ValueError("a token-dependent gate needs the terms phi(K), phi(V) of every cached token")
    return x.to(weight.dtype) @ weight


def _padded(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


def _logits(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Scaled and masked logits `[B, Hq, Tq, T]`; query heads meet their KV head without copies of the keys."""
    batch, heads, rows, width = query.shape
    grouped = (query * scale).reshape(batch * key.shape[1], heads // key.shape[1] * rows, width)
    logits = torch.bmm(grouped, key.flatten(0, 1).mT).view(batch, heads, rows, key.shape[2])
    if mask is None:
        return logits
    return logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask


def _mixed(weights: Tensor, value: Tensor) -> Tensor:
    """Weights `[B, Hq, Tq, T]` times values `[B, Hkv, T, dv]`."""
    batch, heads, rows, tokens = weights.shape
    grouped = weights.to(value.dtype).reshape(batch * value.shape[1], heads // value.shape[1] * rows, tokens)
    return torch.bmm(grouped, value.flatten(0, 1)).view(batch, heads, rows, value.shape[-1])


def _cannot(form: str, c: Coefficients) -> FormError:
    found = "renormalisation after repair" if c.renormalise else "a token-dependent gate"
    allowed = "materialised" if c.renormalise else "extended, materialised"
    return FormError([Fault("form", f"{form!r} with {found}", allowed, "choose an allowed form")])
