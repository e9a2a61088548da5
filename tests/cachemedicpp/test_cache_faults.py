from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from cachemedicpp.faults.cache_checks import (
    block_checksums,
    calibrate_limits,
    changed_blocks,
    clip_to_limits,
    outside_limits,
    restore_blocks,
)
from cachemedicpp.faults.cache_faults import (
    BlockFault,
    as_words,
    bit_numbers,
    count_flipped_bits,
    damage_block,
    evict,
    flip_at_rate,
    flip_bits,
    flip_periodic,
    flip_single_bits,
    keep_random,
    keep_sinks_and_recent,
)
from modelwright.errors import ConfigError

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])


def _cache(tokens: int = 72, dtype: torch.dtype = torch.float32, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, tokens, 8, generator=_seed(0)).to(dtype)


def _seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# ---- eviction


def test_sinks_and_recent_tokens_stay() -> None:
    kept = keep_sinks_and_recent(10, sinks=2, recent=3)
    assert kept.nonzero().flatten().tolist() == [0, 1, 7, 8, 9]
    assert bool(keep_sinks_and_recent(4, sinks=2, recent=3).all())
    x = _cache(10)
    assert torch.equal(evict(x, kept), x[:, :, [0, 1, 7, 8, 9]])


def test_random_eviction_loses_the_share_asked_for() -> None:
    kept = keep_random(100, 0.25, _seed(1), sinks=4, recent=16)
    assert int((~kept).sum()) == 20 and bool(kept[:4].all()) and bool(kept[84:].all())
    assert torch.equal(kept, keep_random(100, 0.25, _seed(1), sinks=4, recent=16))
    assert not torch.equal(kept, keep_random(100, 0.25, _seed(2), sinks=4, recent=16))
    assert bool(keep_random(50, 0.0, _seed(1)).all()) and not bool(keep_random(50, 1.0, _seed(1)).any())


def test_rows_may_lose_different_tokens_but_equally_many() -> None:
    x = _cache(50)
    kept = torch.stack([keep_random(50, 0.5, _seed(row)) for row in range(2)])
    short = evict(x, kept)
    assert torch.equal(short[0], x[0][:, kept[0]]) and torch.equal(short[1], x[1][:, kept[1]])
    kept[0] = True
    with pytest.raises(ConfigError, match="the same number in each row"):
        evict(x, kept)
    with pytest.raises(ConfigError, match="one entry for each token"):
        evict(x, kept[:, :-1])
    with pytest.raises(ConfigError, match="share of tokens that is lost"):
        keep_random(50, 1.5, _seed(0))
    with pytest.raises(ConfigError, match="sinks: found -1"):
        keep_sinks_and_recent(50, -1, 3)


# ---- bits


@DTYPES
def test_fields_are_those_of_ieee_754(dtype: torch.dtype) -> None:
    one = torch.ones(1, dtype=dtype)
    mantissa, exponent, sign = (bit_numbers(dtype, field) for field in ("mantissa", "exponent", "sign"))
    assert [*mantissa, *exponent, *sign] == list(bit_numbers(dtype))
    assert len(bit_numbers(dtype)) == 8 * one.element_size()

    def flipped(bit: int) -> float:
        return float(flip_periodic(one[None], [bit], 1)[0])

    assert flipped(sign[0]) == -1.0
    assert flipped(exponent[0]) == 0.5  # 1.0 has all exponent bits but the highest set
    assert flipped(exponent[-1]) == math.inf  # and then has all of them
    assert flipped(mantissa[0]) == 1.0 + torch.finfo(dtype).eps
    assert flipped(mantissa[-1]) == 1.5


@DTYPES
@pytest.mark.parametrize("field", ["any", "sign", "exponent", "mantissa"])
def test_single_flips_are_exactly_those_asked_for(dtype: torch.dtype, field: Any) -> None:
    x = _cache(dtype=dtype)
    before = x.clone()
    hit = flip_single_bits(x, 40, _seed(3), field)
    assert torch.equal(as_words(x), as_words(before))
    assert count_flipped_bits(x, hit) == 40 and int((as_words(x) != as_words(hit)).sum()) == 40
    allowed = set(bit_numbers(dtype, field))
    width = 8 * x.element_size()
    changed = (as_words(x) ^ as_words(hit)).flatten().tolist()
    bits = {(word % (1 << width)).bit_length() - 1 for word in changed if word}
    assert bits <= allowed and (field == "sign" or len(bits) > 1)
    assert torch.equal(as_words(flip_single_bits(x, 40, _seed(3), field)), as_words(hit))
    difference = as_words(x) ^ as_words(hit)
    assert torch.equal(as_words(flip_bits(hit, difference)), as_words(x))  # flipping again undoes it


