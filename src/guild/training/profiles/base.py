"""What a data profile is: it changes the text of a row, and the choice of tokens while generating, and never a label.

(specs/guild.md 2.2.1) Labels are decided where rows become tokens, in `guild.training.encoding`: a profile cannot reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Example = Mapping[str, Any]
"""A row: `messages`, a list of `{"role", "content"}` with texts as contents, and whatever else its file says."""

Processor = Callable[[Any, Any], Any]
"""`(input_ids [B, T], scores [B, V]) -> scores [B, V]`, as transformers' `generate` calls it."""


class DataProfile(Protocol):
    """One profile. The same arguments give the same result on every machine; applying `transform_example` twice equals once."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def plain_template(self) -> bool:
        """Whether a tokenizer's template that speaks of thinking must give way to plain ChatML."""
        ...

    def transform_example(self, example: Example, index: int, system_prompt: str) -> dict[str, Any]:
        """The row as it is trained. index: the row's place in its file, from 0. system_prompt: holds the dated base prompt."""
        ...

    def build_logits_processors(self, tokenizer: PreTrainedTokenizerBase) -> list[Processor]:
        """Processors for one generation, in order; make new ones for the next."""
        ...

    def get_system_prompt_template(self) -> str | None:
        """The profile's own system prompt with `{date}` for the day, or None when it has no say in it."""
        ...

    def validate_example(self, example: Example) -> list[str]:
        """What is wrong with a row for this profile, one phrase each; empty when it fits."""
        ...


def rewrite(messages: Iterable[Mapping[str, Any]], role: str, change: Callable[[str], str]) -> list[dict[str, Any]]:
    """The messages with every content of one role changed."""
    return [{**m, "content": change(m["content"])} if m["role"] == role else dict(m) for m in messages]


def contents(example: Example, role: str) -> list[str]:
    """The contents of one role in order; empty for a row without messages."""
    return [m["content"] for m in example.get("messages", ()) if m["role"] == role]
