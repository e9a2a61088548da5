"""Regressions in fixture ledgers. (specs/guild.md 2.7 row regression_monitoring)"""

from __future__ import annotations

import pytest

from guild.analytics.regression import loss_increase, regressions
from helpers.guild_analytics import recorded


def none(*_: object) -> None:
    return None


@pytest.mark.parametrize(("after", "detected"), [(1.15, False), (1.1500001, True), (1.5, True), (1.0, False), (0.2, False)])
def test_a_rise_of_more_than_fifteen_percent_is_a_regression(after: float, detected: bool) -> None:
    made = regressions([recorded(100, 1.0), recorded(200, after)], none)
    assert made["latest_summary"]["regression_detected"] is detected
    assert made["total_regressions"] == int(detected)
    assert made["status"] == ("warning" if detected else "healthy")
    assert made["latest_summary"]["loss_increase"] == pytest.approx(after - 1)


def test_the_summary_has_the_fields_of_the_plugin_and_the_accuracy_that_was_lost() -> None:
    accuracy = {100: 0.75, 200: 0.25}
    made = regressions([recorded(100, 2.0, "binary", 3), recorded(200, 3.0, "bin", 3)], lambda record: accuracy[record.step])
    assert made["latest_summary"] == {
        "timestamp": "2026-01-01T00:00:00Z", "checkpoint": "checkpoint-200", "step": 200, "compared_with_step": 100, "skill": "bin",
        "level": 3, "val_loss_before": 2.0, "val_loss": 3.0, "regression_detected": True, "loss_increase": 0.5, "accuracy_drop": 0.5,
    }  # fmt: skip


def test_a_harder_level_is_no_regression_and_the_same_level_later_is_compared() -> None:
    ledger = [recorded(100, 1.0, "bin", 1), recorded(200, 3.0, "bin", 2), recorded(300, 1.4, "bin", 1), recorded(400, 3.1, "bin", 2)]
    made = regressions(ledger, none)
    assert made["compared"] == 2
    assert [entry["step"] for entry in made["regressions"]] == [300]
    assert made["latest_summary"]["step"] == 400
    assert made["latest_summary"]["accuracy_drop"] is None


def test_the_record_before_counts_and_not_the_first() -> None:
    """Three rises of a tenth: a third in all, and none of them a regression."""
    made = regressions([recorded(100 * number, 1.1**number) for number in range(1, 5)], none)
    assert (made["compared"], made["total_regressions"]) == (3, 0)
    assert made["latest_summary"]["compared_with_step"] == 300


def test_records_without_a_validation_loss_lie_in_between() -> None:
    made = regressions([recorded(100, 1.0), recorded(150, None), recorded(200, 1.3)], none)
    assert made["latest_summary"]["compared_with_step"] == 100


@pytest.mark.parametrize("ledger", [[], [recorded(100, 1.0)], [recorded(100, None), recorded(200, 1.0)]])
def test_nothing_to_compare_is_no_data_and_not_healthy(ledger: list[object]) -> None:
    made = regressions(ledger, none)  # type: ignore[arg-type]
    assert (made["status"], made["latest_summary"], made["total_regressions"]) == ("no data", None, 0)


def test_a_loss_of_zero_has_no_share_to_rise_by() -> None:
    assert loss_increase(0.0, 1.0) is None
    assert loss_increase(float("nan"), 1.0) is None
    assert loss_increase(2.0, 3.0) == 0.5
