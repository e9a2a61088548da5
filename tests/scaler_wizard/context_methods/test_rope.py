"""The arithmetic against the specification's golden values and against rules that hold for any input."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler_wizard.context_methods import rope

dimensions = st.integers(2, 128).map(lambda half: 2 * half)
bases = st.floats(100.0, 1e7)
scales = st.floats(1.0, 64.0)
lengths = st.integers(64, 131072)


def test_golden_index_ramp_bounds() -> None:
    low, high = rope.index_ramp_bounds(64, 1e4, 2048, truncate=False)
    assert (low, high) == (pytest.approx(8.0640, abs=5e-5), pytest.approx(20.1052, abs=5e-5))
    assert rope.index_ramp_bounds(64, 1e4, 2048) == (8, 21)
    low, high = rope.index_ramp_bounds(128, 1e4, 4096, truncate=False)
    assert (low, high) == (pytest.approx(20.9445, abs=5e-5), pytest.approx(45.0269, abs=5e-5))
    assert rope.index_ramp_bounds(128, 1e4, 4096) == (20, 46)


@pytest.mark.parametrize(("s", "expected"), [(8, 1.207944), (16, 1.277259), (32, 1.346574)])
def test_golden_yarn_attention_factor(s: float, expected: float) -> None:
    assert rope.yarn_attention_factor(s) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("d", "s", "expected"), [(64, 8, 85550.376), (128, 2, 20221.262), (128, 16, 167198.739)])
def test_golden_ntk_base(d: int, s: float, expected: float) -> None:
    assert rope.ntk_base(1e4, s, d) == pytest.approx(expected, rel=1e-6)


def test_golden_longrope_attention_factor() -> None:
    assert rope.longrope_attention_factor(32, 4096) == pytest.approx(1.190238, rel=1e-6)


def test_deepseek_mscales_divide() -> None:
    assert rope.yarn_attention_factor(40, 1.0, 1.0) == 1.0
    assert rope.yarn_attention_factor(40, 0.5, 1.0) == pytest.approx((0.05 * math.log(40) + 1) / (0.1 * math.log(40) + 1))


@given(dimensions, bases)
def test_frequencies_fall_from_one(d: int, base: float) -> None:
    thetas = rope.frequencies(d, base)
    assert len(thetas) == d // 2
    assert thetas[0] == 1.0
    assert all(faster > slower for faster, slower in pairwise(thetas))


@given(dimensions, bases, scales)
def test_ntk_keeps_the_highest_and_divides_the_lowest_by_s(d: int, base: float, s: float) -> None:
    before, after = rope.frequencies(d, base), rope.frequencies(d, rope.ntk_base(base, s, d))
    assert after[0] == before[0]
    assert after[-1] == pytest.approx(before[-1] / s, rel=1e-6)
    assert all(old / s * (1 - 1e-9) <= new <= old * (1 + 1e-9) for old, new in zip(before, after, strict=True))


@given(dimensions, bases, scales, lengths)
def test_paper_ramp_keeps_fast_and_divides_slow_frequencies_exactly(d: int, base: float, s: float, length: int) -> None:
    before = rope.frequencies(d, base)
    after = rope.paper_yarn_frequencies(before, s, length)
    for r, old, new in zip(rope.turns(before, length), before, after, strict=True):
        if r > 32:
            assert new == old
        elif r < 1:
            assert new == old / s
        else:
            assert old / s * (1 - 1e-9) <= new <= old * (1 + 1e-9)


@given(dimensions, bases, scales, lengths, st.sampled_from(["paper", "index"]))
def test_yarn_keeps_the_order_of_frequencies(d: int, base: float, s: float, length: int, ramp: str) -> None:
    before = rope.frequencies(d, base)
    if ramp == "paper":
        after = rope.paper_yarn_frequencies(before, s, length)
    else:
        after = rope.index_yarn_frequencies(before, s, d, base, length)
    assert all(faster >= slower for faster, slower in pairwise(after))
    assert all(old / s * (1 - 1e-9) <= new <= old * (1 + 1e-9) for old, new in zip(before, after, strict=True))


@given(dimensions, bases, lengths, st.floats(1.0, 8.0), st.floats(1.0, 16.0))
def test_dynamic_ntk_is_still_inside_the_original_context_and_static_ntk_beyond(
    d: int, base: float, original: int, factor: float, stretch: float
) -> None:
    assert rope.dynamic_ntk_base(base, d, original // 2, original, factor) == pytest.approx(base, rel=1e-9)
    n = int(original * stretch)
    assert rope.dynamic_ntk_base(base, d, n, original) == pytest.approx(rope.ntk_base(base, n / original, d), rel=1e-9)
    assert rope.dynamic_ntk_base(base, d, n, original, factor) >= rope.dynamic_ntk_base(base, d, n, original) * (1 - 1e-9)


@given(dimensions, bases, scales, lengths)
def test_longrope_factors_rebuild_any_rescaling(d: int, base: float, s: float, length: int) -> None:
    before = rope.frequencies(d, base)
    scaled = rope.paper_yarn_frequencies(before, s, length)
    factors = rope.longrope_factors(before, scaled)
    assert rope.longrope_frequencies(before, factors) == pytest.approx(scaled, rel=1e-15)


def test_one_frequency_has_no_ntk_base() -> None:
    with pytest.raises(ValueError, match=r"at least 4 rotary dimensions, found 2"):
        rope.ntk_base(1e4, 2.0, 2)


def test_the_registry_and_the_arithmetic_import_without_torch() -> None:
    code = (
        "import sys; from scaler_wizard.context_methods import rope, get_method, available; get_method('yarn'); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
