"""Asking a model a number of problems and counting: right, wrong, and without a result. (specs/guild.md 2.1.9, 6.3, 6.4)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guild.errors import RefusedError
from guild.evaluation.answerers import MAX_NEW_TOKENS, Answerer
from guild.evaluation.local import LocalAnswerer
from guild.evaluation.prompting import bare_answer, golden_answer
from guild.skills.contract import Verdict

MOST_UNANSWERED = 0.2
"""Share of problems without a result beyond which a measurement says nothing. (6.4)"""
SPARE_TOKENS = 64
MOST_REPLY = 2000
"""Characters of a reply that are kept."""


class NoResultError(RefusedError):
    """Too many questions had no result, so nothing is counted. `measured`: what there is."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        notes = sorted({asked.note for asked in measured.asked if asked.reply is None})
        super().__init__(
            f"{measured.unanswered} of {len(measured.asked)} questions had no result; allowed: at most "
            f"{MOST_UNANSWERED:.0%}. {notes[0] if notes else ''}".strip()
        )


@dataclass(frozen=True)
class Question:
    """A prompt, its golden answer, and who judges a reply to it. about: kept with the outcome, such as an id or a difficulty."""

    prompt: str
    expected: str
    judge: Callable[[str], Verdict]
    about: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What came of a question. reply: None when there was no result; then verdict is None too. confidence, loss: as in
    `answerers.Reply`."""

    question: Question
    reply: str | None
    verdict: Verdict | None
    seconds: float
    note: str = ""
    confidence: float | None = None
    loss: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that is stored with an evaluation."""
        told: dict[str, Any] = {
            **self.question.about,
            "prompt": self.question.prompt,
            "expected": self.question.expected,
            "reply": None if self.reply is None else self.reply[:MOST_REPLY],
            "correct": None if self.verdict is None else self.verdict.correct,
            "seconds": round(self.seconds, 4),
            "confidence": _rounded(self.confidence),
            "loss": _rounded(self.loss),
        }
        if self.verdict is not None:
            told |= {"partial": self.verdict.partial, "reason": self.verdict.reason}
        return {**told, **({"note": self.note} if self.note else {})}


@dataclass(frozen=True)
class Measured:
    """All that was asked, in order."""

    asked: tuple[Asked, ...]

    @property
    def total(self) -> int:
        """Questions that were judged."""
        return sum(one.verdict is not None for one in self.asked)

    @property
    def correct(self) -> int:
        return sum(one.verdict is not None and one.verdict.correct for one in self.asked)

    @property
    def unanswered(self) -> int:
        """Questions without a result."""
        return len(self.asked) - self.total

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.asked)

    @property
    def mean_confidence(self) -> float | None:
        """Over the answers that were judged and whose confidence is known; None without any."""
        return _mean([one.confidence for one in self.asked if one.verdict is not None])

    @property
    def mean_loss(self) -> float | None:
        """Nats per token, over the questions that were judged and whose loss is known, each counting once; None without any."""
        return _mean([one.loss for one in self.asked if one.verdict is not None])

    def checked(self) -> Measured:
        """Itself. Raises NoResultError when more than a fifth, or everything, had no result."""
        if self.total == 0 or self.unanswered > MOST_UNANSWERED * len(self.asked):
            raise NoResultError(self)
        return self


def measure(
    answerer: Answerer,
    questions: Sequence[Question],
    *,
    profile: str = "none",
    max_new_tokens: int = MAX_NEW_TOKENS,
    scored: bool = False,
) -> Measured:
    """Ask and judge every question. profile: whose marks around an answer are taken off before it is judged. scored: with confidence and
    loss, as far as the answerer can tell them."""
    golden = [golden_answer(profile, question.expected) for question in questions] if scored else None
    replies = answerer.answer([question.prompt for question in questions], max_new_tokens=max_new_tokens, golden=golden)
    asked = []
    for question, reply in zip(questions, replies, strict=True):
        verdict = None if reply.text is None else question.judge(bare_answer(profile, reply.text))
        asked.append(Asked(question, reply.text, verdict, reply.seconds, reply.note, reply.confidence, reply.loss))
    return Measured(tuple(asked))


def answer_limit(answerer: Answerer, questions: Sequence[Question], most: int) -> int:
    """Tokens after which an answer is cut: `most`, or less where the tokenizer is at hand: twice the longest golden answer and 64 more,
    beyond which no reply to these questions is right in any form that their judges read."""
    if not isinstance(answerer, LocalAnswerer):
        return most
    longest = max((answerer.count(question.expected) for question in questions), default=0)
    return min(most, 2 * longest + SPARE_TOKENS)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
