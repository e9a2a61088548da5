"""Confidence and loss of answers against independent computations. (specs/guild.md 2.7 rows confidence_calibration, adversarial_mining)"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.evaluation import local, scoring
from guild.evaluation.answerers import confidence_of
from guild.evaluation.local import LocalAnswerer
from guild.evaluation.prompting import bare_answer, golden_answer, plain_prompt
from guild.training.profiles.base import Processor
from guild.training.profiles.none import NoProfile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TINY = "modelwright/tiny-0.4m"
PROMPT = plain_prompt(date(2026, 1, 1))
PROMPTS = ["Where is the cat?", "Hi", "Which number follows seven? " * 4, "Tell me about the old lamp and the river.", "Hi"]
GOLDEN = ["In the house.", "Hello to you, dear friend!", "8", "①⓪① is old.", "Good day."]


def model_and_tokenizer() -> tuple[Any, Any]:
    from modelwright.loading import load_model, load_tokenizer, resolve_model

    return load_model(resolve_model(TINY)), load_tokenizer(resolve_model(TINY))


def rendered(tokenizer: Any, prompt: str) -> str:
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def logs_one_by_one(model: Any, before: list[int], tokens: list[int]) -> list[float]:
    """ln p of each token by a forward pass of its own, without a cache, padding or batch."""
    import torch

    found = []
    with torch.no_grad():
        for at, token in enumerate(tokens):
            scores = model(torch.tensor([before + tokens[:at]])).logits[0, -1].double()
            found.append(float(scores[token] - scores.logsumexp(-1)))
    return found


def test_the_loss_is_the_mean_over_the_golden_answers_tokens_one_by_one() -> None:
    model, tokenizer = model_and_tokenizer()
    replies = LocalAnswerer(TINY, PROMPT, batch=4).answer(PROMPTS, max_new_tokens=2, golden=GOLDEN)
    for prompt, golden, reply in zip(PROMPTS, GOLDEN, replies, strict=True):
        before = tokenizer(rendered(tokenizer, prompt), add_special_tokens=False).input_ids
        logs = logs_one_by_one(model, before, tokenizer(golden, add_special_tokens=False).input_ids)
        assert reply.loss == pytest.approx(-math.fsum(logs) / len(logs), abs=1e-4)


def test_the_confidence_is_the_geometric_mean_over_the_answers_own_tokens() -> None:
    import torch

    model, tokenizer = model_and_tokenizer()
    replies = LocalAnswerer(TINY, PROMPT, batch=4).answer(PROMPTS, max_new_tokens=12, golden=GOLDEN)
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        before = tokenizer(rendered(tokenizer, prompt), add_special_tokens=False).input_ids
        new: list[int] = []
        while len(new) < 12:
            with torch.no_grad():
                token = int(model(torch.tensor([before + new])).logits[0, -1].argmax())
            if tokenizer.decode([token]) in (tokenizer.eos_token, "<|im_end|>"):
                break
            new.append(token)
        logs = logs_one_by_one(model, before, new)
        expected = math.exp(math.fsum(logs) / len(logs)) if logs else None
        assert reply.text == tokenizer.decode(new, skip_special_tokens=True)
        assert reply.confidence == (None if expected is None else pytest.approx(expected, abs=1e-4))
    assert any(reply.confidence is not None for reply in replies)


def test_who_says_the_golden_answer_is_as_sure_of_it_as_its_loss_says() -> None:
    answerer = LocalAnswerer(TINY, PROMPT)
    said = [reply.text or "" for reply in answerer.answer(PROMPTS, max_new_tokens=12)]
    checked = 0
    for reply in answerer.answer(PROMPTS, max_new_tokens=12, golden=said):
        if reply.confidence is not None and answerer.count(reply.text or "") == 12:  # cut into the tokens that it was made of
            assert reply.loss is not None
            assert math.exp(-reply.loss) == pytest.approx(reply.confidence, abs=1e-4)
            checked += 1
    assert checked


def test_figures_do_not_depend_on_what_is_asked_beside_them_nor_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    together = LocalAnswerer(TINY, PROMPT, batch=8).answer(PROMPTS, max_new_tokens=6, golden=GOLDEN)
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 1)  # one row at a time
    alone = LocalAnswerer(TINY, PROMPT, batch=1).answer(PROMPTS, max_new_tokens=6, golden=GOLDEN)
    for one, other in zip(together, alone, strict=True):
        assert (one.loss, one.confidence) == (pytest.approx(other.loss, abs=1e-4), pytest.approx(other.confidence, abs=1e-4))


def test_without_golden_answers_nothing_is_scored() -> None:
    (reply,) = LocalAnswerer(TINY, PROMPT).answer(PROMPTS[:1], max_new_tokens=4)
    assert (reply.confidence, reply.loss) == (None, None)


def test_what_does_not_fit_or_is_empty_has_no_figures() -> None:
    asked, golden = ["river " * 600, "Hi", "Hi"], ["x", "river " * 600, ""]
    long, cut, nothing = LocalAnswerer(TINY, PROMPT).answer(asked, max_new_tokens=4, golden=golden)
    assert (long.text, long.confidence, long.loss) == ("", None, None)
    assert (cut.loss, nothing.loss) == (None, None)
    assert cut.confidence == nothing.confidence is not None


@dataclass(frozen=True)
class Stubborn(NoProfile):
    """A profile under which every token is the same one."""

    def build_logits_processors(self, tokenizer: PreTrainedTokenizerBase) -> list[Processor]:
        token = tokenizer("x", add_special_tokens=False).input_ids[0]

        def always(ids: Any, scores: Any) -> Any:
            scores[:, token] = 1e9  # in place, as a careless profile might
            return scores

        return [always]


def test_the_confidence_is_the_models_own_and_not_what_a_profile_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "get_profile", lambda name: Stubborn())
    (reply,) = LocalAnswerer(TINY, PROMPT).answer(PROMPTS[:1], max_new_tokens=3, golden=["xxx"])
    model, tokenizer = model_and_tokenizer()
    token = tokenizer("x", add_special_tokens=False).input_ids[0]
    logs = logs_one_by_one(model, tokenizer(rendered(tokenizer, PROMPTS[0]), add_special_tokens=False).input_ids, [token] * 3)
    assert reply.confidence == pytest.approx(math.exp(math.fsum(logs) / 3), rel=1e-3)
    assert reply.confidence is not None and reply.confidence < 0.1


def test_broken_weights_give_no_figures() -> None:
    import torch

    answerer = LocalAnswerer(TINY, PROMPT)
    answerer.load()
    model, _ = answerer._parts()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    (reply,) = answerer.answer(["Hi"], max_new_tokens=2, golden=["Hello"])
    assert (reply.confidence, reply.loss) == (None, None)


def test_the_golden_answer_is_what_a_profile_taught() -> None:
    assert golden_answer("none", "①⓪") == golden_answer("emoji_think", "①⓪") == "①⓪"
    marked = golden_answer("regime3", "①⓪")
    assert marked != "①⓪" and bare_answer("regime3", marked) == "①⓪"


def test_confidence_by_hand_and_of_what_is_none() -> None:
    assert confidence_of([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25)
    assert confidence_of([0.0, 1e-6]) == 1.0  # rounding above a probability of 1
    assert confidence_of([-math.inf, 0.0]) == 0.0
    for nothing in ([], [math.nan], [-0.1, math.nan], [0.5]):
        assert confidence_of(nothing) is None


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=50))
def test_confidence_lies_between_the_least_and_the_greatest_probability(shares: list[float]) -> None:
    found = confidence_of([math.log(share) for share in shares])
    assert found is not None and min(shares) * (1 - 1e-9) <= found <= max(shares) * (1 + 1e-9)


@pytest.mark.parametrize(("tokens", "vocabulary", "most", "rows"), [(9, 1024, 16, 16), (299, 151_936, 16, 2), (10**6, 10**6, 16, 1)])
def test_rows_of_a_pass_are_limited_by_the_memory_of_their_scores(tokens: int, vocabulary: int, most: int, rows: int) -> None:
    assert scoring.rows_at_once(tokens, vocabulary, most) == rows
