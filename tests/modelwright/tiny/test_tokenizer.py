"""The tokenizer: single tokens where promised, lossless, deterministic, loadable by plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modelwright.tiny.corpus import load_corpus
from modelwright.tiny.tokenizer import IM_END, IM_START, LABEL_TOKENS, VOCABULARY_SIZE, train_tokenizer
from modelwright.tiny.training import Prepared


@pytest.mark.parametrize("text", [*"0123456789", IM_START, IM_END, *LABEL_TOKENS])
def test_digits_marks_and_labels_are_single_tokens(prepared: Prepared, text: str) -> None:
    ids = prepared.tokenizer(text)["input_ids"]
    assert len(ids) == 1
    assert prepared.tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=60)
@given(
    number=st.integers(0, 10**9),
    before=st.sampled_from(["", "key is ", "x=", "\n", "①"]),
    after=st.sampled_from(["", ".", "\n", "<|im_end|>"]),
)
def test_digits_are_never_merged(prepared: Prepared, number: int, before: str, after: str) -> None:
    ids = prepared.tokenizer(f"{before}{number}{after}")["input_ids"]
    digits = [token for token in prepared.tokenizer.convert_ids_to_tokens(ids) if token.isdigit() and token not in LABEL_TOKENS]
    assert digits == list(str(number))


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=80))
def test_text_survives_encoding(prepared: Prepared, text: str) -> None:
    assert prepared.tokenizer.decode(prepared.tokenizer(text)["input_ids"]) == text


def test_labels_survive_decoding_without_special_tokens(prepared: Prepared) -> None:
    ids = prepared.tokenizer(f"⓪①{IM_END}")["input_ids"]
    assert prepared.tokenizer.decode(ids, skip_special_tokens=True) == "⓪①"


def test_equal_text_trains_an_equal_tokenizer(small_library: Path) -> None:
    texts = [file.text for file in load_corpus(small_library).train]
    first, second = train_tokenizer(texts), train_tokenizer(texts)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) == VOCABULARY_SIZE


def test_it_loads_by_autotokenizer_with_its_chat_template(prepared: Prepared, tmp_path: Path) -> None:
    prepared.tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "How much is 1 plus 1?"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"{IM_START}user\nHow much is 1 plus 1?{IM_END}\n{IM_START}assistant\n"
    assert loaded(text)["input_ids"] == prepared.tokenizer(text)["input_ids"]
    assert loaded.eos_token == IM_END


def test_a_vocabulary_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="need 262"):
        train_tokenizer(["text"], vocabulary_size=100)
