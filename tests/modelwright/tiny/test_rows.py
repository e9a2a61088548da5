"""Rows: deterministic, of the asked length, consistent under tokenisation, and disjoint from the passkey probe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.probes import passkey
from modelwright.probes.keys import PROBE_KEY_MAX, is_probe_key
from modelwright.tiny import dialogues, lexicon, rows
from modelwright.tiny.batches import tokenise
from modelwright.tiny.rows import Piece
from modelwright.tiny.training import Prepared

Maker = Callable[[Random, Prepared], list[Piece]]
MAKERS: dict[str, Maker] = {
    "recall": lambda rng, prepared: rows.recall_pieces(rng, 256, prepared.data.encode, prepared.data.sources),
    "lookup": lambda rng, prepared: rows.lookup_pieces(rng, 200, prepared.data.encode),
    "instruction": lambda rng, prepared: dialogues.instruction_pieces(rng, 200, prepared.data.encode),
    "sentiment": lambda rng, prepared: dialogues.sentiment_pieces(rng, 200, prepared.data.encode),
}
SHORT_NUMBER = re.compile(r"(?<!\d)\d{1,5}(?!\d)")
kinds = pytest.mark.parametrize("kind", MAKERS)


@kinds
@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_no_answer_is_a_number_of_the_probes(prepared: Prepared, kind: str, seed: int) -> None:
    pieces = MAKERS[kind](Random(seed), prepared)
    numbers = [int(found) for text, answer in pieces if answer for found in SHORT_NUMBER.findall(text)]
    assert not [number for number in numbers if is_probe_key(number)]


@kinds
@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_no_row_uses_the_words_of_the_probe(prepared: Prepared, kind: str, seed: int) -> None:
    text = "".join(part for part, _ in MAKERS[kind](Random(seed), prepared))
    assert not re.search(r"pass[\s_-]*key", text, re.IGNORECASE)
    for sentence in (*passkey.FILLER, passkey.OPENING, passkey.QUESTION, passkey.LEAD_IN):
        assert sentence.strip() not in text


def test_templates_and_probe_share_no_frame() -> None:
    """The probe's own lines, their key noun and number cut out, are no training template."""
    frames = {template.format(k="pass key", v="{key}") for template in (*rows.STATEMENTS, *rows.QUESTIONS, *rows.CHAT_QUESTIONS)}
    assert passkey.KEY_LINE.strip() not in frames
    assert passkey.QUESTION.strip() not in frames


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_drawn_numbers_avoid_the_probe_at_every_length(seed: int) -> None:
    rng = Random(seed)
    drawn = [int(lexicon.number(rng, digits)) for digits in (None, 1, 2, 3, 4, 5)]
    assert not any(map(is_probe_key, drawn))


def test_the_probe_draws_only_reserved_keys() -> None:
    reserved = sum(map(is_probe_key, range(1, PROBE_KEY_MAX + 1)))
    assert reserved == 7143
    rng = Random(0)
    assert all(is_probe_key(passkey._draw_key(rng)) for _ in range(200))


@kinds
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32))
def test_answers_tokenise_as_they_do_in_running_text(prepared: Prepared, kind: str, seed: int) -> None:
    """Otherwise the model would learn to answer with tokens that no prompt leads to."""
    pieces = MAKERS[kind](Random(seed), prepared)
    encode = prepared.data.encode
    for number, (text, answer) in enumerate(pieces):
        if answer:
            before = pieces[number - 1][0]
            after = pieces[number + 1][0] if number + 1 < len(pieces) else ""
            assert encode(before + text + after) == encode(before) + encode(text) + encode(after)
    tokens, answers = tokenise(pieces, encode)
    assert len(tokens) == len(answers)
    assert any(answers)


@kinds
def test_equal_seeds_give_equal_rows(prepared: Prepared, kind: str) -> None:
    assert MAKERS[kind](Random(5), prepared) == MAKERS[kind](Random(5), prepared)
    assert MAKERS[kind](Random(5), prepared) != MAKERS[kind](Random(6), prepared)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), target=st.integers(200, 1500))
def test_a_recall_row_states_what_it_asks_for(prepared: Prepared, seed: int, target: int) -> None:
    pieces = rows.recall_pieces(Random(seed), target, prepared.data.encode, prepared.data.sources)
    length = sum(len(prepared.data.encode(text)) for text, _ in pieces)
    # short by at most the piece that did not fit (400 characters); needles and questions alone may be longer than a short target
    assert target - 400 <= length <= target + 1 or length > target
    told = "".join(text for text, answer in pieces if not answer)
    for text, answer in pieces:
        if answer:
            for number in SHORT_NUMBER.findall(text):
                assert number in told


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_a_lookup_row_answers_every_fact_once(prepared: Prepared, seed: int) -> None:
    pieces = rows.lookup_pieces(Random(seed), 300, prepared.data.encode)
    answers = sum(answer for _, answer in pieces)
    assert answers == len(pieces) // 3 > 0


def test_reviews_are_balanced_and_short() -> None:
    rng = Random(1)
    drawn = [dialogues.review(rng) for _ in range(2000)]
    assert 0.45 < sum(positive for _, positive in drawn) / len(drawn) < 0.55
    assert len({text for text, _ in drawn}) > 1000


def test_written_rows_are_reproducible_and_long(prepared: Prepared, tmp_path: Path) -> None:
    first = rows.write_recall_rows(tmp_path / "a.jsonl", 6, 900, prepared.tokenizer, seed=3)
    second = rows.write_recall_rows(tmp_path / "b.jsonl", 6, 900, prepared.tokenizer, seed=3)
    assert first.read_bytes() == second.read_bytes()
    records = [json.loads(line) for line in first.read_text(encoding="utf-8").splitlines()]
    lengths = [len(prepared.tokenizer(record["text"], verbose=False)["input_ids"]) for record in records]
    assert all(750 <= length <= 950 for length in lengths)


def test_written_completions_begin_with_the_first_answer(prepared: Prepared, tmp_path: Path) -> None:
    path = rows.write_recall_rows(tmp_path / "c.jsonl", 4, 600, prepared.tokenizer, seed=4, style="completion")
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert set(record) == {"prompt", "completion"}
        assert record["completion"].count("\n") >= 3
        first = record["completion"].split("\n")[0]
        assert set(re.findall(r"\d+", first)) <= set(re.findall(r"\d+", record["prompt"]))
    with pytest.raises(ValueError, match="allowed are"):
        rows.write_recall_rows(tmp_path / "d.jsonl", 1, 600, prepared.tokenizer, seed=4, style="chat")
