"""The rows of a wrong answer, and the choice of fresh problems. (specs/guild.md 6.4)"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from guild.correction.rows import TYPES, SessionMark, WrongAnswer, fresh_problems, rows_of
from guild.errors import RefusedError
from guild.skills.contract import Sample
from guild.skills.registry import load_skill

MARK = SessionMark("sy", 2, "checkpoint-5", "2026-03-04T12:00:00Z")


@dataclass
class SmallSkill:
    """A level with a few problems, repeated as the contract asks."""

    space: int
    asked: list[tuple[int, int, int]] = field(default_factory=list)

    def generate(self, level: int, count: int, seed: int) -> list[Sample]:
        self.asked.append((level, count, seed))
        return [Sample(str(at), f"problem {(at + seed) % self.space}", f"answer {(at + seed) % self.space}") for at in range(count)]


def wrong(numbers: range) -> list[WrongAnswer]:
    return [WrongAnswer(Sample(str(at), f"problem {at}", f"answer {at}"), "nonsense") for at in numbers]


def test_three_rows_for_each_wrong_answer_in_order() -> None:
    fresh = [Sample("f", "another", "right")] * 2
    rows = rows_of(wrong(range(2)), fresh, MARK)
    assert [row["type"] for row in rows] == [*TYPES, *TYPES]
    assert all(row["metadata"]["schema_id"] == "chat_sft_v1" and row["metadata"]["source"] == "sparring" for row in rows)
    assert [row["metadata"]["sample_id"] for row in rows] == ["0", "0", "f", "1", "1", "f"]


def test_fresh_problems_were_not_asked_while_there_are_such() -> None:
    skill = SmallSkill(100)
    asked = skill.generate(1, 10, 0)
    fresh = fresh_problems(skill, 1, wrong(range(4)), asked, 5)  # type: ignore[arg-type]
    assert len(fresh) == 4 and len({one.user_prompt for one in fresh}) == 4
    assert not {one.user_prompt for one in fresh} & {one.user_prompt for one in asked}
    assert skill.asked[-1] == (1, 14, 5)


@pytest.mark.parametrize("space", [2, 3, 12])
def test_a_small_level_still_confirms_another_problem_than_the_wrong_one(space: int) -> None:
    skill = SmallSkill(space)
    asked = skill.generate(1, space, 0)
    mistakes = [WrongAnswer(sample, "nonsense") for sample in asked]
    fresh = fresh_problems(skill, 1, mistakes, asked, 0)  # type: ignore[arg-type]
    assert all(other.user_prompt != one.sample.user_prompt for one, other in zip(mistakes, fresh, strict=True))


def test_a_level_with_one_problem_is_refused_and_nothing_wrong_needs_nothing() -> None:
    skill = SmallSkill(1)
    with pytest.raises(RefusedError, match="single problem"):
        fresh_problems(skill, 1, wrong(range(1)), skill.generate(1, 3, 0), 0)  # type: ignore[arg-type]
    skill.asked.clear()
    assert fresh_problems(skill, 1, [], [], 0) == [] and not skill.asked  # type: ignore[arg-type]


def test_the_judge_agrees_that_shown_answers_are_what_their_rows_say() -> None:
    skill = load_skill("bin")
    asked = skill.generate(2, 30, 1)
    fresh = fresh_problems(skill, 2, [WrongAnswer(one, "x") for one in asked], asked, 2)
    assert all(skill.judge(one, one.assistant_response).correct for one in fresh)
