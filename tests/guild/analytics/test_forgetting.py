from __future__ import annotations

import pytest

from guild.analytics.forgetting import ENOUGH, Point, best_pool, forgetting, judge, newest_pool
from guild.records.intervals import wilson
from helpers.guild_analytics import evaluation, passive


def points(*correct: int, total: int = 20) -> list[Point]:
    return [Point(100 * number, right, total) for number, right in enumerate(correct, start=1)]


def test_an_ability_that_fell_beyond_chance_is_forgotten() -> None:
    made = judge(points(18, 19, 4))
    assert (made["verdict"], made["drop"]) == ("forgotten", pytest.approx(0.75))
    assert made["best"]["last_step"] == 200 and made["now"]["first_step"] == 300
    assert made["now"]["interval_high"] == wilson(4, 20).high < made["best"]["interval_low"]


def test_a_wobble_is_kept() -> None:
    assert judge(points(18, 15))["verdict"] == "kept"
    assert judge(points(4, 19))["verdict"] == "kept"


def test_five_problems_decide_nothing_until_they_are_pooled() -> None:
    """LITE passives have five problems: four of them make a comparison."""
    assert judge(points(5, 0, total=5))["verdict"] == "unknown"
    assert judge(points(5, 5, 5, 5, 0, 0, 0, total=5))["verdict"] == "unknown"
    made = judge(points(5, 5, 5, 5, 0, 0, 0, 0, total=5))
    assert (made["verdict"], made["drop"]) == ("forgotten", 1.0)
    assert (made["best"]["problems"], made["best"]["first_step"], made["best"]["last_step"]) == (20, 100, 400)


def test_pools_take_just_enough() -> None:
    series = points(1, 2, 3, 4, total=8)
    pool, before = newest_pool(series)
    assert pool is not None and (pool.correct, pool.total, before) == (9, 24, 1)
    assert newest_pool(points(1, total=ENOUGH - 1)) == (None, 0)
    best = best_pool(points(5, 9, 2))
    assert best is not None and (best.correct, best.last_step) == (9, 200)


def test_the_document_has_passives_and_skills_worst_first() -> None:
    passives = [passive(step, right, 30) for step, right in ((100, 29), (200, 28), (300, 5))]
    made = forgetting([*passives, passive(300, 5, name="logic")], [evaluation(100, 10), evaluation(200, 12)])
    assert (made["status"], made["forgotten"], made["judged"]) == ("warning", 1, 2)
    assert [entry["ability"] for entry in made["abilities"]] == ["arithmetic full 1.0.0", "bin level 1", "logic lite 1.0.0"]
    assert made["abilities"][-1]["verdict"] == "unknown"


def test_one_measurement_of_each_is_no_data() -> None:
    assert forgetting([], [])["status"] == "no data"
    assert forgetting([passive(100, 5)], [evaluation(100, 20)])["status"] == "no data"
    assert forgetting([], [evaluation(100, 15), evaluation(200, 16)])["status"] == "healthy"
