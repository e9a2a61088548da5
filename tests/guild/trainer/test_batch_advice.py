"""The batch-size advisor. (specs/guild.md 2.1.1)"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.trainer.batch_advice import batch_advice


def line(batch_size: int, peak: float | None, error: str | None = None) -> dict[str, Any]:
    return {"batch_size": batch_size, "gpu_peak_alloc_gb": peak, "error_type": error}


def test_a_small_peak_allows_as_large_a_micro_batch_as_is_certain_to_fit() -> None:
    advice = batch_advice([line(1, 7.0), line(1, 6.5)], 1, 16)
    assert advice is not None
    assert (advice.batch_size, advice.gradient_accumulation) == (2, 8)  # 3 would fit, and 16 is no multiple of it
    assert advice.expected_gb == pytest.approx(14.0)
    assert "used up to 7.0 GB" in advice.sentence and "the aim is 21 GB" in advice.sentence
    assert "batch_size=2 gradient_accumulation=8" in advice.sentence and "effective batch of 16" in advice.sentence


def test_two_sizes_tell_what_grows_and_what_stays() -> None:
    """10 GB stay and 1 GB comes with each window: 8 of them fit where the bound of one size alone would allow 4."""
    alone = batch_advice([line(2, 12.0)], 2, 8)
    assert alone is None  # 4 might use 24 GB, if all of it grew
    advice = batch_advice([line(1, 11.0), line(2, 12.0)], 2, 8)
    assert advice is not None and (advice.batch_size, advice.gradient_accumulation, advice.expected_gb) == (8, 2, pytest.approx(18.0))


def test_a_micro_batch_that_is_too_large_is_made_smaller() -> None:
    advice = batch_advice([line(8, 23.0)], 8, 2)
    assert advice is not None and (advice.batch_size, advice.gradient_accumulation, advice.expected_gb) == (4, 4, None)
    known = batch_advice([line(8, 23.0), line(2, 9.0)], 8, 2)
    assert known is not None and (known.batch_size, known.expected_gb) == (4, pytest.approx(18.0))
    out = batch_advice([line(4, 18.0), line(8, 23.9, "out_of_memory")], 8, 2)
    assert out is not None and out.batch_size == 4 and "did not fit" in out.sentence


def test_nothing_is_said_where_nothing_is_known_or_nothing_can_be_better() -> None:
    assert batch_advice([], 1, 16) is None
    assert batch_advice([line(1, None)], 1, 16) is None
    assert batch_advice([line(4, 9.0)], 1, 16) is None  # of another setting; the present one has no file yet
    assert batch_advice([line(1, 22.5)], 1, 16) is None
    assert batch_advice([line(1, 22.5, "out_of_memory")], 1, 16) is None
    assert batch_advice([line(2, 20.0)], 2, 8) is None
    assert batch_advice([line(1, 2.0)], 1, 1) is None  # the effective batch stays


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(0.1, 80, allow_nan=False), st.booleans()), max_size=8),
    st.integers(1, 32), st.integers(1, 32),
)  # fmt: skip
def test_an_advice_keeps_the_effective_batch_and_never_exceeds_the_aim(
    lines: list[tuple[int, float, bool]], batch_size: int, accumulation: int
) -> None:
    history = [line(size, peak, "out_of_memory" if failed else None) for size, peak, failed in lines]
    advice = batch_advice(history, batch_size, accumulation)
    if advice is not None:
        assert advice.batch_size * advice.gradient_accumulation == batch_size * accumulation and advice.batch_size != batch_size
        assert advice.batch_size < batch_size or (advice.expected_gb is not None and advice.expected_gb <= 21.0)
        assert all(advice.batch_size < size for size, _, failed in lines if failed)
