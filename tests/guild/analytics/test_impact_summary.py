from __future__ import annotations

from typing import Any

import pytest

from guild.analytics.impact_summary import by_file, joined, summarise, with_accuracy


def record(job: int, start: int, end: int, **further: Any) -> dict[str, Any]:
    """A record with validation loss 2 → 1 unless told otherwise."""
    told: dict[str, Any] = {
        "job": job, "filename": f"{job}.jsonl", "skill": "bin", "level": 1, "start_step": start, "end_step": end,
        "steps_trained": end - start, "complete": True, "outcome": "completed", "examples_count": 10 * (end - start),
        "loss_before": None, "loss_after": None, "accuracy_before": None, "accuracy_after": None, "val_loss_before": 2.0,
        "val_loss_after": 1.0, "impact_score": 0.5, "classification": "positive", "start_timestamp": "s", "end_timestamp": "e",
    }  # fmt: skip
    return {**told, **further}


def unknown(*_: object) -> None:
    return None


def test_attempts_that_follow_each_other_are_one_file_from_first_to_last() -> None:
    first = record(
        1, 0, 10, complete=False, outcome="died", val_loss_before=4.0, val_loss_after=None, impact_score=None, classification=None
    )
    made = joined([first, record(1, 10, 30, val_loss_before=3.0, val_loss_after=1.0)])
    assert (made["val_loss_before"], made["val_loss_after"], made["val_loss_delta"]) == (4.0, 1.0, -3.0)
    assert made["impact_score"] == pytest.approx(0.75)  # 4 → 1: three quarters less
    assert (made["start_step"], made["end_step"], made["steps_trained"], made["examples_count"]) == (0, 30, 30, 300)
    assert (made["attempts"], made["complete"], made["interrupted"]) == (2, True, False)


def test_what_other_files_did_in_between_is_not_this_files_score() -> None:
    made = joined([record(1, 0, 10, complete=False), record(1, 50, 70)])
    assert (made["impact_score"], made["classification"], made["interrupted"], made["steps_trained"]) == (None, None, True, 30)


def test_an_evaluation_that_came_later_joins_the_score() -> None:
    told = record(1, 0, 10, accuracy_before=0.2, val_loss_before=None, val_loss_after=None, impact_score=None)
    made = with_accuracy(told, lambda skill, level, step: {("bin", 1, 10): 0.6}.get((skill or "", level or 0, step)))
    assert made["accuracy_after"] == 0.6
    assert made["impact_score"] == pytest.approx(0.4)
    assert with_accuracy(told, unknown)["impact_score"] is None
    assert with_accuracy({**told, "steps_trained": 0}, lambda *_: 0.6)["accuracy_after"] is None


def test_the_summary_counts_files_and_not_attempts() -> None:
    records = [
        record(1, 0, 10, complete=False, outcome="stopped"),
        record(1, 10, 20),
        record(2, 20, 30, val_loss_after=4.0, impact_score=-0.5, classification="negative"),
        record(3, 30, 40, impact_score=0.001, classification="neutral", level=2),
        record(4, 40, 45, complete=False, outcome="died", impact_score=None, classification=None, skill=None, level=None),
    ]
    made = summarise(records, unknown, [{"job": 5, "filename": "5.jsonl", "start_step": 45, "abandoned": True, "owner": {}}])
    counts = {name: made[name] for name in ("attempts", "files", "complete", "incomplete", "positive", "negative", "neutral", "unknown")}
    assert counts == {"attempts": 5, "files": 4, "complete": 3, "incomplete": 1, "positive": 1, "negative": 1, "neutral": 1, "unknown": 1}
    assert made["mean_score"] == pytest.approx((0.5 - 0.5 + 0.001) / 3)
    assert made["steps_trained"] == 45
    assert set(made["by_skill"]) == {"bin level 1", "bin level 2", "none"}
    assert made["by_skill"]["bin level 1"]["files"] == 2
    assert [one["job"] for one in made["best_files"]] == [1]
    assert [one["job"] for one in made["worst_files"]] == [2]
    assert [one["job"] for one in made["recent"]] == [4, 3, 2, 1]
    assert made["open"] == [{"job": 5, "filename": "5.jsonl", "start_step": 45, "start_timestamp": None, "abandoned": True}]


def test_nothing_trained_is_no_data() -> None:
    made = summarise([], unknown)
    assert (made["status"], made["files"], made["mean_score"], made["by_skill"]) == ("no data", 0, None, {})


def test_records_of_the_original_system_are_counted_each_for_itself() -> None:
    original = {
        "filename": "old.jsonl",
        "start_step": 5,
        "end_step": 9,
        "steps_trained": 4,
        "impact_score": 0.2,
        "classification": "positive",
    }
    made = summarise([original, original], unknown)
    assert (made["files"], made["positive"], made["complete"], made["mean_score"]) == (2, 2, 2, pytest.approx(0.2))


def test_only_the_newest_are_listed_and_all_are_counted() -> None:
    made = summarise([record(job, job, job + 1) for job in range(100)], unknown)
    assert [one["job"] for one in made["recent"]] == list(range(99, 79, -1))
    assert made["files"] == 100
    assert len(by_file([record(1, 0, 1)] * 3, unknown)) == 1
