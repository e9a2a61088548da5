"""What evaluations say problem by problem: hard examples, mining, corrections, the suite. (specs/guild.md 2.7, 2.9)"""

from __future__ import annotations

from typing import Any

import pytest

from guild.analytics.corrections import pattern_of, self_correction
from guild.analytics.mining import adversarial_mining, hard_examples
from guild.analytics.sources import Problem, problems_of
from guild.analytics.testing import automated_testing, rates_by_step
from helpers.guild_analytics import evaluation, passive


def asked(step: int, verdicts: dict[str, bool], skill: str = "bin", level: int = 1, **further: Any) -> Any:
    """An evaluation with one problem for each prompt."""
    told = [{"prompt": prompt, "expected": "x", "reply": "y", "correct": right, **further} for prompt, right in verdicts.items()]
    return evaluation(step, sum(verdicts.values()), len(verdicts), skill, level, problems=told)


def test_problems_are_read_under_the_names_that_they_come_by() -> None:
    ours = {"user_prompt": "p", "expected_answer": "e", "answer": "a", "correct": False, "reason": "r", "difficulty": "hard",
            "confidence": 0.75, "loss": 2, "metadata": {"scenario": "verify"}}  # fmt: skip
    bare = {"prompt": "p", "expected": "e", "model_answer": "a", "correct": True, "confidence": 75}
    (first, second) = problems_of([evaluation(5, 1, 4, level=3, problems=[ours, bare, {"prompt": "no verdict"}])])
    assert first == Problem(5, "bin", 3, "p", "e", "a", False, "r", "hard", "verify", 0.75, 2.0)
    assert second == Problem(5, "bin", 3, "p", "e", "a", True, "", "level 3")  # 75 is no share: unknown


def test_the_worst_prompts_come_first_and_those_that_are_learnt_are_gone() -> None:
    told = [
        asked(100, {"always": False, "learnt": False, "once": True, "never": True}),
        asked(200, {"always": False, "learnt": True, "once": False, "never": True}),
    ]
    made = hard_examples(problems_of(told))
    assert [(entry["prompt"], entry["times_wrong"], entry["times_asked"]) for entry in made["examples"]] == [
        ("always", 2, 2),
        ("once", 1, 2),
    ]
    assert (made["problems"], made["hard"], made["examples"][0]["last_step"]) == (4, 2, 200)
    assert len(hard_examples(problems_of(told), 1)["examples"]) == 1


def test_the_same_prompt_of_two_skills_is_two_problems() -> None:
    made = hard_examples(problems_of([asked(100, {"p": False}), asked(100, {"p": False}, skill="sy")]))
    assert [entry["skill"] for entry in made["examples"]] == ["bin", "sy"]


def test_mining_counts_wrong_answers_by_kind() -> None:
    told = [asked(100, {"a": False, "b": False, "c": True}, scenario="verify", loss=3.0), asked(100, {"d": False}, skill="sy", level=2)]
    made = adversarial_mining(problems_of(told), "2026-01-01T00:00:00Z")
    assert made["latest_summary"] == {
        "timestamp": "2026-01-01T00:00:00Z",
        "total_examples": 3,
        "looked_at": 4,
        "categories": {"bin level 1 verify": {"count": 2, "avg_loss": 3.0}, "sy level 2": {"count": 1, "avg_loss": None}},
    }


def test_nothing_asked_is_no_data() -> None:
    assert adversarial_mining([], None) == {"status": "no data", "latest_summary": None}
    assert hard_examples([])["status"] == "no data"
    made = self_correction([], [])
    counts = [made[name] for name in ("errors_captured", "patterns_found", "corrections_generated", "total_corrections")]
    assert (made["status"], counts) == ("no data", [None] * 4)


def test_everything_right_is_data() -> None:
    made = adversarial_mining(problems_of([asked(100, {"a": True})]), "t")
    assert (made["status"], made["latest_summary"]["total_examples"], made["latest_summary"]["categories"]) == ("ok", 0, {})


@pytest.mark.parametrize(
    ("reason", "answer", "pattern"),
    [
        ("expected ①⓪, found '①①'", "①①", "bin level 1: another answer than expected"),
        ("", "7", "bin level 1: another answer than expected"),
        ("the reply is empty", "  ", "bin level 1: no answer"),
        ("the answer 'twelve' is no number", "twelve", "bin level 1: the answer … is no number"),
        ("line 12 has 3 fields", "x", "bin level 1: line N has N fields"),
    ],
)
def test_a_pattern_is_the_reason_without_its_particulars(reason: str, answer: str, pattern: str) -> None:
    assert pattern_of(Problem(1, "bin", 1, "p", "e", answer, False, reason)) == pattern


def test_corrections_are_counted_from_patterns_and_sessions() -> None:
    problems = problems_of([asked(100, {"a": False, "b": False, "c": True}), asked(100, {"d": False}, skill="sy")])
    sessions = [{"timestamp": "2", "incorrect": 4}, {"timestamp": "1", "training_examples": 30, "incorrect": 10}, {"timestamp": "0"}]
    made = self_correction(problems, sessions)
    assert (made["errors_captured"], made["patterns_found"]) == (3, 1)  # one of a kind is no pattern
    assert made["top_error_patterns"] == [{"pattern": "bin level 1: another answer than expected", "count": 2, "share": 2 / 3}]
    assert (made["corrections_generated"], made["total_corrections"], made["sessions"]) == (12, 42, 3)


def test_the_suite_is_the_newest_evaluation_of_each_level_and_passive() -> None:
    evaluations = [evaluation(100, 5, level=1), evaluation(200, 15, level=1), evaluation(200, 4, level=2)]
    made = automated_testing(evaluations, [passive(100, 1), passive(200, 4)])
    assert (made["total_tests"], made["passed"], made["failed"]) == (45, 23, 22)
    assert made["pass_rate"] == pytest.approx(23 / 45)
    assert made["accuracy_by_difficulty"] == {
        "level 1": {"accuracy": 0.75, "passed": 15, "total": 20},
        "level 2": {"accuracy": 0.2, "passed": 4, "total": 20},
        "passive lite": {"accuracy": 0.8, "passed": 4, "total": 5},
    }
    assert made["recent_avg_pass_rate"] == pytest.approx(((5 + 1) / 25 + (15 + 4 + 4) / 45) / 2)
    assert rates_by_step(evaluations) == [(100, 0.25), (200, 19 / 40)]


def test_difficulties_of_the_problems_are_shown_where_they_are_all_there() -> None:
    told = [{"prompt": str(number), "correct": number < 3, "difficulty": "easy" if number < 4 else "hard"} for number in range(8)]
    made = automated_testing([evaluation(1, 3, 8, problems=told)], [])
    assert made["accuracy_by_difficulty"] == {
        "easy": {"accuracy": 0.75, "passed": 3, "total": 4},
        "hard": {"accuracy": 0.0, "passed": 0, "total": 4},
    }


def test_levels_stand_in_the_order_of_numbers() -> None:
    made = automated_testing([evaluation(1, 1, level=level) for level in (10, 2, 1)], [])
    assert list(made["accuracy_by_difficulty"]) == ["level 1", "level 2", "level 10"]


def test_no_evaluation_is_no_data_and_no_rate() -> None:
    made = automated_testing([], [])
    assert (made["status"], made["total_tests"], made["pass_rate"], made["recent_avg_pass_rate"]) == ("no data", 0, None, None)
