"""What a task made of each example, and of all of them: values, scores, standard errors. Needs no torch.

(specs/medic.md, 6.1 and [C25])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelwright.errors import DamagedFileError, UsageError

PERPLEXITY_TASKS = ("wikitext2_ppl",)
CHANCE = {"sst2_prompted": 0.5, "needle_long_context": 0.25, "passkey": 0.25}
"""Accuracy of guessing, by task."""
_LARGEST_EXPONENT = 80.0
_SMALLEST_PERPLEXITY = 1e-8


@dataclass(frozen=True)
class ExampleScore:
    """One example in one unit.

    tokens: how many were scored. loss: negative log-likelihood in nats, of all scored tokens for a perplexity, of the right
    candidate for a choice. correct: None for a perplexity. log_probabilities: of every candidate, None where not finite.
    """

    task: str
    index: int
    item: int
    tokens: int
    loss: float
    correct: bool | None
    log_probabilities: tuple[float | None, ...] = ()

    @property
    def value(self) -> float:
        """What means and intervals are made of: the loss (nats), or 1 for a right choice and 0 for a wrong one."""
        return self.loss if self.correct is None else float(self.correct)

    def as_dict(self) -> dict[str, Any]:
        """The fields of an example record that are known here; a loss that is not finite is null."""
        finite = math.isfinite(self.value)
        own: dict[str, Any] = {"task": self.task, "example": self.index, "item": self.item, "value": self.value if finite else None}
        return own | {
            "tokens": self.tokens,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "correct": self.correct,
            "log_probabilities": list(self.log_probabilities),
        }


def example_score(record: Mapping[str, Any]) -> ExampleScore:
    """The inverse of `ExampleScore.as_dict`; a null loss comes back as infinite. Raises DamagedFileError for missing fields."""
    try:
        loss = record["loss"]
        return ExampleScore(
            task=record["task"],
            index=record["example"],
            item=record["item"],
            tokens=record["tokens"],
            loss=math.inf if loss is None else loss,
            correct=record["correct"],
            log_probabilities=tuple(record["log_probabilities"]),
        )
    except KeyError as error:
        raise DamagedFileError("an example record", f"field {error.args[0]}", "a value", "evaluate this unit again") from error


@dataclass(frozen=True)
class TaskValue:
    """A task over its examples. value: perplexity, or accuracy 0..1. score: its share of the aggregate, higher is better.

    standard_error: of `value`; None where there are too few examples or the value is not finite. examples: how many;
    items: how many different lines, reviews or prompts they are made from.
    """

    value: float
    score: float
    standard_error: float | None
    tokens: int
    examples: int
    items: int


def task_value(task: str, scores: Sequence[ExampleScore]) -> TaskValue:
    """Value, score and standard error of a task. Examples made from the same item count as one when the error is taken."""
    tokens, items = sum(score.tokens for score in scores), len({score.item for score in scores})
    if task in PERPLEXITY_TASKS:
        value = perplexity(sum(score.loss for score in scores), tokens)
        error = perplexity_error(scores)
        return TaskValue(value, perplexity_score(value), error, tokens, len(scores), items)
    if not scores:
        raise UsageError(f"The task {task} has no examples, so it has no accuracy; raise num_examples to at least 1.")
    accuracy = sum(score.value for score in scores) / len(scores)
    return TaskValue(accuracy, accuracy, accuracy_error(accuracy, items), tokens, len(scores), items)


def perplexity(loss: float, tokens: int) -> float:
    """`exp(min(80, loss / tokens))`, loss in nats; infinite without tokens or when the loss is NaN."""
    if tokens == 0 or math.isnan(loss):
        return math.inf
    return math.exp(min(_LARGEST_EXPONENT, loss / tokens))


def perplexity_score(value: float) -> float:
    """`1 / max(value, 1e-8)`."""
    return 1.0 / max(value, _SMALLEST_PERPLEXITY)


def accuracy_error(accuracy: float, n: int) -> float | None:
    """Standard error of a proportion, `sqrt(p (1 - p) / n)`; None for n = 0."""
    return math.sqrt(accuracy * (1.0 - accuracy) / n) if n else None


def perplexity_error(scores: Iterable[ExampleScore]) -> float | None:
    """Standard error of a perplexity by the delta method: `ppl * se(r)`, `r = sum loss / sum tokens` over items.

    `se(r)^2 = n/(n-1) * sum (loss_i - r tokens_i)^2 / (sum tokens)^2`, the ratio estimator's (Cochran 1977, 6.4). None
    for fewer than two items, or a loss that is not finite.
    """
    items: dict[int, tuple[float, int]] = {}
    for score in scores:
        loss, tokens = items.get(score.item, (0.0, 0))
        items[score.item] = (loss + score.loss, tokens + score.tokens)
    n, tokens = len(items), sum(tokens for _, tokens in items.values())
    total = sum(loss for loss, _ in items.values())
    if n < 2 or tokens == 0 or not math.isfinite(total):
        return None
    ratio = total / tokens
    spread = sum((loss - ratio * own) ** 2 for loss, own in items.values())
    return perplexity(total, tokens) * math.sqrt(n / (n - 1) * spread) / tokens
