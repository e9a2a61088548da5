"""Tasks as token ids, and their scores from logits on a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cachemedicpp.evaluation.outcomes import task_value
from cachemedicpp.evaluation.scoring import answer_tokens, exact_matches, greedy_answers, normalised_answer, score_batch
from cachemedicpp.faults.injection import fork_cache
from cachemedicpp.inputs.needle import needle_candidates, needle_examples, needle_prompt, passkey_examples
from cachemedicpp.inputs.sources import Review
from cachemedicpp.inputs.tasks import (
    PLAIN,
    TINY_CHAT,
    TINY_LINE,
    Example,
    continuation_ids,
    keep_tail,
    perplexity_examples,
    sentiment_examples,
    split_ids,
    wording_for,
)
from cachemedicpp.inputs.texts import load_reviews, load_text
from helpers.medic_data import data_settings
from helpers.tiny_random import byte_tokenizer, random_llama
from modelwright.errors import UsageError
from modelwright.loading import load_model, load_tokenizer, resolve_model

LONG = data_settings().long_context


@pytest.fixture(scope="module")
def tiny() -> Any:
    return load_tokenizer(resolve_model("modelwright/tiny-1.5m"))


@pytest.fixture(scope="module", params=["bytes", "tiny"])
def tokenizer(request: pytest.FixtureRequest, tiny: Any) -> Any:
    return byte_tokenizer() if request.param == "bytes" else tiny


class OneByOne:
    """The callable that scoring asks for: each example's prefix is cached once, its tails run on forks of that cache."""

    def __init__(self, model: Any, examples: Sequence[Example]) -> None:
        from transformers import DynamicCache

        self.model, self.calls, self.caches = model, 0, []
        with torch.no_grad():
            for example in examples:
                cache = DynamicCache()
                model(input_ids=torch.tensor([example.prefix]), past_key_values=cache, use_cache=True)
                self.caches.append(cache)

    def __call__(self, tails: Sequence[tuple[int, ...]]) -> torch.Tensor:
        self.calls += 1
        rows = []
        with torch.no_grad():
            for cache, tail in zip(self.caches, tails, strict=True):
                rows.append(self.model(input_ids=torch.tensor([tail]), past_key_values=fork_cache(cache), use_cache=True).logits[0])
        longest = max(map(len, tails))
        return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, longest - len(row)), value=float("nan")) for row in rows])


def test_perplexity_examples_cut_lines_skip_short_ones_and_wrap_around(tokenizer: Any) -> None:
    lines = ["x", *load_text(data_settings(), "test", limit=3).items]
    examples = perplexity_examples(tokenizer, lines, 5, 192)
    assert [example.item for example in examples] == [1, 2, 3, 1, 2] and [example.index for example in examples] == list(range(5))
    for example in examples:
        assert example.prefix + example.lead + example.continuations[0] == tuple(tokenizer(lines[example.item])["input_ids"][:193])
        assert (len(example.lead), len(example.continuations[0])) == (1, 48)
    whole = perplexity_examples(tokenizer, lines, 1, 192, single_pass=True)[0]
    assert (len(whole.prefix), len(whole.lead), len(whole.continuations[0])) == (1, 1, 191)
    with pytest.raises(UsageError, match="None of the 1 lines"):
        perplexity_examples(tokenizer, ["x"], 1, 192)


def test_sentiment_wording_follows_the_specification_or_the_tiny_models(tokenizer: Any, tiny: Any) -> None:
    review = Review("The film was great.", 1)
    plain = sentiment_examples(tokenizer, [review], 1, 256)[0]
    assert tokenizer.decode(plain.prefix + plain.lead) == "Review: The film was great.\nSentiment:"
    assert tokenizer.decode(plain.lead).endswith("Sentiment:") and "great" not in tokenizer.decode(plain.lead)
    assert [tokenizer.decode(label) for label in plain.continuations] == [" negative", " positive"]
    assert plain.answer == 1 and plain.tie_wins
    chat = sentiment_examples(tiny, [review], 1, 256, TINY_CHAT)[0]
    assert [len(label) for label in chat.continuations] == [1, 1]
    assert tiny.decode(chat.prefix) == "<|im_start|>user\nLabel this review.\nThe film was great."
    assert wording_for(tiny) is TINY_CHAT and wording_for(byte_tokenizer()) is PLAIN and wording_for(tiny, "tiny_line") is TINY_LINE
    with pytest.raises(UsageError, match="allowed are auto, plain, tiny_line, tiny_chat"):
        wording_for(tiny, "chatty")


