"""Which chat template a file is trained with, and where its answers begin and end. (specs/guild.md 2.1.4)

A tokenizer whose own template speaks of thinking would put text into a conversation that no row holds; under a profile that has its
own way of thinking, plain ChatML takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guild.training.profiles.base import DataProfile
from modelwright.errors import LoadError
from modelwright.tiny.tokenizer import CHAT_TEMPLATE, IM_END, IM_START

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML_SIMPLE = CHAT_TEMPLATE
"""`<|im_start|>role\\ncontent<|im_end|>\\n` for every message, and nothing else."""
INJECTING = ("<think>", "reasoning_content", "enable_thinking")
"""Words by which a template is known to inject thinking."""


@dataclass(frozen=True)
class TemplateChoice:
    """template: Jinja text. overridden: it is not the tokenizer's own. reason: why, for the run's record; "" when it is."""

    template: str
    overridden: bool
    reason: str = ""


@dataclass(frozen=True)
class ChatMarks:
    """Texts around an answer. assistant: what stands before it in every rendered conversation; it begins with a special token.
    end: the token that ends it, which is trained too."""

    assistant: str = f"{IM_START}assistant\n"
    end: str = IM_END


CHATML_MARKS = ChatMarks()


def choose_template(own: str | Mapping[str, str] | None, profile: DataProfile) -> TemplateChoice:
    """The template for a tokenizer's own (a text, a table with `default`, or None) under a profile."""
    text = own.get("default", "") if isinstance(own, Mapping) else own or ""
    if not text:
        return TemplateChoice(CHATML_SIMPLE, True, "the tokenizer has no chat template")
    found = next((word for word in INJECTING if word in text), None)
    if found and profile.plain_template:
        return TemplateChoice(
            CHATML_SIMPLE, True, f"the tokenizer's template holds {found!r}, which the profile {profile.name} must not get"
        )
    return TemplateChoice(text, False)


def apply_template(tokenizer: PreTrainedTokenizerBase, profile: DataProfile) -> TemplateChoice:
    """Give the tokenizer the template it is trained with, so that a checkpoint saved with it is asked the same way; and say which."""
    choice = choose_template(tokenizer.chat_template, profile)
    tokenizer.chat_template = choice.template
    return choice


def marks_of(tokenizer: PreTrainedTokenizerBase) -> ChatMarks:
    """The marks of a tokenizer's chat template, found by rendering one.

    Raises LoadError for a template whose answers cannot be told apart: no common opening, or no special token behind an answer.
    """
    asked = [{"role": "user", "content": "\ue000"}]
    answered = [*asked, {"role": "assistant", "content": "\ue001"}]
    twice = [*answered, {"role": "user", "content": "\ue000"}, {"role": "assistant", "content": "\ue001"}]
    before = _render(tokenizer, asked)
    whole = _render(tokenizer, answered)
    opening = _render(tokenizer, asked, generate=True).removeprefix(before)
    header = _shared_beginning(opening, whole.removeprefix(before).partition("\ue001")[0])
    behind = whole.partition("\ue001")[2]
    specials = sorted(map(str, tokenizer.all_special_tokens), key=len, reverse=True)
    end = next((token for token in specials if behind.startswith(token)), "")
    first = min((at for token in specials if (at := header.find(token)) >= 0), default=len(header))
    header = header[first:]  # what stands before it may end the turn before
    if not (header and end) or _render(tokenizer, twice).count(header) != 2:
        raise LoadError(
            f"The chat template of {tokenizer.name_or_path or 'the tokenizer'} does not mark its answers: found the opening {header!r} and "
            f"the end {end!r}; allowed: an opening that begins with a special token and stands before every answer, and a special token "
            "behind it. Train with the profile emoji_think or regime3, or give the hero a ChatML template."
        )
    return ChatMarks(header, end)


def _shared_beginning(one: str, other: str) -> str:
    end = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:end]


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, generate: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))
    except TemplateError as error:
        raise LoadError(f"The chat template of {tokenizer.name_or_path} cannot render a plain conversation ({error}).") from error
