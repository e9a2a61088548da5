"""Keep-best: the specification's table (6.2), its rule as a second implementation, and what pruning may leave out."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from macprovider.autotune.measuring.choose import Score, best_of, can_still_win, is_new_best

RATES = st.one_of(st.none(), st.floats(-1, 100), st.just(math.nan), st.just(math.inf), st.sampled_from([9.8, 10.0, 10.1, 10.2, 10.3]))
TIMES = st.one_of(st.none(), st.floats(0, 10_000), st.sampled_from([3000.0, 4000.0]))
SCORES = st.builds(Score, st.booleans(), RATES, TIMES, st.sampled_from([256, 512, 4000]), st.sampled_from([None, 64.0, 32.0]))


@pytest.mark.parametrize(
    ("challenger", "wins"),
    [((10.05, 3000), True), ((10.05, 4500), False), ((10.3, 9000), True), ((9.9, 3000), True), ((9.7, 100), False)],
)
def test_ac5_table_of_the_specification(challenger: tuple[float, float], wins: bool) -> None:
    assert is_new_best(Score(True, *challenger), Score(True, 10.0, 4000), 0.02) is wins


@pytest.mark.parametrize("tps", [None, 0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_none_never_wins(tps: float | None) -> None:
    assert not is_new_best(Score(True, tps, 1.0), None, 0.02)


def test_a_missing_first_token_time_and_an_equal_one_never_win_a_tie() -> None:
    assert not is_new_best(Score(True, 10.0, None), Score(True, 10.0, 4000), 0.02)
    assert not is_new_best(Score(True, 10.1, 4000), Score(True, 10.0, 4000), 0.02)
    assert is_new_best(Score(True, 10.0, 4000), Score(True, 10.0, None), 0.02)


def test_the_comparison_is_with_the_current_holder() -> None:
    falling = [Score(True, 10.0, 4000), Score(True, 9.85, 3000), Score(True, 9.7, 2000), Score(True, 9.55, 1000)]
    assert best_of(falling, 0.02) == 3  # each a tie with the one before, 4.5 % below the first in the end
    assert best_of([falling[0], falling[3]], 0.02) == 0


@given(SCORES, st.one_of(st.none(), SCORES), st.floats(0, 0.2))
def test_agrees_with_the_rule_as_written(new: Score, best: Score | None, epsilon: float) -> None:
    assume(best is None or (best.fits and best.rate is not None))  # a holder was once a new best
    assert is_new_best(new, best, epsilon) is _as_written(new, best, epsilon)


@given(st.lists(SCORES, max_size=8), st.floats(0, 0.2), st.sampled_from(["tps", "capacity"]))
def test_the_winner_fits_and_nothing_before_a_loser_is_lost(scores: list[Score], epsilon: float, objective: str) -> None:
    winner = best_of(scores, epsilon, objective)  # type: ignore[arg-type]
    able = [place for place, score in enumerate(scores) if score.fits and score.rate is not None]
    assert (winner is None) == (not able)
    if winner is not None:
        assert winner in able
        assert best_of(scores[: winner + 1], epsilon, objective) == winner  # type: ignore[arg-type]
        assert best_of(scores[:winner] + scores[winner:], epsilon, objective) == winner  # type: ignore[arg-type]


def test_capacity_decides_only_ties() -> None:
    small, large = Score(True, 10.1, 1000, 256, 64.0), Score(True, 10.0, 9000, 512, 64.0)
    assert is_new_best(large, small, 0.02, "capacity") and not is_new_best(large, small, 0.02, "tps")
    assert not is_new_best(small, large, 0.02, "capacity")
    assert not is_new_best(Score(True, 9.0, 1, 9999, 1.0), small, 0.02, "capacity")
    assert is_new_best(Score(True, 10.0, 9000, 256, 32.0), small, 0.02, "capacity")  # fewer bytes for the same room


RATE, SECONDS = st.floats(0.1, 50), st.floats(0, 10)


@given(st.lists(RATE, min_size=1, max_size=7), st.integers(1, 7), RATE, SECONDS, SECONDS, st.floats(0, 0.1))
def test_pruning_never_ends_a_cell_that_would_have_won(
    rates: list[float], done: int, held: float, ttft: float, held_ttft: float, epsilon: float
) -> None:
    best = Score(True, held, held_ttft)
    if not can_still_win(rates[:done], len(rates), best, epsilon):
        assert not is_new_best(Score(True, statistics.median(rates), ttft), best, epsilon)
        assert not is_new_best(Score(True, statistics.median(rates[:done]), ttft), best, epsilon)


def test_pruning_ends_a_slow_cell_of_three_after_two() -> None:
    best = Score(True, 10.0, 1.0)
    assert can_still_win([5.0], 3, best, 0.02)
    assert not can_still_win([5.0, 5.1], 3, best, 0.02)
    assert can_still_win([5.0, 9.9], 3, best, 0.02)
    assert can_still_win([1.0, 1.0, 1.0], 3, None, 0.02)


def _as_written(new: Score, best: Score | None, eps: float) -> bool:
    tps = None if new.tps is None or not math.isfinite(new.tps) or new.tps <= 0 else new.tps
    if not new.fits or tps is None:
        return False
    if best is None:
        return True
    assert best.tps is not None
    if tps > best.tps * (1 + eps):
        return True
    if abs(tps - best.tps) / best.tps <= eps:
        return (math.inf if new.ttft_ms is None else new.ttft_ms) < (math.inf if best.ttft_ms is None else best.ttft_ms)
    return False
