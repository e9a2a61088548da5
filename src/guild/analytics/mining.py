"""Hard examples: the problems that checkpoints keep answering wrong. (specs/guild.md 2.7 row adversarial_mining, 2.9)

avg_loss: the mean over problems of the loss of their golden answers, nats per token (`guild.evaluation.answerers`): how far the model is
from knowing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guild.analytics.documents import NO_DATA, mean
from guild.analytics.sources import Problem

WORST = 50
SHOWN_CHARACTERS = 600


def hard_examples(problems: Sequence[Problem], limit: int = WORST) -> dict[str, Any]:
    """The worst prompts: those answered wrong most often, at their newest answer still wrong, then by share, then by skill and text.

    problems: of several checkpoints, in the order of steps. avg_loss is null where no evaluation recorded a loss.
    """
    groups = _by_prompt(problems)
    hard = [found for found in groups if not found[-1].correct]
    hard.sort(key=lambda found: (-_wrong(found), -_wrong(found) / len(found), found[-1].skill, found[-1].level, found[-1].prompt))
    return {
        "status": "ok" if problems else NO_DATA,
        "problems": len(groups),
        "hard": len(hard),
        "examples": [_example(found) for found in hard[:limit]],
    }


def adversarial_mining(problems: Sequence[Problem], timestamp: str | None) -> dict[str, Any]:
    """`latest_summary{timestamp, total_examples, categories}`: the wrong answers of the newest evaluations, by skill, level and form.

    problems: of the newest evaluation of each skill and level. timestamp: of the newest of these. latest_summary is null without problems:
    nobody looked.
    """
    if not problems:
        return {"status": NO_DATA, "latest_summary": None}
    wrong = [problem for problem in problems if not problem.correct]
    categories: dict[str, list[Problem]] = {}
    for problem in wrong:
        categories.setdefault(category(problem), []).append(problem)
    shown = {
        name: {"count": len(found), "avg_loss": mean([one.loss for one in found if one.loss is not None])}
        for name, found in sorted(categories.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    }
    summary = {"timestamp": timestamp, "total_examples": len(wrong), "looked_at": len(problems), "categories": shown}
    return {"status": "ok", "latest_summary": summary}


def category(problem: Problem) -> str:
    """`bin level 3`, and the form where the skill has several: `bin level 3 verify`."""
    return " ".join(part for part in (problem.skill, f"level {problem.level}", problem.kind) if part)


def _by_prompt(problems: Sequence[Problem]) -> list[list[Problem]]:
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.skill, problem.prompt), []).append(problem)
    return list(groups.values())


def _wrong(found: Sequence[Problem]) -> int:
    return sum(not problem.correct for problem in found)


def _example(found: Sequence[Problem]) -> dict[str, Any]:
    last = found[-1]
    return {
        "prompt": last.prompt[:SHOWN_CHARACTERS],
        "expected": last.expected[:SHOWN_CHARACTERS],
        "answer": last.answer[:SHOWN_CHARACTERS],
        "reason": last.reason[:SHOWN_CHARACTERS],
        "skill": last.skill,
        "level": last.level,
        "difficulty": last.difficulty,
        "category": category(last),
        "times_asked": len(found),
        "times_wrong": _wrong(found),
        "last_step": last.step,
        "avg_loss": mean([one.loss for one in found if one.loss is not None]),
    }
