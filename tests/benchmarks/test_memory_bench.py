"""The arithmetic of the memory benchmark: lines, the next length to try, and the search, on a machine made of a formula."""

from __future__ import annotations

import pytest
from benchmarks.memory.child import OURS, is_out_of_memory, side_name
from benchmarks.memory.run import GRAIN, TOLERANCE, Point, expected_seconds, find_reach, length_at, next_length, point_of

LIMIT = 1_000_000


def made(length: int, per_token: int = 50, base: int = 100_000) -> Point:
    """A case on a machine that needs `base` bytes and `per_token` for each token; beyond the limit it does not finish."""
    peak = base + per_token * length
    if peak > LIMIT:
        return Point(length, "out of memory")
    return Point(length, "done", peak, peak, 1e-3 * length)


def test_the_line_through_two_points_meets_the_limit_where_it_should() -> None:
    assert length_at([made(512), made(1024)], LIMIT) == 18_000


def test_no_line_without_two_rising_points() -> None:
    assert length_at([made(512)], LIMIT) == 0
    assert length_at([made(512, per_token=0), made(1024, per_token=0)], LIMIT) == 0


def test_nothing_to_try_when_nothing_fits() -> None:
    assert next_length([Point(512, "out of memory")], LIMIT) is None


def test_a_known_bracket_needs_no_further_try() -> None:
    assert next_length([made(16_000), Point(16_500, "out of memory")], LIMIT) is None


def test_time_is_taken_to_grow_with_the_square() -> None:
    assert expected_seconds([made(512), made(1024)], 4096) == pytest.approx(16 * 1.024)


@pytest.mark.parametrize("per_token", [7, 50, 333])
def test_the_search_ends_within_the_tolerance(per_token: int) -> None:
    points = [made(256, per_token), made(512, per_token)]
    tried: list[int] = []

    def measure(length: int) -> Point:
        tried.append(length)
        return made(length, per_token)

    reach = find_reach("ours", points, LIMIT, 1e9, measure)
    true = (LIMIT - 100_000) // per_token
    assert reach.longest <= true < reach.too_long
    assert reach.too_long <= reach.longest * (1 + TOLERANCE) + GRAIN
    assert reach.why_it_ended == "found" and len(tried) <= 4


def test_where_a_step_would_take_too_long_the_search_goes_as_far_as_patience_allows() -> None:
    points = [made(512), made(1024)]
    reach = find_reach("ours", points, LIMIT, 5.0, made)
    assert (reach.too_long, reach.line) == (0, 18_000)
    assert "more than the 5 s allowed" in reach.why_it_ended
    assert 3_500 < reach.longest < 5_000
    assert all(point.seconds <= 5.0 for point in points)
    assert find_reach("ours", [made(1024)], LIMIT, 1.1, lambda length: pytest.fail(f"{length} was run")).longest == 1024


def test_lines_of_an_earlier_result_become_points_again() -> None:
    for point in (Point(1000, "done", 2 << 30, 3 << 30, 0.5), Point(2000, "out of memory")):
        assert point_of(point.row("ours")) == point


def test_a_case_over_the_time_limit_is_no_case_that_does_not_fit() -> None:
    reach = find_reach("ours", [made(512), made(1024)], LIMIT, 1e9, lambda length: Point(length, "over the time limit"))
    assert (reach.longest, reach.too_long) == (1024, 0)


def test_rows_state_the_error_of_the_forecast_and_the_speed() -> None:
    row = Point(1000, "done", 2 << 30, 3 << 30, 0.5).row(side_name(OURS, True))
    assert row["side"] == "modelwright, recompute"
    assert (row["peak_gib"], row["predicted_gib"], row["predicted_error"], row["tokens_per_s"]) == (2.0, 3.0, 0.5, 2000.0)


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
