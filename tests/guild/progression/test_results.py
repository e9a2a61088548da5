"""Results, experience and levels against closed forms. (specs/guild.md 2.3.5)"""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.progression.levels import cost, hero_level, standing, total_cost
from guild.progression.results import (
    EXPERIENCE,
    GRADES,
    LEVEL_MULTIPLIERS,
    Grade,
    UnknownResultError,
    experience,
    grade,
    level_multiplier,
    next_streak,
    streak_bonus,
)


def test_the_tables_are_those_of_the_specification() -> None:
    assert dict(EXPERIENCE) == {"crit": 15, "hit": 10, "glancing": 5, "miss": 2, "crit_miss": 0}
    assert [float(one) for one in LEVEL_MULTIPLIERS] == [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.3, 2.6, 3.0]


@pytest.mark.parametrize(
    ("result", "level", "streak", "expected"),
    [
        ("hit", 1, 0, "10"), ("crit", 1, 0, "15"), ("hit", 2, 3, "12.65"), ("crit", 10, 10, "67.5"), ("crit", 10, 99, "67.5"),
        ("glancing", 5, 8, "7.5"), ("miss", 6, 8, "3.4"), ("crit_miss", 10, 10, "0"), ("hit", 30, 0, "30"),
    ],
)  # fmt: skip
def test_experience_is_table_times_level_times_streak(result: Grade, level: int, streak: int, expected: str) -> None:
    assert experience(result, level, streak) == Fraction(expected)


def test_factor_and_base_experience_multiply() -> None:
    assert experience("hit", 1, factor=Fraction("0.8")) == 8
    assert experience("hit", 1, base_xp=30) == 30 and experience("crit", 1, base_xp=30) == 45
    assert experience("miss", 1, base_xp=Fraction("12.5")) == Fraction("2.5") and experience("hit", 1, base_xp=0) == 0


@pytest.mark.parametrize(("streak", "bonus"), [(-1, "0"), (0, "0"), (1, "0.05"), (9, "0.45"), (10, "0.5"), (11, "0.5")])
def test_the_streak_adds_five_percent_each_up_to_fifty(streak: int, bonus: str) -> None:
    assert streak_bonus(streak) == Fraction(bonus)


def test_unknown_results_and_levels_are_errors() -> None:
    with pytest.raises(UnknownResultError, match="crit, hit, glancing, miss, crit_miss"):
        experience("critical", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        level_multiplier(0)


@pytest.mark.parametrize(
    ("correct", "partial", "exact", "expected"),
    [
        (True, 1.0, True, "crit"), (True, 1.0, False, "hit"), (False, 0.9, True, "glancing"), (False, 0.5, False, "glancing"),
        (False, 0.49, False, "miss"), (False, 0.01, False, "miss"), (False, 0.0, False, "crit_miss"),
    ],
)  # fmt: skip
def test_a_verdict_has_a_result(correct: bool, partial: float, exact: bool, expected: str) -> None:
    assert grade(correct, partial, exact=exact) == expected


def test_only_right_answers_go_on_with_a_streak() -> None:
    assert [next_streak(4, result) for result in GRADES] == [5, 5, 0, 0, 0]


@pytest.mark.parametrize(("level", "expected"), [(1, 0), (2, 100), (3, 150), (4, 225), (5, Fraction("337.5"))])
def test_a_level_costs_half_more_than_the_one_before(level: int, expected: Fraction) -> None:
    assert cost(level) == expected


def test_costs_end_at_level_100() -> None:
    for level in (0, 101):
        with pytest.raises(ValueError, match="1 to 100"):
            cost(level)
    top = standing(total_cost(100) + 5)
    assert (top.level, top.into, top.needed) == (100, 5, None)
    with pytest.raises(ValueError, match="at least 0"):
        standing(Fraction(-1))


@given(st.integers(1, 100))
def test_the_total_is_the_sum_of_the_costs(level: int) -> None:
    assert total_cost(level) == sum(cost(one) for one in range(1, level + 1))
    assert standing(total_cost(level)).level == level
    if level > 1:
        assert standing(total_cost(level) - Fraction(1, 1000)).level == level - 1


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_more_experience_never_means_a_lower_level(had: int, gained: int) -> None:
    before, after = standing(Fraction(had, 20)), standing(Fraction(had + gained, 20))
    assert after.level >= before.level
    assert total_cost(before.level) + before.into == Fraction(had, 20)
    assert before.needed is not None and before.into < before.needed


@pytest.mark.parametrize(("steps", "level"), [(0, 0), (999, 0), (1000, 1), (184_000, 184)])
def test_a_hero_has_a_level_for_every_thousand_steps(steps: int, level: int) -> None:
    assert hero_level(steps) == level
