from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from modelwright.errors import ConfigError
from modelwright.kv.hadamard import rotate, unrotate
from modelwright.kv.packing import pack, unpack
from modelwright.kv.quantisers import LIMIT, dequantise, fake_quantise, fake_quantise_cache, packed, quantise, unpacked
from modelwright.kv.settings import BITS, FULL, KVQuantisation, bits_per_value, bytes_per_token, cache_bytes, parse
from modelwright.kv.store import TensorStore

NAMES = [
    "kivi-4",
    "kivi-2-recent32",
    "kivi-k5v4",
    "kivi-k16v4",
    "kivi64-3-recent16",
    "group32-3",
    "group16-8-recent7",
    "hadamard-group32-2",
    "hadamard-kivi-3-recent8-seed5",
    "head-8",
    "head128-4",
    "group32-4-outliers0.01",
    "kivi-3-outliers0.01-block64",
    "head-3-outliers0.02",
    "group32-2-rank4",
    "kivi-2-recent32-outliers0.01-rank2-block64",
]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
EVERY = pytest.mark.parametrize("name", NAMES)


def _data(tokens: int = 300, head_dim: int = 64, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Keys as models have them: a few channels with a large constant part."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, tokens, head_dim, generator=generator)
    x[..., [1, 17]] = 5 * x[..., [1, 17]] + torch.tensor([40.0, -25.0])
    return x.to(dtype)


def _error(x: torch.Tensor, settings: KVQuantisation, part: str = "key") -> float:
    form = settings.format(part, x.shape[-1])  # type: ignore[arg-type]
    return float((fake_quantise(x, form) - x).norm() / x.norm())


# ---- names and bytes


@EVERY
def test_a_name_reads_back_to_equal_settings(name: str) -> None:
    assert parse(name).name == name


def test_names_stand_for_their_settings() -> None:
    assert parse("kivi-4") == KVQuantisation(4, 4, "kivi", 32)
    assert parse("hadamard-group64-2-recent32") == KVQuantisation(2, 2, "group", 64, recent=32, hadamard=True)
    assert parse("kivi-k5v4-outliers0.01-rank2") == KVQuantisation(5, 4, "kivi", outlier_share=0.01, residual_rank=2)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("kiwi-4", "for example kivi-4, group32-3"),
        ("kivi", "<bits>"),
        ("kivi-9", "2, 3, 4, 5, 6, 7, 8, or 16"),
        ("kivi-16", "not for both"),
        ("group12-4", "multiple of 8"),
        ("kivi-4-window3", "recent, outliers, rank, block, seed"),
        ("kivi-4-recent3-recent4", "at most once"),
        ("kivi-4-recent1.5", "a whole number"),
        ("kivi-4-outliers1.2.3", "a decimal number"),
        ("kivi-4-outliers0.9", "0 to 0.25"),
        ("kivi-4-block48", "multiple of the group size 32"),
    ],
)
def test_a_wrong_name_is_told_what_is_allowed(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(name)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        KVQuantisation(1, 9, "rows", 12, recent=-1, outlier_share=2, residual_rank=-1, block=-8, seed=-1)  # type: ignore[arg-type]
    paths = [fault.path for fault in caught.value.faults]
    assert paths == ["bits_k", "bits_v", "layout", "group", "recent", "residual_rank", "seed", "block", "outlier_share"]


@pytest.mark.parametrize(
    ("name", "head_dim", "told"),
    [
        ("group32-4", 80, "for head_dim 80: 8, 16, 40, 80"),
        ("hadamard-group16-4", 80, "power of two"),
        ("group32-4", 20, "multiple of 8"),
        ("group32-4-rank20", 16, "0 to 16"),
        ("group32-4-outliers0.01-block1024", 128, "at most 512 tokens"),
    ],
)
def test_a_model_that_does_not_fit_is_told_why(name: str, head_dim: int, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(name).format("value", head_dim)


def test_a_group_is_the_whole_head_where_heads_are_smaller() -> None:
    assert parse("group64-4").format("key", 32).group_channels == 32
    assert parse("kivi-4").format("key", 16).group_tokens == 32


def test_bytes_of_the_usual_layouts_by_hand() -> None:
    # 2 halves x 64 values x 4 bits = 64 bytes of codes; 2 groups of 32 x 4 bytes for each of keys and values
    assert bytes_per_token(parse("group32-4"), 1, 64, "float16") == 64 + 16
    assert bytes_per_token(parse("kivi-4"), 8, 64, torch.bfloat16) == 8 * (64 + 16)
    assert bytes_per_token(parse("head-8"), 1, 64, "float32") == 128 + 2 * 2 / 32
    assert bytes_per_token(parse("kivi-k16v4"), 1, 64, "float32") == 256 + 32 + 8
    # 20 outliers (1 % of 32 x 64) for each half and block, 2 bytes of index and 4 of value
    assert bytes_per_token(parse("group32-4-outliers0.01"), 1, 64, "float32") == 80 + 2 * 20 * 6 / 32
    assert bits_per_value(parse("kivi-k5v4"), 64, "float16") == 5.5
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        bytes_per_token(parse("kivi-4"), 1, 64, "int8")


@EVERY
@DTYPES
def test_the_forecast_of_bytes_is_what_is_stored(name: str, dtype: torch.dtype) -> None:
    settings = parse(name)
    for tokens in (1, 31, 128, 300):
        stored = 0
        for part in ("key", "value"):
            store = TensorStore(settings.format(part, 64))  # type: ignore[arg-type]
            store.append(_data(tokens, dtype=dtype))
            assert store.tokens == tokens
            stored += store.nbytes
        assert stored == cache_bytes(settings, tokens, heads=3, head_dim=64, dtype=dtype, batch=2)
    more = cache_bytes(settings, 3072, 3, 64, dtype) - cache_bytes(settings, 2048, 3, 64, dtype)
    assert more == pytest.approx(1024 * bytes_per_token(settings, 3, 64, dtype), rel=1e-12)


def test_settings_need_no_torch() -> None:
    code = "import sys, modelwright.kv.settings as s; s.parse('kivi-4').format('key', 64); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- packing and rotation


@pytest.mark.parametrize("bits", [b for b in BITS if b != FULL])
def test_packing_is_dense_and_exact(bits: int) -> None:
    codes = torch.randint(0, 1 << bits, (2, 3, 5, 48), dtype=torch.uint8)
    codes[0, 0, 0], codes[0, 0, 1] = 0, (1 << bits) - 1
    bytes_ = pack(codes, bits)
    assert bytes_.dtype == torch.uint8 and bytes_.shape == (2, 3, 5, 48 * bits // 8)
    assert torch.equal(unpack(bytes_, bits), codes)
    whole = sum(int(code) << (bits * i) for i, code in enumerate(codes[1, 2, 3]))  # one long little-endian number
    assert bytes(bytes_[1, 2, 3].tolist()) == whole.to_bytes(48 * bits // 8, "little")


@pytest.mark.parametrize("head_dim", [1, 8, 32, 128])
def test_rotation_is_orthogonal_and_inverted(head_dim: int) -> None:
    x = torch.randn(2, 3, 5, head_dim, dtype=torch.float64)
    turned = rotate(x, seed=3)
    torch.testing.assert_close(unrotate(turned, seed=3), x, rtol=0, atol=1e-14)
    torch.testing.assert_close(turned @ turned.mT, x @ x.mT, rtol=0, atol=1e-12)  # scores survive
    matrix = rotate(torch.eye(head_dim, dtype=torch.float64), seed=3)
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, head_dim**-0.5))
    torch.testing.assert_close(x @ matrix, turned)


# ---- arithmetic


@EVERY
@DTYPES
def test_error_is_at_most_half_a_step(name: str, dtype: torch.dtype) -> None:
    x = _data(256, dtype=dtype)
    settings = replace(parse(name), residual_rank=0)
    for part in ("key", "value"):
        form = settings.format(part, 64)  # type: ignore[arg-type]
        if form.bits == FULL:
            assert torch.equal(fake_quantise(x, form), x)
            continue
        done = quantise(x, form)
        step = done.scale.float().repeat_interleave(form.group_tokens, 2).repeat_interleave(form.group_channels, 3)
        exact = rotate(x.float(), form.seed) if form.hadamard else x.float()
        error = (dequantise(done, form, torch.float32, rotated=True) - exact).abs()
        assert bool((error <= step / 2 * (1 + 1e-4) + 2e-5).all())
        assert int(done.codes.max()) <= form.levels


@effort(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-65504, 65504, width=32), min_size=8, max_size=8),
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from(["group8", "head8", "kivi8"]),
)
def test_half_a_step_holds_for_any_values(values: list[float], bits: int, layout: str) -> None:
    form = parse(f"{layout}-{bits}").format("key", 8)
    x = torch.tensor(values).repeat(8, 1)[None, None]
    x[..., 3:, :] *= 0.37
    done = quantise(x, form)
    step = done.scale.float().repeat_interleave(form.group_tokens, 2).repeat_interleave(form.group_channels, 3)
    error = (dequantise(done, form, torch.float32) - x).abs()
    # Float32 rounds the sum of lowest level and steps at the size of the group's largest value.
    assert bool((error <= step / 2 + 4e-7 * x.abs().max()).all())