def test_sentiment_wording_may_be_a_template(tokenizer: Any) -> None:
    review = Review("So {good}.", 1)
    spec, plain = wording_for(tokenizer, "Review: {text}\nSentiment:"), wording_for(tokenizer, "plain")
    assert (spec.opening, spec.closing, spec.labels) == (plain.opening, plain.closing, plain.labels)
    own = wording_for(tokenizer, "[{{]{text}\nThis is ")
    example = sentiment_examples(tokenizer, [review], 1, 256, own)[0]
    assert tokenizer.decode(example.prefix + example.lead) == "[{]So {good}.\nThis is "
    assert [tokenizer.decode(label) for label in example.continuations] == ["negative", "positive"]
    assert own.name == "[{{]{text}\nThis is "


def test_long_prompts_keep_their_tail(tokenizer: Any) -> None:
    review = Review("Sold out for weeks, and then it rained. " * 40 + "I liked it.", 1)
    example = sentiment_examples(tokenizer, [review], 1, 128)[0]
    assert example.length == 129
    assert "I liked it.\nSentiment:" in tokenizer.decode(example.prefix + example.lead)
    assert keep_tail((1, 2, 3, 4, 5), (6,), [(7,)], 4) == (1, 4, 5)
    assert keep_tail((1, 2, 3), (6,), [(7,)], 4) == (1, 2, 3)
    with pytest.raises(UsageError, match=r"Raise eval\.max_seq_len"):
        sentiment_examples(byte_tokenizer(), [review], 1, 12)


def test_prompts_are_cut_between_tokens_and_continuations_are_what_they_add(tokenizer: Any) -> None:
    prefix, lead = split_ids(tokenizer, "one two", "one two three")
    assert tokenizer.decode(prefix + lead) == "one two three" and lead
    assert split_ids(tokenizer, "same", "same")[1]  # the lead is never empty
    assert tokenizer.decode(continuation_ids(tokenizer, "Answer:", " violet-7")) == " violet-7"


@pytest.mark.parametrize("max_seq_len", [96, 192, 256])
@pytest.mark.parametrize("position", [0.0, 0.35, 1.0])
def test_the_needle_lies_in_the_cached_part_of_the_scored_window(tokenizer: Any, max_seq_len: int, position: float) -> None:
    """Acceptance 40, in tokens, for a context that is asked to be far longer than the window."""
    long = LONG.model_copy(update={"context_len": 2048, "position_frac": position})
    window = max(max_seq_len, 128) if tokenizer.vocab_size < 300 else max_seq_len
    for example in needle_examples(tokenizer, long, 6, window):
        assert example.answer is not None
        assert example.length <= window
        said = tokenizer.decode(example.continuations[example.answer]).strip()
        assert f"NEEDLE: the_key = {said}." in tokenizer.decode(example.prefix)
        assert tokenizer.decode(example.lead).endswith("Question: What is the_key? Answer:")
        assert len({len(candidate) for candidate in example.continuations}) == 1 and len(set(example.continuations)) == 4
        assert example.length > window - 120  # and the window is used


