"""The rule that keeps a tokenizer's own thinking out, and the marks of a template."""

from __future__ import annotations

import pytest

from guild.training.chat_template import CHATML_MARKS, CHATML_SIMPLE, ChatMarks, apply_template, choose_template, marks_of
from guild.training.profiles import get_profile
from helpers.guild_tokenizers import BY_PLACE_TEMPLATE, THINKING_TEMPLATE, conversation, header_tokenizer, plain_tokenizer, tiny_tokenizer
from modelwright.errors import LoadError


@pytest.mark.parametrize("word", ["<think>", "reasoning_content", "enable_thinking"])
def test_a_thinking_template_gives_way_under_a_profile_that_thinks_its_own_way(word: str) -> None:
    own = f"{{# {word} #}}" + CHATML_SIMPLE
    for name in ("emoji_think", "regime3"):
        choice = choose_template(own, get_profile(name))
        assert (choice.template, choice.overridden) == (CHATML_SIMPLE, True)
        assert repr(word) in choice.reason and name in choice.reason
    assert choose_template(own, get_profile("none")).template == own
    assert not choose_template(CHATML_SIMPLE, get_profile("emoji_think")).overridden


def test_a_tokenizer_without_a_template_gets_plain_chatml() -> None:
    for own in (None, "", {}):
        choice = choose_template(own, get_profile("none"))
        assert (choice.template, choice.overridden) == (CHATML_SIMPLE, True)
    assert choose_template({"default": "{{ 1 }}"}, get_profile("none")).template == "{{ 1 }}"


def test_nothing_is_injected_after_the_override() -> None:
    tokenizer = tiny_tokenizer(THINKING_TEMPLATE)
    row = conversation("Hi", "Yes")
    assert "<think>" in tokenizer.apply_chat_template(row["messages"], tokenize=False)
    apply_template(tokenizer, get_profile("emoji_think"))
    text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    assert text == "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["messages"])


@pytest.mark.parametrize("template", [CHATML_SIMPLE, THINKING_TEMPLATE, BY_PLACE_TEMPLATE])
def test_marks_are_read_off_a_template(template: str) -> None:
    assert marks_of(tiny_tokenizer(template)) == CHATML_MARKS


def test_marks_of_another_family() -> None:
    assert marks_of(header_tokenizer()) == ChatMarks("<|head|>assistant<|tail|>\n\n", "<|turn|>")


def test_a_template_without_marks_is_refused() -> None:
    tokenizer = plain_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(LoadError, match="does not mark its answers"):
        marks_of(tokenizer)