@DTYPES
def test_flips_come_at_their_rate(dtype: torch.dtype) -> None:
    x = torch.zeros(4, 4, 64, 64, dtype=dtype)
    bits = len(bit_numbers(dtype, "exponent")) * x.numel()
    found = count_flipped_bits(x, flip_at_rate(x, 0.01, _seed(5), "exponent"))
    assert abs(found - 0.01 * bits) < 5 * math.sqrt(0.01 * 0.99 * bits)
    assert count_flipped_bits(x, flip_at_rate(x, 0.0, _seed(5))) == 0
    assert count_flipped_bits(x, flip_at_rate(x, 1.0, _seed(5), "sign")) == x.numel()


def test_periodic_flips_hit_every_nth_word() -> None:
    x = _cache(16, torch.bfloat16)
    hit = flip_periodic(x, (13, 14), period=64, offset=5)
    difference = (as_words(x) ^ as_words(hit)).flatten(1)
    expected = torch.zeros_like(difference)
    expected[:, 5::64] = 0b11 << 13
    assert torch.equal(difference, expected)
    with pytest.raises(ConfigError, match=r"bit numbers 0 to 15 of torch\.bfloat16"):
        flip_periodic(x, (16,), period=64)
    with pytest.raises(ConfigError, match=r"torch\.float32, torch\.bfloat16, torch\.float16"):
        flip_periodic(x.double(), (1,), period=64)
    with pytest.raises(ConfigError, match="any, sign, exponent, mantissa"):
        bit_numbers(torch.float32, "whole")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the number of words"):
        flip_single_bits(x, 10**6, _seed(0))


# ---- blocks

FAULTS = [
    BlockFault("zeroed", 2),
    BlockFault("swapped", 2, other=0),
    BlockFault("bit_flips", 2, rate=1e-3),
    BlockFault("bit_flips", 2, rate=3e-2, field="exponent"),
    BlockFault("periodic", 2, period=64, bits=(13, 14)),
    BlockFault("periodic", 2, period=4, bits=(15,)),
]
EACH = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}-{fault.field}-{fault.period}")


@EACH
@DTYPES
def test_one_block_is_damaged_and_the_checksums_find_it(fault: BlockFault, dtype: torch.dtype) -> None:
    x = _cache(dtype=dtype)
    clean = x.clone()
    checksums = block_checksums(x, 16)
    assert checksums.shape == (2, 5) and checksums.unique().numel() == 10
    hit = damage_block(x, fault, _seed(7), rows=[1])
    assert torch.equal(as_words(x), as_words(clean))
    changed = changed_blocks(hit, checksums, 16)
    expected = torch.zeros(2, 5, dtype=torch.bool)
    expected[1, [2] if fault.other is None else [2, fault.other]] = True
    assert torch.equal(changed, expected)
    tokens = (as_words(hit) != as_words(clean)).any(-1).any(1)  # [B, T]
    assert not bool((tokens & ~expected.repeat_interleave(16, 1)[:, :72]).any())
    assert torch.equal(as_words(restore_blocks(hit, clean, changed, 16)), as_words(clean))


def test_what_each_block_fault_does() -> None:
    x = _cache()
    assert not bool(damage_block(x, BlockFault("zeroed", 4))[:, :, 64:].any())  # the short last block
    swapped = damage_block(x, BlockFault("swapped", 1, other=3))
    order = [*range(16), *range(48, 64), *range(32, 48), *range(16, 32), *range(64, 72)]
    assert torch.equal(swapped, x[:, :, order])
    assert count_flipped_bits(x, damage_block(x, BlockFault("periodic", 0, period=64), rows=[0])) == 2 * 3 * 16 * 8 // 64
    hit = damage_block(x, BlockFault("bit_flips", 0, rate=0.5), _seed(1))
    assert torch.equal(as_words(hit), as_words(damage_block(x, BlockFault("bit_flips", 0, rate=0.5), _seed(1))))


