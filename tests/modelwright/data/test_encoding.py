from __future__ import annotations

import copy

import pytest
from transformers import PreTrainedTokenizerFast

from helpers.tiny_random import byte_tokenizer
from modelwright.data.encoding import IGNORED, EncodedDocument, encode_record
from modelwright.data.records import Message, Record
from modelwright.errors import LoadError


def _parts(document: EncodedDocument) -> tuple[str, str]:
    """The whole text and the learnt text."""
    tokenizer = byte_tokenizer()
    learnt = [token for token, label in zip(document.input_ids, document.labels, strict=True) if label != IGNORED]
    assert all(label in (token, IGNORED) for token, label in zip(document.input_ids, document.labels, strict=True))
    return tokenizer.decode(list(document.input_ids)), tokenizer.decode(learnt)


def _with_template(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


CHAT = Record(
    "messages",
    "x:1",
    messages=(
        Message("system", "user"),
        Message("user", "Héllo?"),
        Message("assistant", "assistant"),
        Message("user", "And?"),
        Message("assistant", "Ünd."),
    ),
)


def test_chat_learns_assistant_turns_and_their_ends_only() -> None:
    whole, learnt = _parts(encode_record(CHAT, byte_tokenizer()))
    assert whole == byte_tokenizer().apply_chat_template([{"role": m.role, "content": m.content} for m in CHAT.messages], tokenize=False)
    assert learnt == "assistant<|im_end|>Ünd.<|im_end|>"


def test_template_that_changes_contents() -> None:
    strips = _with_template(
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'].strip() | replace('(think)', '') }}<|im_end|>{% endfor %}"
    )
    record = Record("messages", "x:1", messages=(Message("user", "  q  "), Message("assistant", "  answer ")))
    assert _parts(encode_record(record, strips)) == ("[user]q<|im_end|>[assistant]answer<|im_end|>", "answer<|im_end|>")
    rewritten = Record("messages", "x:9", messages=(Message("user", "q"), Message("assistant", "(think)answer")))
    with pytest.raises(LoadError, match="x:9: the chat template changes"):
        encode_record(rewritten, strips)


def test_template_that_refuses() -> None:
    refuses = _with_template("{{ raise_exception('no system role') }}")
    with pytest.raises(LoadError, match=r"x:1: .*no system role"):
        encode_record(CHAT, refuses)


def test_other_shapes() -> None:
    start = byte_tokenizer().bos_token
    instruction = Record("instruction", "x", prompt="Say", completion="Yes")
    assert _parts(encode_record(instruction, byte_tokenizer()))[1] == "Yes<|im_end|>"
    assert _parts(encode_record(instruction, _with_template(None))) == (f"{start}Say\n\nYes<|im_end|>", "Yes<|im_end|>")
    completion = Record("completion", "x", prompt="2+2=", completion="4")
    assert _parts(encode_record(completion, byte_tokenizer())) == (f"{start}2+2=4<|im_end|>", "4<|im_end|>")
    text = Record("text", "x", text="abc")
    assert _parts(encode_record(text, byte_tokenizer())) == (f"{start}abc", "abc")
    assert _parts(encode_record(CHAT, _with_template(None)))[1] == "assistant<|im_end|>\nÜnd.<|im_end|>\n"