def test_the_needle_is_placed_by_sentence_capped_by_context_and_repeatable(tiny: Any) -> None:
    prompt = needle_prompt(tiny, LONG, 3, "violet-7", 4096)
    sentences = prompt.context.split(". ")
    assert int(LONG.position_frac * (len(sentences) - 1)) == next(at for at, one in enumerate(sentences) if one.startswith("NEEDLE"))
    assert len(tiny(prompt.context)["input_ids"]) <= LONG.context_len
    assert prompt == needle_prompt(tiny, LONG, 3, "violet-7", 4096) != needle_prompt(tiny, LONG, 4, "violet-7", 4096)
    assert needle_examples(tiny, LONG, 3, 192) == needle_examples(tiny, LONG, 5, 192)[:3]
    with pytest.raises(UsageError, match="The needle and its question take"):
        needle_prompt(tiny, LONG, 0, "violet-7", 20)


def test_the_needles_value_is_drawn_among_the_candidates_unless_fixed(tiny: Any) -> None:
    drawn = [example.answer for example in needle_examples(tiny, LONG, 40, 96)]
    assert set(drawn) == {0, 1, 2, 3}
    assert {example.answer for example in needle_examples(tiny, LONG, 8, 96, values="fixed")} == {0}
    from random import Random

    assert needle_candidates(tiny, LONG, Random(0))[0] == "violet-7"
    word = LONG.model_copy(update={"needle_value": "copper"})
    assert len(needle_candidates(byte_tokenizer(), word, Random(0))) == 4


def test_needles_may_state_values_of_a_list(tokenizer: Any) -> None:
    short, long = [f"key-{number}" for number in range(1, 6)], [f"violet-{number}5" for number in range(1, 5)]
    counted = {value: len(continuation_ids(tokenizer, "Answer:", f" {value}")) for value in short + long}
    assert {counted[value] for value in short}.isdisjoint(counted[value] for value in long)
    examples = needle_examples(tokenizer, LONG, 60, 160, listed=short + long)
    stated = []
    for example in examples:
        said = [tokenizer.decode(candidate).strip() for candidate in example.continuations]
        assert example.answer is not None and len(set(said)) == 4
        assert set(said) <= set(short) or set(said) <= set(long)
        assert f"NEEDLE: the_key = {said[example.answer]}." in tokenizer.decode(example.prefix)
        assert len({len(candidate) for candidate in example.continuations}) == 1 and example.length <= 160
        stated.append(said[example.answer])
    assert set(stated) == set(short + long)
    assert examples[:3] == needle_examples(tokenizer, LONG, 3, 160, listed=short + long)
    with pytest.raises(UsageError, match=r"eval\.needle_values: 'violet-15' has \d+ tokens with this tokenizer, and 2 other values"):
        needle_examples(tokenizer, LONG, 1, 160, listed=short + long[:3])


def test_passkey_examples_cache_the_key_and_offer_keys_of_equal_length(tokenizer: Any) -> None:
    for example in passkey_examples(tokenizer, 11, 320, seed=4):
        candidates = [tokenizer.decode(candidate).strip() for candidate in example.continuations]
        assert f"the pass key is {candidates[0]}." in tokenizer.decode(example.prefix)
        assert candidates[0] not in tokenizer.decode(example.lead)
        assert len({len(candidate) for candidate in example.continuations}) == 1
        assert 320 - 80 <= example.length <= 320
    with pytest.raises(UsageError, match="at least 128 tokens"):
        passkey_examples(tokenizer, 1, 64, seed=4)


def test_scores_on_a_cache_equal_scores_of_one_pass() -> None:
    model, tokenizer = random_llama(), byte_tokenizer()
    texts = perplexity_examples(tokenizer, load_text(data_settings(), "test", limit=2).items, 2, 64)
    choices = sentiment_examples(tokenizer, [Review("So good.", 1), Review("It was a poor show.", 0)], 2, 64)
    for examples in (texts, choices):
        scores = score_batch(examples, OneByOne(model, examples))
        for example, score in zip(examples, scores, strict=True):
            expected = []
            for continuation in example.continuations:
                ids = torch.tensor([example.prefix + example.lead + continuation])
                with torch.no_grad():
                    rows = model(input_ids=ids).logits[0, -len(continuation) - 1 : -1].log_softmax(-1)
                expected.append(float(rows.gather(1, torch.tensor(continuation)[:, None]).sum()))
            assert score.log_probabilities == pytest.approx(expected, abs=1e-4)
            assert score.correct is None or score.correct == (expected[example.answer or 0] >= max(expected))
            assert score.tokens == sum(map(len, example.continuations))
    assert task_value("wikitext2_ppl", score_batch(texts, OneByOne(model, texts))).tokens == 32


