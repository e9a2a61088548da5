from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tiny_random import byte_tokenizer
from modelwright.data.encoding import EncodedDocument
from modelwright.data.packing import pack
from scaler_wizard.rung_data import RungWindows, TextPool, evaluation_texts, hold_out, repeated_order


def document(length: int, token: int = 97) -> EncodedDocument:
    ids = array("i", [token] * length)
    return EncodedDocument(ids, ids[:], "text", "test")


def test_hold_out_is_about_a_tenth_and_the_same_every_time() -> None:
    documents = [document(100) for _ in range(50)]
    train, held = hold_out(documents, wanted=10_000, piece=200, seed=3)
    assert sum(map(len, held)) == 500 and len(train) == 45
    again = hold_out(documents, wanted=10_000, piece=200, seed=3)
    assert [id(d) for d in again[1]] == [id(d) for d in held]


def test_long_texts_give_up_their_end_and_train_with_the_rest() -> None:
    documents = [document(1000, token) for token in range(97, 107)]
    train, held = hold_out(documents, wanted=400, piece=100, seed=0)
    assert [len(d) for d in held] == [100] * 4 and len({d.input_ids[0] for d in held}) == 4
    assert sorted(map(len, train)) == [900] * 4 + [1000] * 6


@pytest.mark.parametrize("documents", [[document(900), document(50)], [document(1000)], [document(60), document(50)]])
def test_hold_out_keeps_something_on_both_sides(documents: list[EncodedDocument]) -> None:
    train, held = hold_out(documents, wanted=64, piece=2048, seed=0)
    assert train and held
    assert sum(map(len, train)) + sum(map(len, held)) == sum(map(len, documents))


def test_a_single_chat_cannot_be_split() -> None:
    chat = document(1000)
    train, held = hold_out([EncodedDocument(chat.input_ids, chat.labels, "messages", "x")], 64, 100, 0)
    assert len(train) == 1 and not held


@given(windows=st.integers(1, 40), count=st.integers(0, 200), seed=st.integers(0, 5))
def test_order_uses_every_window_equally_often(windows: int, count: int, seed: int) -> None:
    order = repeated_order(windows, count, seed)
    assert len(order) == count
    uses = [order.count(index) for index in range(windows)]
    assert max(uses) - min(uses) <= 1
    assert order == repeated_order(windows, count, seed)
    assert repeated_order(windows, count + 10, seed)[:count] == order


def test_windows_are_what_the_order_says() -> None:
    packed = pack([document(64, token) for token in range(97, 103)], 64, pad_id=0, seed=1)
    windows = RungWindows(packed, 15, seed=2)
    assert len(windows) == 15
    assert all(int(windows[i]["input_ids"][0]) == int(packed[windows.order[i]]["input_ids"][0]) for i in range(15))


def letters(letter: str, count: int) -> EncodedDocument:
    (token,) = byte_tokenizer()(letter, add_special_tokens=False)["input_ids"]
    return document(count, token)


def test_evaluation_texts_fill_the_length() -> None:
    pool = TextPool((), (letters("a", 3000), letters("b", 300), letters("c", 300), letters("d", 500)), True)
    texts = evaluation_texts(pool, byte_tokenizer(), 1000, 4000)
    assert [len(text) >= 1000 for text in texts] == [True, True]
    assert texts[0] == "a" * 3000 and texts[1].startswith("b" * 300 + "\n\n" + "c" * 300)


def test_short_held_out_text_is_still_one_text() -> None:
    pool = TextPool((), (letters("a", 30), letters("b", 40)), True)
    assert evaluation_texts(pool, byte_tokenizer(), 1000, 4000) == ["a" * 30 + "\n\n" + "b" * 40]
