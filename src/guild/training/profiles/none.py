"""`none`: rows as they are. (specs/guild.md 2.2.1)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guild.training.profiles.base import Example, Processor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class NoProfile:
    """Adds the system prompt where a conversation has none, and changes nothing else."""

    name: str = "none"
    description: str = "rows as they are; the system prompt is added where there is none"
    version: str = "1.0.0"
    plain_template: bool = False

    def transform_example(self, example: Example, index: int, system_prompt: str) -> dict[str, Any]:
        row = dict(example)
        if "messages" in row and not any(m["role"] == "system" for m in row["messages"]):
            row["messages"] = [{"role": "system", "content": system_prompt}, *row["messages"]]
        return row

    def build_logits_processors(self, tokenizer: PreTrainedTokenizerBase) -> list[Processor]:
        return []

    def get_system_prompt_template(self) -> str | None:
        return None

    def validate_example(self, example: Example) -> list[str]:
        return []
