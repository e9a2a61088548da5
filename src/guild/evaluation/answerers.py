"""Who answers problems: a model in this process (`local.LocalAnswerer`), or one behind an address (`api.ApiAnswerer`). (10.1 no. 9, 14)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_NEW_TOKENS = 512
"""Tokens of an answer after which it is cut off."""
_ROUNDING = 1e-3
"""By which the logarithm of a probability of 1 may lie above 0 in 16 bits."""


@dataclass(frozen=True)
class Reply:
    """What came of one question. text: the answer, None when there is no result, which is never a wrong answer. seconds: it took; of
    answers made together each has its share. note: why there is no result, or what is to be said of the text, such as that it was cut.

    confidence: how sure the model was of this answer, 0 to 1 (`confidence_of`). loss: how badly it knew the golden one: the mean negative
    log-likelihood of its n tokens g after the same prompt, -1/n Σ ln p(g_i | prompt, g_1 … g_(i-1)), nats per token. Both over the tokens
    of a text without the mark that ends it, under the model's own distribution, before temperature and a profile's processors. None where
    it was not asked for or cannot be known, which is never a guess.
    """

    text: str | None
    seconds: float = 0.0
    note: str = ""
    confidence: float | None = None
    loss: float | None = None


class Answerer(Protocol):
    """Answers questions greedily, each by itself, under one dated system prompt."""

    @property
    def model(self) -> str:
        """The model that answers, by its name or folder."""
        ...

    @property
    def system_prompt(self) -> str:
        """What every question is asked under."""
        ...

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS, golden: Sequence[str] | None = None) -> list[Reply]:
        """One reply for each prompt, in order. golden: the golden answers; with them the replies have confidence and loss as far as this
        answerer can tell them. What goes wrong with one question stands in its reply; what goes wrong with the model itself is raised."""
        ...

    def close(self) -> None:
        """Give memory and connections back."""
        ...


def confidence_of(log_probabilities: Sequence[float]) -> float | None:
    """The geometric mean of the probabilities of an answer's n tokens, exp(1/n Σ ln p_i): by it a long answer is not less sure than a short
    one for its length alone. None of no token, and of what is no logarithm of a probability."""
    if not log_probabilities or not all(one <= _ROUNDING for one in log_probabilities):  # NaN is not below anything
        return None
    return min(1.0, math.exp(math.fsum(log_probabilities) / len(log_probabilities)))
