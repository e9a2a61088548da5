from __future__ import annotations

import random
from math import comb, isclose
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.records.intervals import wilson


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3, four places as printed
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_that_of_the_published_table(correct: int, total: int, low: float, high: float) -> None:
    found = wilson(correct, total)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@given(st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_limits_solve_the_score_equation(counts: tuple[int, int], confidence: float) -> None:
    correct, total = counts
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    interval = wilson(correct, total, confidence)
    share = correct / total
    assert 0 <= interval.low <= share <= interval.high <= 1
    for limit in (interval.low, interval.high):
        assert isclose((share - limit) ** 2, z * z * limit * (1 - limit) / total, rel_tol=1e-6, abs_tol=1e-12)


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_right_and_wrong_are_mirror_images(counts: tuple[int, int]) -> None:
    correct, total = counts
    mine, other = wilson(correct, total), wilson(total - correct, total)
    assert isclose(mine.low, 1 - other.high, abs_tol=1e-12) and isclose(mine.high, 1 - other.low, abs_tol=1e-12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random_numbers = random.Random(20260101)
    hits, rounds, total = 0, 6000, 20
    for _ in range(rounds):
        truth = random_numbers.uniform(0.05, 0.95)
        correct = sum(random_numbers.random() < truth for _ in range(total))
        interval = wilson(correct, total)
        hits += interval.low <= truth <= interval.high
    assert 0.94 <= hits / rounds <= 0.965


def test_the_exact_coverage_of_twenty_problems_averages_the_promise() -> None:
    total, truths = 20, [number / 200 for number in range(10, 191)]
    intervals = [wilson(correct, total) for correct in range(total + 1)]

    def coverage(truth: float) -> float:
        weights = (comb(total, k) * truth**k * (1 - truth) ** (total - k) for k in range(total + 1))
        return sum(weight for weight, interval in zip(weights, intervals, strict=True) if interval.low <= truth <= interval.high)

    found = [coverage(truth) for truth in truths]
    assert isclose(sum(found) / len(found), 0.95, abs_tol=0.01) and min(found) > 0.88


def test_no_answers_say_nothing_and_impossible_counts_are_refused() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    for correct, total in ((-1, 5), (6, 5), (0, -1)):
        with pytest.raises(ValueError, match="allowed"):
            wilson(correct, total)
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 2, 1.0)
