"""Codes of 2 to 8 bits, packed without a gap: eight codes of b bits fill b bytes, the first code in the lowest bits."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes `[..., n]`, each below 2^bits, as bytes `[..., n * bits / 8]`; n is a multiple of 8."""
    if bits == 8:
        return codes
    if 8 % bits == 0:  # several whole codes to a byte
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=codes.device)
        return (codes.unflatten(-1, (-1, 8 // bits)) << shifts).sum(-1, dtype=torch.uint8)
    word = torch.int32 if bits == 3 else torch.int64
    of_code = torch.arange(0, 8 * bits, bits, dtype=word, device=codes.device)
    of_byte = torch.arange(0, 8 * bits, 8, dtype=word, device=codes.device)
    words = (codes.unflatten(-1, (-1, 8)).to(word) << of_code).sum(-1, dtype=word)  # [..., n/8]
    return ((words[..., None] >> of_byte) & 255).to(torch.uint8).flatten(-2)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Bytes `[..., n * bits / 8]` of `pack` as uint8 codes `[..., n]`."""
    if bits == 8:
        return packed
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        return ((packed[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)
    word = torch.int32 if bits == 3 else torch.int64
    of_code = torch.arange(0, 8 * bits, bits, dtype=word, device=packed.device)
    of_byte = torch.arange(0, 8 * bits, 8, dtype=word, device=packed.device)
    words = (packed.unflatten(-1, (-1, bits)).to(word) << of_byte).sum(-1, dtype=word)
    return ((words[..., None] >> of_code) & ((1 << bits) - 1)).to(torch.uint8).flatten(-2)
