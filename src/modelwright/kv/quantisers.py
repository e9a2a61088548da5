"""Quantise and dequantise keys or values, and the two at once for measuring what the loss does to a model.

Scales and zeros are float16, rounded outwards so that the levels cover the whole group: the error of a value is never
more than half a step of its group (plus the rounding of the output dtype), unless outliers or a residual make it
smaller. Values beyond ±65504 saturate and NaN counts as 0, because codes cannot hold them; nothing non-finite comes out.
Everything is computed in float32, per block of tokens, without randomness.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from modelwright.errors import ConfigError, Fault
from modelwright.kv.hadamard import rotate, unrotate
from modelwright.kv.packing import pack, unpack
from modelwright.kv.settings import FULL, KVQuantisation, TensorFormat

LIMIT = 65504.0
"""The largest float16."""


@dataclass(frozen=True)
class Quantised:
    """One quantised tensor of T tokens, N = T / block blocks, groups of gt tokens x gc channels. In every part,
    dimension 2 runs over time.

    codes  uint8 [B, H, T, d], or packed [B, H, T, d*bits/8]
    scale  float16 [B, H, T/gt, d/gc]        zero  the same, None where symmetric
    outlier_index  int16 [B, H, N, n]: position in the block, token by token, wrapped from 16 unsigned bits
    outlier_value  [B, H, N, n] in the input's dtype
    left, right    float16 [B, H, T, r] and [B, H, N, r, d]: the low-rank residual
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None
    outlier_index: Tensor | None = None
    outlier_value: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all parts as they are."""
        return sum(part.nbytes for part in self.parts().values())


def quantise(x: Tensor, form: TensorFormat) -> Quantised:
    """x `[B, H, T, d]`, float32, bfloat16 or float16, T a multiple of the block, with unpacked codes.

    Raises ConfigError for a T or d that the format was not made for, and for a format that leaves x as it is.
    """
    _check(x, form)
    values = x.detach().float()
    if form.hadamard:
        values = rotate(values, form.seed)
    values = values.nan_to_num(nan=0.0, posinf=LIMIT, neginf=-LIMIT).clamp(-LIMIT, LIMIT)
    grouped = _group(values, form)  # [B, H, T/gt, gt, d/gc, gc]
    index, kept = _outliers(grouped, form)
    scale, zero = _scales(grouped, kept, form)
    step = _spread(scale).masked_fill(_spread(scale) == 0, 1.0)
    codes = (grouped - _spread(_zero(scale, zero, form))).div_(step).round_().clamp_(0, form.levels)
    done = Quantised(codes.to(torch.uint8).reshape(x.shape), scale, zero)
    if index is not None:
        picked = _blocks(values, form).flatten(-2).gather(-1, index)  # [B, H, N, n]
        done = replace(done, outlier_index=index.to(torch.int16), outlier_value=picked.to(x.dtype))
    if form.rank:
        left, right = _residual(values - _restore(done, form), form)
        done = replace(done, left=left, right=right)
    return done


def dequantise(quantised: Quantised, form: TensorFormat, dtype: torch.dtype, *, rotated: bool = False) -> Tensor:
    """`[B, H, T, d]` in `dtype` from unpacked codes. rotated: leave a Hadamard rotation in (for rotated queries)."""
    values = _restore(quantised, form)
    if form.hadamard and not rotated:
        values = unrotate(values, form.seed)
    return (values.clamp_(-LIMIT, LIMIT) if dtype == torch.float16 else values).to(dtype)


def packed(quantised: Quantised, form: TensorFormat) -> Quantised:
    """The same with packed codes: the form to keep."""
    return replace(quantised, codes=pack(quantised.codes, form.bits))


def unpacked(quantised: Quantised, form: TensorFormat) -> Quantised:
    """The inverse of `packed`."""
    return replace(quantised, codes=unpack(quantised.codes, form.bits))


def fake_quantise(x: Tensor, form: TensorFormat) -> Tensor:
    """x `[B, H, T, d]` of any T as it reads back from a quantised cache: the oldest whole blocks lossy, the rest as
    it was. Bit for bit what a `TensorStore` returns."""
    old = form.quantised_tokens(x.shape[2])
    if old == 0:
        return x
    return torch.cat((dequantise(quantise(x[:, :, :old], form), form, x.dtype), x[:, :, old:]), dim=2)


def fake_quantise_cache(key: Tensor, value: Tensor, settings: KVQuantisation) -> tuple[Tensor, Tensor]:
    """Both halves of a layer's cache `[B, H, T, d]` through `fake_quantise`. d of keys and values may differ."""
    key_form = settings.format("key", key.shape[-1])
    value_form = settings.format("value", value.shape[-1])
    return fake_quantise(key, key_form), fake_quantise(value, value_form)


