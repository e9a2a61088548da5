"""Who answers problems: a model in this process (`local.LocalAnswerer`), or one behind an address (`api.ApiAnswerer`). (10.1 no. 9, 14)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_NEW_TOKENS = 512
"""Tokens of an answer after which it is cut off."""


@dataclass(frozen=True)
class Reply:
    """What came of one question. text: the answer, None when there is no result, which is never a wrong answer. seconds: it took; of
    answers made together each has its share. note: why there is no result, or what is to be said of the text, such as that it was cut."""

    text: str | None
    seconds: float = 0.0
    note: str = ""


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

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS) -> list[Reply]:
        """One reply for each prompt, in order. What goes wrong with one question stands in its reply; what goes wrong with the model
        itself is raised."""
        ...

    def close(self) -> None:
        """Give memory and connections back."""
        ...
