"""Expected calibration error against closed forms. (specs/guild.md 2.7)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.analytics.calibration import bin_of, calibration
from guild.analytics.sources import Problem


def problem(confidence: float | None, correct: bool) -> Problem:
    return Problem(1, "bin", 1, "p", "e", "a", correct, confidence=confidence)


def test_two_bins_by_hand() -> None:
    """Four answers at 0.95 of which three are right, one at 0.15 that is right: (4·|0.75−0.95| + 1·|1−0.15|) / 5."""
    made = calibration([*[problem(0.95, right) for right in (True, True, True, False)], problem(0.15, True)])
    assert made["ece"] == pytest.approx((4 * 0.2 + 0.85) / 5)
    assert (made["num_bins"], len(made["bins"]), made["answers"], made["status"]) == (10, 10, 5, "ok")
    last = made["bins"][9]
    assert (last["range"], last["count"], last["accuracy"]) == ([0.9, 1.0], 4, 0.75)
    assert last["gap"] == pytest.approx(0.2)
    assert made["bins"][1]["gap"] == pytest.approx(-0.85)
    assert made["bins"][5] == {"range": [0.5, 0.6], "count": 0, "accuracy": None, "confidence": None, "gap": None}
    assert made["overconfident"] is False  # 0.79 sure, 0.8 right


def test_a_model_that_is_always_sure_and_always_wrong_has_error_one() -> None:
    made = calibration([problem(1.0, False)] * 3)
    assert (made["ece"], made["overconfident"]) == (1.0, True)


def test_a_model_that_is_as_right_as_sure_has_none() -> None:
    made = calibration([problem(0.25, number == 0) for number in range(4)] + [problem(1.0, True)])
    assert made["ece"] == 0.0


def test_without_recorded_confidences_there_is_no_data_and_no_zero() -> None:
    made = calibration([problem(None, True)] * 5)
    assert (made["status"], made["ece"], made["overconfident"], made["bins"]) == ("no data", None, None, [])
    assert made["answers_without_confidence"] == 5


def test_edges_belong_to_the_bin_above_and_one_to_the_last() -> None:
    assert [bin_of(value) for value in (0.0, 0.0999, 0.1, 0.5, 0.9, 0.9999, 1.0)] == [0, 0, 1, 5, 9, 9, 9]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_the_error_is_a_share_and_every_answer_is_in_a_bin(answers: list[tuple[float, bool]]) -> None:
    made = calibration([problem(*answer) for answer in answers])
    assert 0 <= made["ece"] <= 1 + 1e-12
    assert sum(entry["count"] for entry in made["bins"]) == len(answers)
    for entry in made["bins"]:
        if entry["count"]:
            assert entry["range"][0] - 1e-9 <= entry["confidence"] <= entry["range"][1] + 1e-9