def _check(x: Tensor, form: TensorFormat) -> None:
    faults = []
    if form.bits == FULL:
        faults.append(Fault("bits", str(FULL), "2 to 8 bits to quantise", "Keep this half of the cache as it is"))
    if x.dim() != 4 or x.shape[-1] != form.head_dim:
        faults.append(Fault("shape", str(list(x.shape)), f"[batch, heads, tokens, {form.head_dim}]"))
    elif x.shape[2] % form.block:
        faults.append(Fault("tokens", str(x.shape[2]), f"a multiple of the block {form.block}", "Keep the rest in full precision"))
    if faults:
        raise ConfigError(faults)


def _group(values: Tensor, form: TensorFormat) -> Tensor:
    """[B, H, T, d] -> [B, H, T/gt, gt, d/gc, gc]"""
    batch, heads, tokens, width = values.shape
    gt, gc = form.group_tokens, form.group_channels
    return values.reshape(batch, heads, tokens // gt, gt, width // gc, gc)


def _blocks(values: Tensor, form: TensorFormat) -> Tensor:
    """[B, H, T, d] -> [B, H, N, block, d]"""
    return values.unflatten(2, (values.shape[2] // form.block, form.block))


def _spread(scale: Tensor) -> Tensor:
    """[B, H, T/gt, d/gc] -> float32 [B, H, T/gt, 1, d/gc, 1]"""
    return scale.float()[:, :, :, None, :, None]


def _outliers(grouped: Tensor, form: TensorFormat) -> tuple[Tensor | None, Tensor | None]:
    """The values of each block farthest from their group's mean (from zero where symmetric).

    Returns their positions, int64 [B, H, N, n], and the mask of all other values in the shape of `grouped`.
    """
    if not form.outliers:
        return None, None
    centre = 0.0 if form.symmetric else grouped.mean(dim=(3, 5), keepdim=True)
    batch, heads = grouped.shape[:2]
    distance = (grouped - centre).abs().reshape(batch, heads, -1, form.block * form.head_dim)
    index = distance.topk(form.outliers, dim=-1).indices
    kept = torch.ones_like(distance, dtype=torch.bool).scatter_(-1, index, False)
    return index, kept.reshape(grouped.shape)


def _scales(grouped: Tensor, kept: Tensor | None, form: TensorFormat) -> tuple[Tensor, Tensor | None]:
    """float16 scale and zero (the lowest level) of each group, [B, H, T/gt, d/gc], over the kept values."""
    if form.symmetric:
        size = grouped.abs() if kept is None else grouped.abs() * kept
        return _half_above(size.amax(dim=(3, 5)) / (form.levels // 2)), None
    if kept is None:
        low, high = grouped.amin(dim=(3, 5)), grouped.amax(dim=(3, 5))
    else:
        low = grouped.masked_fill(~kept, torch.inf).amin(dim=(3, 5))
        high = grouped.masked_fill(~kept, -torch.inf).amax(dim=(3, 5))
        empty = low > high  # a group of outliers only
        low, high = low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0)
    zero = -_half_above(-low)
    return _half_above((high - zero.float()) / form.levels), zero


def _zero(scale: Tensor, zero: Tensor | None, form: TensorFormat) -> Tensor:
    return scale.float() * -(form.levels // 2) if zero is None else zero


def _half_above(x: Tensor) -> Tensor:
    """The smallest float16 that is not below x, for |x| <= 65504: the nearest, moved one word up where it is below."""
    near = x.half()
    word = near.view(torch.int16)
    # Positive words grow with the value, negative ones shrink; above zero (of either sign) comes word 1.
    above = torch.where(near > 0, word + 1, torch.where(near < 0, word - 1, torch.ones_like(word)))
    return torch.where(near.float() < x, above.view(torch.float16), near)


def _restore(quantised: Quantised, form: TensorFormat) -> Tensor:
    """float32 [B, H, T, d], still rotated, from whatever parts are there."""
    scale = quantised.scale
    values = _group(quantised.codes.float(), form).mul_(_spread(scale)).add_(_spread(_zero(scale, quantised.zero, form)))
    values = values.reshape(quantised.codes.shape)
    if quantised.left is not None and quantised.right is not None:
        product = _blocks(quantised.left.float(), form) @ quantised.right.float()  # [B, H, N, block, d]
        values = values + product.reshape(values.shape)
    if quantised.outlier_index is not None and quantised.outlier_value is not None:
        places = quantised.outlier_index.long() & 0xFFFF
        flat = _blocks(values, form).flatten(-2)
        values = flat.scatter(-1, places, quantised.outlier_value.float()).reshape(values.shape)
    return values


def _residual(error: Tensor, form: TensorFormat) -> tuple[Tensor, Tensor]:
    """The best rank-r approximation of each block's error E [block, d]: E V V^T with V the r leading eigenvectors of
    E^T E. Returns float16 E V [B, H, T, r] and V^T [B, H, N, r, d]."""
    blocks = _blocks(error, form)
    vectors = torch.linalg.eigh(blocks.mT @ blocks).eigenvectors[..., -form.rank :]  # [B, H, N, d, r]
    right = vectors.half()
    left = (blocks @ right.float()).clamp_(-LIMIT, LIMIT).half()
    return left.flatten(2, 3), right.mT.contiguous()
