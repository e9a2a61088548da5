"""Automated testing: evaluations and passives read as a test suite. (specs/guild.md 2.7 row automated_testing)

A test is one problem; the newest evaluation of each skill and level and the newest passive of each kind make the suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guild.analytics.documents import NO_DATA, mean
from guild.analytics.sources import problems_of
from guild.records.evaluation_records import Counted, Evaluation, Passive

RECENT = 10
"""Checkpoints over which the recent rate is taken."""


def automated_testing(evaluations: Sequence[Evaluation], passives: Sequence[Passive]) -> dict[str, Any]:
    """`total_tests, passed, failed, pass_rate, accuracy_by_difficulty, recent_avg_pass_rate`; null where nothing was measured.

    evaluations: with their problems where difficulties should show; others count under their level. recent_avg_pass_rate: mean over the
    last ten checkpoints that have measurements.
    """
    newest: list[Evaluation] = list({(one.skill, one.level): one for one in sorted(evaluations, key=_step)}.values())
    quiet: list[Passive] = list({(one.passive_id, one.mode): one for one in sorted(passives, key=_step)}.values())
    suite: list[Counted] = [*newest, *quiet]
    total, passed = sum(one.total for one in suite), sum(one.correct for one in suite)
    if not total:
        return {
            "status": NO_DATA, "total_tests": 0, "passed": 0, "failed": 0, "pass_rate": None, "accuracy_by_difficulty": {},
            "recent_avg_pass_rate": None,
        }  # fmt: skip
    return {
        "status": "ok",
        "total_tests": total,
        "passed": passed,
        "failed": total - passed,
        "pass_rate": passed / total,
        "accuracy_by_difficulty": _by_difficulty(newest, quiet),
        "recent_avg_pass_rate": mean([rate for _, rate in rates_by_step([*evaluations, *passives])[-RECENT:]]),
        "latest_step": max(one.checkpoint_step for one in suite),
    }


def rates_by_step(measured: Sequence[Counted]) -> list[tuple[int, float]]:
    """(step, share of right answers over all that was measured there), by step."""
    sums: dict[int, tuple[int, int]] = {}
    for one in measured:
        correct, total = sums.get(one.checkpoint_step, (0, 0))
        sums[one.checkpoint_step] = (correct + one.correct, total + one.total)
    return [(step, correct / total) for step, (correct, total) in sorted(sums.items())]


def _by_difficulty(evaluations: Sequence[Evaluation], passives: Sequence[Passive]) -> dict[str, dict[str, Any]]:
    sums: dict[str, tuple[int, int]] = {}

    def add(name: str, correct: int, total: int) -> None:
        had = sums.get(name, (0, 0))
        sums[name] = (had[0] + correct, had[1] + total)

    for one in evaluations:
        problems = problems_of([one])
        if len(problems) == one.total:
            for problem in problems:
                add(problem.difficulty, int(problem.correct), 1)
        else:
            add(f"level {one.level}", one.correct, one.total)
    for passive in passives:
        add(f"passive {passive.mode}", passive.correct, passive.total)
    return {
        name: {"accuracy": correct / total, "passed": correct, "total": total}
        for name, (correct, total) in sorted(sums.items(), key=_natural)
    }


def _natural(entry: tuple[str, object]) -> tuple[str, int, str]:
    word, _, number = entry[0].rpartition(" ")
    return (word, int(number), "") if number.isdigit() else (entry[0], 0, entry[0])


def _step(one: Counted) -> int:
    return one.checkpoint_step
