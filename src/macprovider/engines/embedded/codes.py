"""Blocks of codes: how tokens of the cache are quantised, by the arithmetic of `modelwright.kv`, and packed for reading fast.

With 4 bits a byte holds two channels of a key (i and i + d/2) and two tokens of a value (i and i + 16 of the block), so that
both halves of the bytes unpack into whole runs of memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from macprovider.engines.base import KvBits
from macprovider.engines.embedded.layout import BLOCK
from modelwright.kv.quantisers import Quantised


def unpack(packed: Tensor, out: Tensor, dim: int) -> None:
    """Codes as numbers into `out`; with 4 bits its `dim` is twice that of `packed`, first the low halves of the bytes."""
    if packed.shape == out.shape:
        out.copy_(packed)
        return
    half = packed.shape[dim]
    out.narrow(dim, 0, half).copy_(packed & 15)
    out.narrow(dim, half, half).copy_(packed >> 4)


def leaving_blocks(tokens: int) -> int:
    """Whole blocks that leave a window of `tokens` tokens."""
    return max(0, tokens - BLOCK) // BLOCK


def quantised_blocks(length: int, before: int) -> int:
    """Blocks of a row of `length` tokens that had `before`."""
    return before + leaving_blocks(length - before * BLOCK)


def packed(keys: Quantised, values: Quantised, bits: KvBits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes and levels of `Quantised` keys and values `[n, Hkv, T, d]` as a layer stores them."""
    assert keys.zero is not None and values.zero is not None  # asymmetric formats
    key_codes = keys.codes.mT  # [n, Hkv, d, T]
    key_levels = torch.stack((keys.scale, keys.zero), dim=2).mT  # [n, Hkv, 2, d, T/32]
    value_codes = values.codes.unflatten(2, (-1, BLOCK))  # [n, Hkv, N, 32, d]
    value_levels = torch.stack((values.scale, values.zero), dim=2)[..., 0]  # [n, Hkv, 2, T]
    if bits == 4:
        half = key_codes.shape[2] // 2
        key_codes = key_codes[:, :, :half] | (key_codes[:, :, half:] << 4)
        half = BLOCK // 2
        value_codes = value_codes[:, :, :, :half] | (value_codes[:, :, :, half:] << 4)
    return key_codes, key_levels, value_codes, value_levels
