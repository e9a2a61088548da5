"""Asking a model the problems of a level and judging what it says. (specs/guild.md 6.4 steps 1 to 3)

The judge is the skill's own. A request without an answer is no result and never a wrong answer; where more than a fifth have none, the
session is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from guild.correction.rows import WrongAnswer
from guild.evaluation.answerers import MAX_NEW_TOKENS, Answerer
from guild.evaluation.measuring import MOST_UNANSWERED, Asked, Measured, NoResultError, Question, measure
from guild.evaluation.prompting import bare_answer
from guild.skills.contract import Sample, Skill

ROUND = 20
"""Questions asked between two looks at whether to go on."""

Progress = Callable[[int, int], None]
"""Called with (questions asked, all questions) after each round; what it raises ends the session."""


@dataclass(frozen=True)
class Outcome:
    """What a session found. asked: every problem, in order. wrong: those with a wrong answer. correct, unanswered: numbers of problems.
    seconds: that the answers took."""

    asked: tuple[Sample, ...]
    wrong: tuple[WrongAnswer, ...]
    correct: int
    unanswered: int
    seconds: float

    @property
    def judged(self) -> int:
        """Answers that there are."""
        return self.correct + len(self.wrong)

    @property
    def accuracy(self) -> float:
        """Right answers of those judged, 0 to 1."""
        return self.correct / self.judged


def ask(answerer: Answerer, skill: Skill, samples: Sequence[Sample], *, profile: str = "none", progress: Progress | None = None) -> Outcome:
    """Ask every problem. profile: of the campaign, whose marks around an answer are taken off before it is judged or shown.

    Raises NoResultError as soon as more than a fifth of all problems are known to have no result.
    """
    done: list[Asked] = []
    for first in range(0, len(samples), ROUND):
        part = samples[first : first + ROUND]
        questions = [Question(one.user_prompt, one.assistant_response, partial(skill.judge, one), {"id": one.id}) for one in part]
        done += measure(answerer, questions, profile=profile, max_new_tokens=MAX_NEW_TOKENS).asked
        if sum(one.verdict is None for one in done) > MOST_UNANSWERED * len(samples):
            raise NoResultError(Measured(tuple(done)))
        if progress is not None:
            progress(len(done), len(samples))
    found = Measured(tuple(done)).checked()
    pairs = [(sample, one) for sample, one in zip(samples, done, strict=True) if one.verdict is not None and not one.verdict.correct]
    wrong = tuple(WrongAnswer(sample, _attempt(profile, one.reply or "")) for sample, one in pairs)
    return Outcome(tuple(samples), wrong, found.correct, found.unanswered, found.seconds)


def _attempt(profile: str, reply: str) -> str:
    """The answer as it is shown in a row; the whole reply where the profile's marks hold nothing."""
    return bare_answer(profile, reply).strip() or reply.strip()