@EVERY
@DTYPES
def test_constant_zero_and_extreme_groups_stay_finite(name: str, dtype: torch.dtype) -> None:
    x = _data(256, dtype=dtype)
    x[0, 0] = 0.0
    x[0, 1] = 1.2345
    x[0, 2] = torch.finfo(dtype).tiny
    x[1, 0, :64] = torch.finfo(dtype).max
    x[1, 1, 3, 5], x[1, 1, 40, 6], x[1, 1, 41, 6] = torch.nan, torch.inf, -torch.inf
    settings = parse(name)
    for part in ("key", "value"):
        form = settings.format(part, 64)  # type: ignore[arg-type]
        old = form.quantised_tokens(256)
        read = fake_quantise(x, form)[:, :, :old]
        assert bool(read.isfinite().all())
        if old and not form.hadamard:
            torch.testing.assert_close(read[0, 0], x[0, 0, :old], rtol=0, atol=1e-6)
            torch.testing.assert_close(read[0, 1], x[0, 1, :old], rtol=1e-3 if dtype == torch.float32 else 1e-2, atol=0)


def test_saturation_is_at_the_largest_half() -> None:
    x = torch.full((1, 1, 1, 8), 1e30)
    x[..., 1] = -torch.inf
    read = fake_quantise(x, parse("group8-4").format("key", 8))
    torch.testing.assert_close(read, x.clamp(-LIMIT, LIMIT), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["group32-{}", "kivi-{}", "head-{}", "hadamard-group32-{}", "kivi-{}-outliers0.01", "group32-{}-rank2"])
