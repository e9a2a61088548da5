"""Faults that users of a KV cache really meet, as functions of tensors: eviction, damaged blocks, flipped bits.

Keys or values are x `[B, H, T, d]` (sequences, KV heads, tokens, channels), float32, bfloat16 or float16; every
function returns a new tensor and leaves x alone. A paged cache keeps `size` tokens to a block: block i of a sequence
holds tokens i*size to (i+1)*size - 1 of all its heads, and the last block may be shorter. Draws come from a CPU
generator, so that every device sees the same fault. The defences are in `cache_checks.py`, quantisation in
`modelwright.kv`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from modelwright.errors import ConfigError, Fault

BitField = Literal["any", "sign", "exponent", "mantissa"]
BlockFaultKind = Literal["zeroed", "swapped", "bit_flips", "periodic"]

# dtype: (integer view, mantissa bits, exponent bits); mantissa lowest, then exponent, the sign on top (IEEE 754).
_WORDS: dict[torch.dtype, tuple[torch.dtype, int, int]] = {
    torch.float32: (torch.int32, 23, 8),
    torch.bfloat16: (torch.int16, 7, 8),
    torch.float16: (torch.int16, 10, 5),
}


@dataclass(frozen=True)
class BlockFault:
    """Damage to block `index` of a paged cache with `size` tokens to a block.

    kind: `zeroed`; `swapped` with block `other` (a wrong entry in the block table); `bit_flips`, every bit of `field`
    on its own with probability `rate`; `periodic`, the bits `bits` of every `period`-th word from word `offset` on, in
    the order heads, tokens, channels (a failing DRAM or HBM row hits several bits at a regular distance). Bit 0 is
    the lowest. Raises ConfigError with every fault at once.
    """

    kind: BlockFaultKind
    index: int
    size: int = 16
    other: int | None = None
    rate: float = 1e-3
    field: BitField = "any"
    period: int = 64
    offset: int = 0
    bits: tuple[int, ...] = (13, 14)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        faults = []

        def check(name: str, good: bool, allowed: str) -> None:
            if not good:
                faults.append(Fault(name, repr(getattr(self, name)), allowed))

        check("kind", self.kind in get_args(BlockFaultKind), ", ".join(get_args(BlockFaultKind)))
        check("index", self.index >= 0, "0 or more")
        check("size", self.size >= 1, "1 or more tokens; 16 is usual")
        needs_other = self.kind == "swapped"
        check(
            "other", not needs_other or (self.other is not None and self.other >= 0 and self.other != self.index), "another block's index"
        )
        check("rate", 0 <= self.rate <= 1, "a probability from 0 to 1")
        check("field", self.field in get_args(BitField), ", ".join(get_args(BitField)))
        check("period", self.period >= 1, "1 or more words")
        check("offset", self.offset >= 0, "0 or more words")
        check("bits", bool(self.bits) and min(self.bits) >= 0, "at least one bit number, 0 for the lowest")
        if faults:
            raise ConfigError(faults)


def keep_sinks_and_recent(tokens: int, sinks: int, recent: int) -> Tensor:
    """Which of `tokens` tokens stay, bool `[T]`: the first `sinks` and the last `recent` (StreamingLLM, Xiao et al.
    2024). Keys keep the position they were rotated to."""
    _at_least_zero(sinks=sinks, recent=recent)
    position = torch.arange(tokens)
    return (position < sinks) | (position >= tokens - recent)


def keep_random(tokens: int, share: float, generator: torch.Generator, sinks: int = 0, recent: int = 0) -> Tensor:
    """Which of `tokens` tokens stay, bool `[T]`: `share` (0 to 1) of those between the first `sinks` and the last
    `recent` are lost, rounded to whole tokens, drawn without replacement."""
    if not 0 <= share <= 1:
        raise ConfigError([Fault("share", repr(share), "0 to 1, the share of tokens that is lost")])
    kept = keep_sinks_and_recent(tokens, sinks, recent)
    middle = (~kept).nonzero().squeeze(-1)
    order = torch.randperm(len(middle), generator=generator)
    kept[middle[order[round(share * len(middle)) :]]] = True
    return kept


def evict(x: Tensor, kept: Tensor) -> Tensor:
    """x without the tokens that are not kept, `[B, H, T', d]`. kept: bool `[T]`, or `[B, T]` with equally many in
    each row (else mask them in attention instead; ConfigError)."""
    rows = kept.to(x.device).expand(x.shape[0], -1)
    counts = rows.sum(-1)
    faults = []
    if rows.shape[1] != x.shape[2]:
        faults.append(Fault("kept", f"{rows.shape[1]} tokens", f"{x.shape[2]}, one entry for each token"))
    if len(counts) and counts.min() != counts.max():
        faults.append(Fault("kept", f"{int(counts.min())} to {int(counts.max())} tokens by row", "the same number in each row"))
    if faults:
        raise ConfigError(faults)
    places = rows.nonzero()[:, 1].reshape(x.shape[0], 1, -1, 1)  # ascending in each row
    return x.gather(2, places.expand(-1, x.shape[1], -1, x.shape[3]))


def damage_block(x: Tensor, fault: BlockFault, generator: torch.Generator | None = None, rows: Sequence[int] | None = None) -> Tensor:
    """x with one block of the sequences `rows` (all when None) damaged. `bit_flips` draws from the generator.

    Raises ConfigError for a block that is not there, a swap of blocks of unequal length, a bit that the words do not
    have, or bit flips without a generator.
    """
    here = _block(x, fault.size, fault.index)
    chosen = torch.arange(x.shape[0]) if rows is None else torch.as_tensor(rows, dtype=torch.long)
    chosen = chosen.to(x.device)
    damaged = x.clone()
    block = x[chosen][:, :, here]  # [rows, H, n, d]
    if fault.kind == "swapped":
        assert fault.other is not None  # checked by BlockFault
        there = _block(x, fault.size, fault.other)
        other = x[chosen][:, :, there]
        if other.shape != block.shape:
            raise ConfigError([Fault("other", f"a block of {other.shape[2]} tokens", f"one of {block.shape[2]}, as the damaged one")])
        damaged[chosen, :, there] = block
        damaged[chosen, :, here] = other
        return damaged
    damaged[chosen, :, here] = _damaged(block, fault, generator)
    return damaged


def _damaged(block: Tensor, fault: BlockFault, generator: torch.Generator | None) -> Tensor:
    if fault.kind == "zeroed":
        return torch.zeros_like(block)
    if fault.kind == "periodic":
        return flip_periodic(block, fault.bits, fault.period, fault.offset)
    if generator is None:
        raise ConfigError([Fault("generator", "none", "a torch.Generator on the CPU for bit_flips")])
    return flip_at_rate(block, fault.rate, generator, fault.field)


def bit_numbers(dtype: torch.dtype, field: BitField = "any") -> range:
    """The bits of a field of the dtype's words, 0 for the lowest. Raises ConfigError for another dtype or field."""
    _, mantissa, exponent = _word(dtype)
    ranges: dict[str, range] = {
        "any": range(mantissa + exponent + 1),
        "sign": range(mantissa + exponent, mantissa + exponent + 1),
        "exponent": range(mantissa, mantissa + exponent),
        "mantissa": range(mantissa),
    }
    if field not in ranges:
        raise ConfigError([Fault("field", repr(field), ", ".join(ranges))])
    return ranges[field]


