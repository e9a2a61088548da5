from __future__ import annotations

import pytest

from guild.analytics.trends import curriculum_optimization, learning_history, skill_radar, slope_of, trend_of
from helpers.guild_analytics import evaluation


@pytest.mark.parametrize(
    ("correct", "trend", "change"),
    [
        ([], "unknown", None),
        ([5], "unknown", None),
        ([5, 15], "improving", 0.5),
        ([15, 5], "declining", -0.5),
        ([10, 10], "steady", 0.0),
        ([0, 0, 0, 20, 20, 20], "improving", 1.0),
        ([20, 0, 0, 0, 20, 20, 20], "improving", 1.0),
        ([0, 20, 10], "declining", -0.5),
    ],
)
def test_the_trend_is_the_newest_against_as_many_before(correct: list[int], trend: str, change: float | None) -> None:
    assert trend_of([evaluation(100 * step, right) for step, right in enumerate(correct)]) == (trend, change)


def test_evaluations_of_more_problems_weigh_more() -> None:
    assert trend_of([evaluation(1, 10), evaluation(2, 90, 100)])[1] == pytest.approx(0.4)


def test_the_curriculum_shows_the_training_level() -> None:
    told = [
        evaluation(100, 20, level=1),
        evaluation(200, 8, level=2),
        evaluation(300, 12, level=2),
        evaluation(300, 1, skill="sy", level=4),
    ]
    made = curriculum_optimization(told, {"bin": 1, "new": 0}, {"bin": 2, "new": 1})
    bin_ = made["skills"]["bin"]
    assert (bin_["level"], bin_["training_level"], bin_["evaluated_level"], bin_["accuracy"], bin_["trend"]) == (1, 2, 2, 0.6, "improving")
    sy = made["skills"]["sy"]
    assert (sy["level"], sy["training_level"], sy["evaluated_level"], sy["accuracy"], sy["trend"]) == (None, None, 4, 0.05, "unknown")
    assert made["skills"]["new"]["accuracy"] is None
    assert made["status"] == "ok"


def test_nothing_known_is_no_data() -> None:
    assert curriculum_optimization([], {}, {}) == {"status": "no data", "skills": {}}
    assert learning_history([])["status"] == "no data"
    assert skill_radar([], {"bin": 3}) == {
        "status": "no data",
        "axes": [{"skill": "bin", "value": None, "mastered_level": 3, "levels_measured": 0, "problems": 0}],
    }


def test_the_history_has_points_and_a_slope() -> None:
    made = learning_history([evaluation(step, right) for step, right in ((3000, 12), (1000, 4), (2000, 8))])
    told = made["skills"]["bin"]["1"]
    assert [point["step"] for point in told["points"]] == [1000, 2000, 3000]
    assert told["slope_per_1000_steps"] == pytest.approx(0.2)


def test_the_slope_is_that_of_least_squares() -> None:
    assert slope_of([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope_of([(0, 0), (1, 1), (2, 0)]) == pytest.approx(0)
    assert slope_of([]) is slope_of([(1, 1)]) is slope_of([(1, 1), (1, 2)]) is None


def test_the_radar_takes_the_newest_of_each_level() -> None:
    told = [evaluation(100, 0), evaluation(200, 20), evaluation(200, 10, level=2), evaluation(200, 5, skill="sy")]
    made = skill_radar(told, {"bin": 1})
    assert [(axis["skill"], axis["value"], axis["levels_measured"]) for axis in made["axes"]] == [("bin", 0.75, 2), ("sy", 0.25, 1)]