def test_error_falls_with_every_bit(name: str) -> None:
    x = torch.randn(2, 3, 256, 64, generator=torch.Generator().manual_seed(1))
    errors = [_error(x, parse(name.format(bits))) for bits in BITS if bits != FULL]
    assert all(more < 0.75 * fewer for fewer, more in pairwise(errors))


def test_what_each_means_is_for() -> None:
    keys = _data(256)
    plain = _error(keys, parse("group32-3"))
    assert _error(keys, parse("kivi-3")) < plain / 2  # outliers keep to their channels
    assert _error(keys, parse("hadamard-group32-3")) < plain
    assert _error(keys, parse("group32-3-outliers0.03125")) < plain / 2  # two channels of 64 are 1/32
    assert _error(keys, parse("group32-3-rank4")) < plain
    assert _error(keys, parse("group32-3-recent128")) < plain
    noise = torch.randn(2, 3, 256, 64, generator=torch.Generator().manual_seed(1))
    assert _error(noise, parse("group32-3")) < _error(noise, parse("group64-3")) < _error(noise, parse("head-3"))


def test_outliers_come_back_exactly() -> None:
    x = _data(64)
    x[1, 2, 40, 9] = 1234.567
    read = fake_quantise(x, parse("kivi-2-outliers0.001").format("key", 64))
    assert float(read[1, 2, 40, 9]) == float(x[1, 2, 40, 9])


def test_more_bits_for_keys_than_values() -> None:
    key, value = fake_quantise_cache(_data(64), _data(64), parse("group32-k5v4"))
    assert torch.equal(key, fake_quantise(_data(64), parse("group32-5").format("key", 64)))
    assert torch.equal(value, fake_quantise(_data(64), parse("group32-4").format("value", 64)))


def test_a_rank_as_large_as_the_head_leaves_nothing() -> None:
    x = _data(128, head_dim=16 + 8)
    exact = fake_quantise(x, parse("group8-2-rank24").format("key", 24))
    assert float((exact - x).norm() / x.norm()) < 2e-3


