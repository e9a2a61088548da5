"""Which questions an evaluation asks: held-out problems of a skill at a level, or rows of a set. (specs/guild.md 2.1.9, 6.3)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from guild.evaluation.measuring import Question
from guild.evaluation.rows import SKILL, Row, judge_row
from guild.places import Places
from guild.skills.contract import Sample, Skill
from guild.skills.registry import load_skill

QUICK_PROBLEMS = 20
FULL_PROBLEMS = 100
"""At each level of a full evaluation, as far as a level has so many that are held out."""


def skill_questions(skill: Skill, level: int, count: int, seed: int = 0) -> list[Question]:
    """Held-out problems of a level, judged by the skill itself; fewer than `count` only when the level has no more."""
    return [_of_sample(skill, level, sample) for sample in skill.evaluation(level, count, seed)]


def _of_sample(skill: Skill, level: int, sample: Sample) -> Question:
    about = {"id": sample.id, "level": level, "scenario": sample.scenario, "tags": list(sample.tags)}
    return Question(sample.user_prompt, sample.assistant_response, lambda reply: skill.judge(sample, reply), about)


def row_questions(rows: Sequence[Row], skills: Mapping[str, Skill]) -> list[Question]:
    """Rows of a set, judged as each row says. skills: those whose rows may come, by id (see `skills_of`)."""
    return [_of_row(row, skills) for row in rows]


def _of_row(row: Row, skills: Mapping[str, Skill]) -> Question:
    about = {"id": row.metadata.get("id", ""), "difficulty": row.difficulty}
    return Question(row.user_prompt, row.expected_answer, lambda reply: judge_row(row, reply, skills), about)


def skills_of(places: Places, rows: Sequence[Row]) -> dict[str, Skill]:
    """The skills that judge some of the rows. Raises UnknownSkillError, LoadError."""
    names = {row.judged_by.removeprefix(SKILL) for row in rows if row.judged_by.startswith(SKILL)}
    return {name: load_skill(name, folder=places.skills) for name in sorted(names)}


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """`count` of the rows, taken in turn from each difficulty in the order of its rows: the same for the same rows."""
    by_kind: dict[str, list[Row]] = {}
    for row in rows:
        by_kind.setdefault(row.difficulty, []).append(row)
    longest = max(map(len, by_kind.values()), default=0)
    turns = [kind[at] for at in range(longest) for kind in by_kind.values() if at < len(kind)]
    return turns[:count]
