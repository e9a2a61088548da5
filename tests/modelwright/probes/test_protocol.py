from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.probes.protocol import DEPTHS, Score, by_depth, stratified_depths, wilson_interval


def test_wilson_closed_values() -> None:
    """Reference values of the Wilson interval at 95 %, as published tables give them."""
    assert wilson_interval(0.5, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert wilson_interval(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


@given(st.integers(1, 200), st.integers(0, 200))
def test_wilson_contains_the_mean_and_stays_in_range(n: int, hits: int) -> None:
    mean = min(hits, n) / n
    low, high = wilson_interval(mean, n)
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1


@given(st.integers(1, 60), st.integers(0, 5))
def test_depths_are_stratified(n: int, seed: int) -> None:
    counts = Counter(stratified_depths(n, Random(seed)))
    assert sum(counts.values()) == n
    assert set(counts) <= set(DEPTHS)
    assert max(counts.values()) - min(counts[depth] for depth in DEPTHS) <= 1
    if n > 1:
        assert {0.0, 1.0} <= set(counts)


def test_depth_table_is_in_order() -> None:
    scores = [Score(1.0, 1.0), Score(0.0, 0.3), Score(1.0, 0.3), Score(1.0, 0.0)]
    assert by_depth(scores) == {"0": 1.0, "30": 0.5, "100": 1.0}
    assert list(by_depth(scores)) == ["0", "30", "100"]