def test_the_window_is_untouched() -> None:
    x = _data(100)
    read = fake_quantise(x, parse("group32-2-recent10").format("key", 64))
    assert torch.equal(read[:, :, 90:], x[:, :, 90:]) and not bool((read[:, :, :90] == x[:, :, :90]).all(dim=-1).any())
    read = fake_quantise(x, parse("kivi-2-recent10").format("key", 64))  # 90 tokens: two groups of 32, 26 wait
    assert torch.equal(read[:, :, 64:], x[:, :, 64:]) and not bool((read[:, :, :64] == x[:, :, :64]).all(dim=-1).any())


def test_wrong_shapes_are_refused() -> None:
    form = parse("kivi-4").format("key", 64)
    with pytest.raises(ConfigError, match="multiple of the block 32"):
        quantise(_data(40), form)
    with pytest.raises(ConfigError, match=r"\[batch, heads, tokens, 64\]"):
        quantise(_data(32, head_dim=32), form)
    with pytest.raises(ConfigError, match="2 to 8 bits"):
        quantise(_data(32), parse("kivi-k16v4").format("key", 64))


# ---- the store


@EVERY
def test_a_stream_gives_what_the_whole_gives(name: str) -> None:
    x = _data(170)
    settings = parse(name)
    for part in ("key", "value"):
        form = settings.format(part, 64)  # type: ignore[arg-type]
        whole = fake_quantise(x, form)
        one_by_one, in_pieces, at_once = TensorStore(form), TensorStore(form, capacity=60), TensorStore(form)
        for token in x.split(1, dim=2):
            one_by_one.append(token)
        for piece in x.split([100, 1, 50, 19], dim=2):
            in_pieces.append(piece)
        at_once.append(x)
        assert torch.equal(at_once.read(), whole)
        for store in (one_by_one, in_pieces):
            assert store.nbytes == at_once.nbytes and store.quantised_tokens == form.quantised_tokens(170)
            if form.rank:  # matrix products may round differently by batch
                torch.testing.assert_close(store.read(), whole, rtol=0, atol=2e-2)
            else:
                assert torch.equal(store.read(), whole)


@EVERY
def test_packed_is_lossless_and_repeatable(name: str) -> None:
    form = parse(name).format("value", 64)
    x = _data(256, dtype=torch.bfloat16)
    done = quantise(x, form)
    small = packed(done, form)
    assert small.nbytes == 256 // form.block * form.block_bytes(2) * 6
    assert torch.equal(dequantise(unpacked(small, form), form, x.dtype), dequantise(done, form, x.dtype))
    assert all(torch.equal(part, quantise(x, form).parts()[key]) for key, part in done.parts().items())


def test_rotated_reading_keeps_scores() -> None:
    form = parse("hadamard-group32-4-recent16").format("key", 64)
    store = TensorStore(form)
    store.append(_data(80))
    query = torch.randn(2, 3, 4, 64)
    torch.testing.assert_close(rotate(query) @ store.read(rotated=True).mT, query @ store.read().mT, rtol=1e-4, atol=1e-3)


def test_rows_can_be_selected_and_room_reserved() -> None:
    form = parse("kivi-4-recent8").format("key", 64)
    store = TensorStore(form, capacity=512)
    store.append(_data(100))
    allocated = store.allocated_bytes
    before = store.read()
    store.select(torch.tensor([1, 1, 0]))
    assert torch.equal(store.read(), before[[1, 1, 0]])
    store.select(torch.tensor([2, 0]))
    store.append(_data(300, seed=2))
    assert torch.equal(store.read()[:, :, :64], before[:, :, :64]) and store.tokens == 400
    assert store.nbytes < store.allocated_bytes <= allocated + 2 * 3 * 64 * 4 * 40  # only the window has grown


def test_a_store_refuses_what_does_not_belong() -> None:
    store = TensorStore(parse("kivi-4").format("key", 64))
    with pytest.raises(ConfigError, match="at least one appended token"):
        store.read()
    store.append(_data(3))
    for wrong in (_data(3, head_dim=32), _data(3, dtype=torch.float16), _data(3)[:1], _data(3)[0]):
        with pytest.raises(ConfigError, match="as stored"):
            store.append(wrong)