def as_words(x: Tensor) -> Tensor:
    """The stored words of x as signed integers of the same width, same shape."""
    return x.contiguous().view(_word(x.dtype)[0])


def flip_bits(x: Tensor, words: Tensor) -> Tensor:
    """x with the bits that are set in `words` (integers as of `as_words`, broadcast to x) inverted."""
    return (as_words(x) ^ words.to(x.device)).view(x.dtype)


def flip_single_bits(x: Tensor, count: int, generator: torch.Generator, field: BitField = "any") -> Tensor:
    """x with one bit of `field` inverted in each of `count` different words, both drawn evenly."""
    if not 0 <= count <= x.numel():
        raise ConfigError([Fault("count", str(count), f"0 to {x.numel()}, the number of words")])
    bits = bit_numbers(x.dtype, field)
    places = torch.randperm(x.numel(), generator=generator)[:count]
    drawn = torch.randint(bits.start, bits.stop, (count,), generator=generator)
    words = torch.zeros(x.numel(), dtype=_word(x.dtype)[0])
    words[places] = _masks(x.dtype)[drawn]
    return flip_bits(x, words.reshape(x.shape))


def flip_at_rate(x: Tensor, rate: float, generator: torch.Generator, field: BitField = "any") -> Tensor:
    """x with every bit of `field` inverted on its own with probability `rate`."""
    masks = _masks(x.dtype)
    words = torch.zeros(x.shape, dtype=masks.dtype)
    for bit in bit_numbers(x.dtype, field):
        words |= masks[bit] * (torch.rand(x.shape, generator=generator, dtype=torch.float64) < rate)
    return flip_bits(x, words)


def flip_periodic(x: Tensor, bits: Iterable[int], period: int, offset: int = 0) -> Tensor:
    """x with the same bits inverted in every `period`-th word of each sequence from word `offset` on, in the order
    heads, tokens, channels: the multi-bit pattern of a failing memory row."""
    masks = _masks(x.dtype)
    chosen = sorted(set(bits))
    if not chosen or chosen[0] < 0 or chosen[-1] >= len(masks):
        raise ConfigError([Fault("bits", repr(chosen), f"bit numbers 0 to {len(masks) - 1} of {x.dtype}")])
    words = torch.zeros(x[0].numel(), dtype=masks.dtype)
    words[offset::period] = masks[chosen].sum().to(masks.dtype)  # different bits: the sum is their union
    return flip_bits(x, words.reshape(x.shape[1:]))


def count_flipped_bits(before: Tensor, after: Tensor) -> int:
    """In how many bits the words of two tensors of one shape and dtype differ."""
    difference = as_words(before) ^ as_words(after)
    masks = _masks(before.dtype).to(before.device)
    return sum(int((difference & mask != 0).sum()) for mask in masks)


def _word(dtype: torch.dtype) -> tuple[torch.dtype, int, int]:
    if dtype not in _WORDS:
        raise ConfigError([Fault("dtype", str(dtype), ", ".join(map(str, _WORDS)))])
    return _WORDS[dtype]


def _masks(dtype: torch.dtype) -> Tensor:
    """One word for each bit, with that bit set; the sign's is the most negative integer."""
    word = _word(dtype)[0]
    width = torch.iinfo(word).bits
    return torch.ones(width, dtype=torch.int64).bitwise_left_shift(torch.arange(width)).to(word)


def _block(x: Tensor, size: int, index: int) -> slice:
    """The tokens of a block of x."""
    blocks = -(-x.shape[2] // size)
    if not 0 <= index < blocks:
        raise ConfigError([Fault("block", str(index), f"0 to {blocks - 1} ({x.shape[2]} tokens in blocks of {size})")])
    return slice(index * size, min((index + 1) * size, x.shape[2]))


def _at_least_zero(**counts: int) -> None:
    faults = [Fault(name, str(count), "0 or more tokens") for name, count in counts.items() if count < 0]
    if faults:
        raise ConfigError(faults)