def test_wrong_blocks_are_refused() -> None:
    x = _cache()
    with pytest.raises(ConfigError, match=r"0 to 4 \(72 tokens in blocks of 16\)"):
        damage_block(x, BlockFault("zeroed", 5))
    with pytest.raises(ConfigError, match="one of 16"):
        damage_block(x, BlockFault("swapped", 1, other=4))
    with pytest.raises(ConfigError, match="on the CPU for bit_flips"):
        damage_block(x, BlockFault("bit_flips", 1))
    with pytest.raises(ConfigError) as caught:
        BlockFault("melted", -1, size=0, rate=2, field="whole", period=0, offset=-1, bits=())  # type: ignore[arg-type]
    assert [fault.path for fault in caught.value.faults] == ["kind", "index", "size", "rate", "field", "period", "offset", "bits"]
    with pytest.raises(ConfigError, match="another block's index"):
        BlockFault("swapped", 1, other=1)


# ---- checksums and ranges


@DTYPES
def test_every_single_flipped_bit_is_found(dtype: torch.dtype) -> None:
    x = _cache(20, dtype, batch=1)
    checksums = block_checksums(x, 4)
    for bit in bit_numbers(dtype):
        for token in (0, 7, 19):
            words = torch.zeros_like(as_words(x))
            words[0, 1, token, 3] = torch.tensor(1 << bit).to(words.dtype)
            changed = changed_blocks(flip_bits(x, words), checksums, 4)
            assert changed[0].nonzero().flatten().tolist() == [token // 4]


def test_the_same_bit_flipped_in_many_words_is_found() -> None:
    # Sums, and sums weighted by position, miss patterns like this: the differences cancel.
    x = torch.ones(1, 1, 4, 8)
    x[0, 0, 1:3] = -1.0
    hit = -x
    assert int((as_words(hit).long() - as_words(x).long()).sum()) == 0
    assert bool(changed_blocks(hit, block_checksums(x, 4), 4).all())
    for period in (2, 3, 4, 8, 64):
        y = _cache(64, torch.bfloat16)
        for bit in range(16):
            assert bool(changed_blocks(flip_periodic(y, [bit], period), block_checksums(y, 16), 16).all())


def test_checksums_of_another_cache_are_refused() -> None:
    x = _cache()
    with pytest.raises(ConfigError, match="one for each block"):
        changed_blocks(x[:, :, :60], block_checksums(x, 16), 16)
    with pytest.raises(ConfigError, match="1 or more tokens"):
        block_checksums(x, 0)


@DTYPES
def test_clipping_bounds_what_leaves_the_range_and_nothing_else(dtype: torch.dtype) -> None:
    x = _cache(dtype=dtype)
    limits = calibrate_limits(iter([x[:1], x[1:]]))
    assert torch.equal(as_words(clip_to_limits(x, limits)), as_words(x)) and not bool(outside_limits(x, limits).any())
    hit = x.clone()
    hit[0, 1, 2, 3], hit[1, 2, 5, 6], hit[1, 0, 7, 0] = torch.inf, torch.nan, -100.0
    assert outside_limits(hit, limits).nonzero().tolist() == [[0, 1, 2, 3], [1, 0, 7, 0], [1, 2, 5, 6]]
    clipped = clip_to_limits(hit, limits)
    assert not bool(outside_limits(clipped, limits).any()) and clipped.dtype == dtype
    assert float(clipped[0, 1, 2, 3]) == float(x[:, 1, :, 3].max()) and float(clipped[1, 0, 7, 0]) == float(x[:, 0, :, 0].min())
    wider = calibrate_limits([x], margin=0.5)
    torch.testing.assert_close(wider.high - wider.low, 2 * (limits.high - limits.low))


def test_useless_calibrations_are_refused() -> None:
    x = _cache()
    with pytest.raises(ConfigError, match="at least one"):
        calibrate_limits([])
    with pytest.raises(ConfigError) as caught:
        calibrate_limits([x / 0], margin=-1)
    assert [fault.path for fault in caught.value.faults] == ["calibration", "margin"]
    with pytest.raises(ConfigError, match="the heads and channels of x"):
        clip_to_limits(x[:, :2], calibrate_limits([x]))
