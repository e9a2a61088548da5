"""Tokenizers for tests of the trainer: the tiny models' with templates of several kinds, and a plain one without any chat token."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modelwright.tiny import tiny_model_path

THINKING_TEMPLATE = (
    "{% set last = messages | length - 1 %}"
    "{% for message in messages %}"
    "{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "{% if loop.index0 == last %}{% set content = '<think>\\n\\n</think>\\n\\n' + content %}{% endif %}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
"""Injects an empty thinking block into the last answer and drops the thinking of earlier ones, as Qwen3's does."""

BY_PLACE_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if not loop.last %}{{ message['content'] | trim }}{% else %}{{ message['content'] }}{% endif %}"
    "{{ '<|im_end|>' }}{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)
"""Trims every turn but the last, and ends the last without a newline: a turn rendered alone is never what it is in the whole."""

HEADER_TEMPLATE = (
    "{{ '<|endoftext|>' }}{% for message in messages %}"
    "{{ '<|head|>' + message['role'] + '<|tail|>\\n\\n' + message['content'] + '<|turn|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|tail|>\\n\\n' }}{% endif %}"
)
"""Another family's marks; needs `header_tokenizer`."""


def tiny_tokenizer(template: str | None = None) -> Any:
    """A fresh copy of the tiny models' tokenizer, with its own ChatML template or another."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path("modelwright/tiny-0.4m"))
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def header_tokenizer() -> Any:
    """With `<|head|>`, `<|tail|>` and `<|turn|>` as special tokens, the last ending a turn."""
    tokenizer = tiny_tokenizer(HEADER_TEMPLATE)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|head|>", "<|tail|>", "<|turn|>"]}, replace_extra_special_tokens=False)
    return tokenizer


@cache
def _plain_json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.train_from_iterator(["a plain base model"], trainer)
    return str(tokenizer.to_str())


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """Of a base model: bytes and an end of text, no chat template, no chat tokens, no padding token."""
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_plain_json()), eos_token="<|endoftext|>")


def conversation(
    *turns: str, system: str = "Today is 2026-01-02. You are happy. You enjoy helping others.", index: int = 0
) -> dict[str, Any]:
    """A prepared row: user and assistant turns in alternation under a system message."""
    roles = ("user", "assistant")
    messages = [{"role": "system", "content": system}]
    messages += [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]
    return {"messages": messages, "index": index}
