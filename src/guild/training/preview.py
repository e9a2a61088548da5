"""What the model answers right now: a held-out row asked greedily during training. (specs/guild.md 2.1.4, 4.9)

No random number is drawn and no gradient touched, so training goes on as if nothing had been asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guild.training.profiles.base import DataProfile

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 96
MAX_PROMPT_TOKENS = 2048


@dataclass(frozen=True)
class Preview:
    """One question with the golden and the model's answer, their lengths in tokens. matches: they are equal but for spaces around and
    between words."""

    system_prompt: str
    prompt: str
    golden: str
    answer: str
    matches: bool
    prompt_tokens: int
    answer_tokens: int
    golden_tokens: int = 0


def ask_row(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    row: Mapping[str, Any],
    profile: DataProfile,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Preview | None:
    """Ask the last question of a prepared row as its profile generates; None for a row of text, or one whose prompt is longer than
    MAX_PROMPT_TOKENS."""
    import torch

    messages = row.get("messages")
    if not messages or messages[-1]["role"] != "assistant":
        return None
    asked, golden = messages[:-1], str(messages[-1]["content"])
    text = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(model.device)
    if ids.shape[1] > MAX_PROMPT_TOKENS:
        return None
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            made = model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                logits_processor=profile.build_logits_processors(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
    finally:
        model.train(was_training)
    new = made[0, ids.shape[1] :]
    answer = str(tokenizer.decode(new, skip_special_tokens=True))
    system = next((str(message["content"]) for message in asked if message["role"] == "system"), "")
    question = next((str(message["content"]) for message in reversed(asked) if message["role"] == "user"), "")
    length = len(tokenizer(golden, add_special_tokens=False).input_ids)
    return Preview(system, question, golden, answer, answer.split() == golden.split(), ids.shape[1], len(new), length)
