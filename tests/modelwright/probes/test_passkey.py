from __future__ import annotations

import copy
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from helpers.tiny_random import byte_tokenizer
from modelwright.errors import UsageError
from modelwright.probes.keys import PROBE_KEY_MAX, is_probe_key
from modelwright.probes.passkey import FILLER, LEAD_IN, Passkey, passkey_summary
from modelwright.probes.protocol import LENGTH_TOLERANCE, Probe, ProbeItem, ProbeResult, Score, Variant

PROBE = Passkey()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A coarse tokenizer: one token for each word, beside the byte tokenizer's one for each letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[unk]": 0}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[unk]", pad_token="[unk]")


def _text(item: ProbeItem) -> str:
    return byte_tokenizer().decode(list(item.input_ids))


def test_satisfies_the_protocol() -> None:
    assert isinstance(PROBE, Probe)


@settings(max_examples=25, deadline=None)
@given(st.integers(400, 5000), st.integers(0, 3), st.sampled_from(["raw", "chat"]))
def test_length_with_answer_budget_is_within_tolerance(length: int, seed: int, variant: Variant) -> None:
    for item in PROBE.build(byte_tokenizer(), length, 3, seed, variant):
        assert length - LENGTH_TOLERANCE <= len(item.input_ids) + item.max_new_tokens <= length


@pytest.mark.parametrize("length", [2048, 8192, 32768, 131072])
def test_long_lengths_with_a_coarse_tokenizer(length: int) -> None:
    for item in PROBE.build(word_tokenizer(), length, 1, 0):
        assert length - LENGTH_TOLERANCE <= len(item.input_ids) + item.max_new_tokens <= length


@pytest.mark.parametrize("variant", ["raw", "chat"])
def test_prompt_states_one_key_twice_and_ends_with_the_lead_in(variant: Variant) -> None:
    for item in PROBE.build(byte_tokenizer(), 1024, 22, 5, variant):
        text = _text(item)
        assert re.findall(r"\d+", text) == [item.answer] * 2
        assert 1 <= int(item.answer) <= PROBE_KEY_MAX and is_probe_key(int(item.answer))
        assert text.endswith(LEAD_IN)
        assert ("<|im_start|>assistant\n" + LEAD_IN in text) == (variant == "chat")


def test_depth_is_where_the_key_stands() -> None:
    items = PROBE.build(byte_tokenizer(), 8192, 20, 1)
    assert sorted(Counter(item.depth for item in items)) == [i / 10 for i in range(11)]
    for item in items:
        text = _text(item)
        begin, end = text.index(FILLER[0][:8]), text.index("\nWhich pass key")
        place = (text.index(item.answer) - begin) / (end - begin)
        assert place == pytest.approx(item.depth, abs=0.03)


def test_deterministic_by_seed_and_different_per_length() -> None:
    build = lambda length, seed: PROBE.build(byte_tokenizer(), length, 5, seed)  # noqa: E731
    assert build(600, 1) == build(600, 1)
    assert [i.answer for i in build(600, 1)] != [i.answer for i in build(600, 2)]
    assert [i.answer for i in build(600, 1)] != [i.answer for i in build(700, 1)]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (" 1234.", 1.0),
        ("1234", 1.0),
        (" is 01234!", 1.0),
        ("", 0.0),
        (" none", 0.0),
        (" 12345", 0.0),
        (" 5 1234", 0.0),
        ("123 4", 0.0),
    ],
)
def test_first_integer_counts(output: str, expected: float) -> None:
    assert PROBE.score(ProbeItem((), "1234", 0.0, 0, 10), output) == expected


def test_oracle_scores_one_and_silence_zero() -> None:
    items = PROBE.build(byte_tokenizer(), 1024, 20, 0)
    oracle = [Score(PROBE.score(item, re.findall(r"\d+", _text(item))[-1]), item.depth) for item in items]
    silent = [Score(PROBE.score(item, ""), item.depth) for item in items]
    assert PROBE.aggregate(oracle, 1024).mean == 1.0
    assert set(PROBE.aggregate(oracle, 1024).by_depth) == {str(percent) for percent in range(0, 101, 10)}
    assert (PROBE.aggregate(silent, 1024).mean, PROBE.aggregate(silent, 1024).ci_low) == (0.0, 0.0)


def test_too_short_and_no_template() -> None:
    with pytest.raises(UsageError, match="cannot be built to 150 tokens"):
        PROBE.build(byte_tokenizer(), 150, 1, 0)
    bare = copy.deepcopy(byte_tokenizer())
    bare.chat_template = None
    with pytest.raises(UsageError, match="needs a tokenizer with a chat template"):
        PROBE.build(bare, 1024, 1, 0, "chat")


def test_summary() -> None:
    def result(length: int, mean: float) -> ProbeResult:
        return ProbeResult("passkey", length, "accuracy", 20, mean, 0, 1, {})

    summary = passkey_summary([result(2048, 0.8), result(512, 1.0), result(4096, 0.75), result(1024, 0.6)])
    assert summary == {"passkey_context": 2048, "passkey_accuracy": pytest.approx(0.8)}
    assert passkey_summary([result(512, 0.1)]) == {"passkey_context": None, "passkey_accuracy": None}