def fixed(first: float, second: float) -> list[bool | None]:
    """The verdict on a negative and a positive review when the labels 1 and 2 have these logits."""
    examples = [
        Example("sst2_prompted", 0, 0, (5,), (6,), ((1,), (2,)), 0),
        Example("sst2_prompted", 1, 1, (5,), (6,), ((1,), (2,)), 1, tie_wins=True),
    ]
    calls = []

    def logits(tails: Sequence[tuple[int, ...]]) -> torch.Tensor:
        calls.append(tails)
        return torch.tensor([[[0.0, first, second]]]).expand(2, 1, 3).to(torch.bfloat16)

    verdict = [score.correct for score in score_batch(examples, logits)]
    assert len(calls) == 1  # labels of one token need one pass
    return verdict


def test_ties_are_positive_and_a_nan_is_never_right() -> None:
    assert fixed(1.0, 0.0) == [True, False]
    assert fixed(0.0, 1.0) == [False, True]
    assert fixed(1.0, 1.0) == [False, True]
    assert fixed(float("nan"), 0.0) == [False, False]


def test_mixed_batches_and_wrong_logits_are_refused() -> None:
    one = Example("a", 0, 0, (1,), (2,), ((3,),))
    with pytest.raises(UsageError, match="one task at a time"):
        score_batch([one, Example("b", 0, 0, (1,), (2,), ((3,), (4,)), 0)], lambda tails: torch.zeros(2, 1, 5))
    with pytest.raises(UsageError, match=r"needed is \[1, 1, vocabulary\]"):
        score_batch([one], lambda tails: torch.zeros(1, 5))


def test_answers_are_compared_in_lower_case_without_punctuation(tiny: Any) -> None:
    assert normalised_answer(' "Violet-7".\n') == "violet7"
    example = needle_examples(tiny, LONG, 1, 96, values="fixed")[0]
    answers = [tiny(text)["input_ids"] for text in (" VIOLET-7. Then", " violet-70", " it is violet-7", "")]
    assert exact_matches(tiny, [example] * 4, answers) == [True, False, False, False]


def test_greedy_answers_on_a_cache_are_those_of_generate() -> None:
    model, tokenizer = random_llama(), byte_tokenizer()
    examples = passkey_examples(tokenizer, 2, 320, seed=1)
    found = greedy_answers(examples, OneByOne(model, examples), answer_tokens(examples))
    for example, answer in zip(examples, found, strict=True):
        ids = torch.tensor([example.prefix + example.lead])
        expected = model.generate(ids, max_new_tokens=len(answer), do_sample=False, eos_token_id=None, pad_token_id=258)
        assert expected[0, ids.shape[1] :].tolist() == answer


def test_a_trained_tiny_model_labels_the_offline_reviews_and_finds_the_passkey(tiny: Any) -> None:
    model = load_model(resolve_model("modelwright/tiny-1.5m"))
    labelled = sentiment_examples(tiny, load_reviews(data_settings(), "test", limit=60).items, 60, 192, wording_for(tiny))
    assert task_value("sst2_prompted", score_batch(labelled, OneByOne(model, labelled))).value >= 0.65
    keys = passkey_examples(tiny, 8, 192, seed=2)
    run = OneByOne(model, keys)
    assert task_value("passkey", score_batch(keys, run)).value >= 0.85
    assert sum(exact_matches(tiny, keys, greedy_answers(keys, run, answer_tokens(keys)))) >= 6
