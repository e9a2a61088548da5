"""The base prompt: the only home of its constants. (specs/guild.md 5.4)

Every training row and every request for an answer carries it exactly once, with its date; a profile may append to it and never
removes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

BASE_PROMPT = "You are happy. You enjoy helping others."
BASE_TEMPLATE = "Today is {date}. " + BASE_PROMPT
REQUIRED = ("happy", "helping others")
"""Words by which a prompt is known to hold the base prompt."""

Message = Mapping[str, Any]


def dated_prompt(day: date, addition: str = "") -> str:
    """The base prompt of a day, written `YYYY-MM-DD`, with `addition` in a paragraph of its own."""
    prompt = BASE_TEMPLATE.format(date=day.isoformat())
    return f"{prompt}\n\n{addition.strip()}" if addition.strip() else prompt


def validate_prompt_contains_base(prompt: str) -> bool:
    """Whether a system prompt holds what the base prompt says."""
    return all(words in prompt for words in REQUIRED)


def with_base_prompt(messages: Iterable[Message], system_prompt: str) -> list[dict[str, Any]]:
    """The messages of a conversation under one system message, whatever system messages they had.

    Raises ValueError when `system_prompt` lacks the base prompt: a programming error, for prompts are made here.
    """
    if not validate_prompt_contains_base(system_prompt):
        raise ValueError("the system prompt does not contain the base prompt")
    rest = [dict(message) for message in messages if message.get("role") != "system"]
    return [{"role": "system", "content": system_prompt}, *rest]
