"""Labels: the answer of every assistant turn with its end, whatever the template does, and nothing else."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.training.chat_template import CHATML_SIMPLE, marks_of
from guild.training.encoding import EncodedRows, encode_rows
from helpers.guild_tokenizers import (
    BY_PLACE_TEMPLATE,
    THINKING_TEMPLATE,
    conversation,
    header_tokenizer,
    plain_tokenizer,
    tiny_tokenizer,
)
from modelwright.data.encoding import IGNORED, EncodedDocument
from modelwright.errors import LoadError

TINY = tiny_tokenizer()


def _encode(rows: list[dict[str, Any]], tokenizer: Any = TINY, max_length: int = 2048) -> EncodedRows:
    return encode_rows(rows, tokenizer, marks=marks_of(tokenizer), max_length=max_length)


def _trained(document: EncodedDocument, tokenizer: Any = TINY) -> list[str]:
    """The texts of the trained stretches."""
    pairs = zip(document.input_ids, document.labels, strict=True)
    stretches = [[token for token, _ in group] for on, group in groupby(pairs, lambda pair: pair[1] != IGNORED) if on]
    return [tokenizer.decode(stretch, skip_special_tokens=False) for stretch in stretches]


def _masked(document: EncodedDocument, tokenizer: Any = TINY) -> str:
    return str(tokenizer.decode([t for t, label in zip(document.input_ids, document.labels, strict=True) if label == IGNORED]))


def test_item_15_every_answer_is_trained_with_its_end_and_nothing_else() -> None:
    row = conversation("Compute: 1+1", "It is 2.", "And 2+2?", "It is 4.", "Thanks", "Bye ①⓪")
    (document,) = _encode([row]).documents
    assert _trained(document) == ["It is 2.<|im_end|>", "It is 4.<|im_end|>", "Bye ①⓪<|im_end|>"]
    rendered = TINY.apply_chat_template(row["messages"], tokenize=False)
    assert list(document.input_ids) == TINY(rendered, add_special_tokens=False)["input_ids"]
    assert all(label in (IGNORED, token) for token, label in zip(document.input_ids, document.labels, strict=True))


def test_a_template_that_injects_thinking_is_trained_as_it_renders() -> None:
    tokenizer = tiny_tokenizer(THINKING_TEMPLATE)
    (document,) = _encode([conversation("a", "<think>\nhm\n</think>\n\nfirst", "b", "second")], tokenizer).documents
    assert _trained(document, tokenizer) == ["first<|im_end|>", "<think>\n\n</think>\n\nsecond<|im_end|>"]


def test_a_template_whose_turns_differ_by_place() -> None:
    tokenizer = tiny_tokenizer(BY_PLACE_TEMPLATE)
    (document,) = _encode([conversation("a", "  first  ", "b", "  second  ")], tokenizer).documents
    assert _trained(document, tokenizer) == ["first<|im_end|>", "  second  <|im_end|>"]


def test_another_familys_marks() -> None:
    tokenizer = header_tokenizer()
    (document,) = _encode([conversation("a", "first", "b", "second")], tokenizer).documents
    assert _trained(document, tokenizer) == ["first<|turn|>", "second<|turn|>"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_trained_stretches_spell_the_answers_for_any_text(turns: list[str]) -> None:
    if any(token in turn for turn in turns for token in TINY.all_special_tokens):
        return
    row = conversation(*turns)
    (document,) = _encode([row]).documents
    spans = _trained(document)
    assert len(spans) == len(turns) // 2
    for text, answer in zip(spans, turns[1::2], strict=True):
        # only a newline that shares a token with the opening may be missing in front
        assert (answer + "<|im_end|>").endswith(text) and (answer + "<|im_end|>").removesuffix(text).strip("\n") == ""


def test_a_row_that_spells_a_control_token_is_left_out_and_counted() -> None:
    rows = [
        conversation("a", "b"),
        conversation("a<|im_end|>\n<|im_start|>assistant\nc", "b", index=1),
        conversation("a", "<|pad|>", index=2),
    ]
    made = _encode(rows)
    assert (made.report.rows, made.report.encoded, made.report.with_control_tokens) == (3, 1, 2)
    assert [document.where for document in made.documents] == ["row 0"]


def test_a_long_row_is_cut_behind_its_last_trained_token() -> None:
    row = conversation("a", "first", "b" * 50, "second")
    whole = _encode([row]).documents[0]
    trained = [at for at, label in enumerate(whole.labels) if label != IGNORED]
    for length in range(trained[1], len(whole)):
        (document,) = _encode([row], max_length=length).documents
        assert len(document) <= length
        assert document.labels[-1] != IGNORED
        assert list(document.input_ids) == list(whole.input_ids[: len(document)])
        assert len(document) == max(at + 1 for at in trained if at < length)


def test_a_row_whose_answer_is_cut_off_is_dropped_and_counted() -> None:
    rows = [conversation("a", "b"), conversation("x" * 200, "b", index=1)]
    longest = len(_encode(rows[:1]).documents[0])
    report = _encode(rows, max_length=longest).report
    assert (report.rows, report.encoded, report.truncated, report.without_answer) == (2, 1, 1, 1)
    assert report.longest > longest
    with pytest.raises(LoadError, match="of 1 rows 1 have no answer inside"):
        _encode(rows[1:], max_length=longest)
    none = encode_rows(rows[1:], TINY, marks=marks_of(TINY), max_length=longest, empty_ok=True)
    assert (none.documents, none.report.without_answer) == ((), 1)


def test_a_text_is_cut_into_documents_that_all_carry_the_preface() -> None:
    text = "once upon a time there was a tower " * 20
    row = {"text": text, "preface": "You are happy. You enjoy helping others.", "index": 3}
    made = encode_rows([row], TINY, marks=marks_of(TINY), max_length=64)
    assert len(made.documents) > 3 and all(len(document) <= 64 for document in made.documents)
    assert all(_masked(document) == row["preface"] + "\n\n" for document in made.documents)
    assert "".join(part for document in made.documents for part in _trained(document)) == text + "<|im_end|>"
    assert made.report.without_answer == made.report.truncated == 0


def test_counts_add_up_over_several_batches() -> None:
    rows = [conversation(f"say {n}", f"{n}", index=n) for n in range(600)]
    made = _encode(rows)
    assert [document.where for document in made.documents] == [f"row {n}" for n in range(600)]
    assert made.report.tokens == sum(map(len, made.documents))
    assert made.report.trained_tokens == sum(label != IGNORED for document in made.documents for label in document.labels)


def test_a_template_that_hides_an_answer_is_refused() -> None:
    hiding = CHATML_SIMPLE.replace("{% for message in messages %}", "{% for message in messages if message['content'] != 'gone' %}")
    with pytest.raises(LoadError, match="shows 1 of 2 assistant turns"):
        _encode([conversation("a", "gone", "b", "c")], tiny_tokenizer(hiding))


def test_a_template_that_refuses_a_row_says_which() -> None:
    picky = "{% if messages[-1]['content'] == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}" + CHATML_SIMPLE
    with pytest.raises(LoadError, match="Row 7: the chat template refuses this conversation \\(no bad words\\)"):
        _encode([conversation("a", "bad", index=7)], tiny_tokenizer(picky))


def test_a_base_models_bytes_with_chat_tokens_added() -> None:
    from guild.training.chat_template import apply_template
    from guild.training.chat_tokens import ensure_chat_tokens
    from guild.training.profiles import get_profile
    from helpers.tiny_random import random_llama

    tokenizer = plain_tokenizer()
    ensure_chat_tokens(random_llama(vocab_size=len(tokenizer)), tokenizer)
    apply_template(tokenizer, get_profile("none"))
    (document,) = _encode([conversation("a", "é ①")], tokenizer).documents
    assert _trained(document, tokenizer) == ["é ①<|im_end|>"]
