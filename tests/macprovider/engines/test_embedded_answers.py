"""Greedy answers of a mixed batch against each request alone in the library, for three families of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from helpers.engine_listener import ask, engine_settings
from helpers.tiny_random import random_gpt2, random_llama, random_qwen3, save_model
from macprovider.engines.embedded.engine import TransformersEngine

FAMILIES = {"llama": random_llama, "qwen3": random_qwen3, "gpt2": random_gpt2}
LENGTHS = (3, 47, 18, 1, 90, 33, 7)
ANSWERS = (30, 12, 25, 40, 9, 21, 33)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in LENGTHS]


def alone(model: PreTrainedModel, prompt: list[int], tokens: int) -> tuple[list[int], list[float]]:
    """Token ids and log-probabilities of `generate`."""
    done = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = done.sequences[0, len(prompt) :].tolist()
    logs = torch.stack(done.logits)[:, 0].log_softmax(-1)
    return ids, logs[torch.arange(len(ids)), ids].tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    made = FAMILIES[request.param](seed=3)
    made.generation_config.eos_token_id = None  # answers of a known length
    return made


@pytest.fixture(scope="module")
def folder(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), model)


@pytest.mark.parametrize("piece", [5, 256])
def test_a_mixed_batch_answers_as_each_request_alone(model: PreTrainedModel, folder: Path, piece: int) -> None:
    engine = TransformersEngine(engine_settings(folder, max_batch=3, prefix_reuse=False), piece=piece)
    facts = engine.load()
    assert facts.slots == 3 and facts.context == 256 and facts.kv_bits is None
    try:
        # Seven requests for three slots: rows join and leave in the middle, and change their places.
        heard = [ask(engine, prompt, count, top_logprobs=3) for prompt, count in zip(prompts(), ANSWERS, strict=True)]
        for collected, prompt, count in zip(heard, prompts(), ANSWERS, strict=True):
            collected.wait()
            ids, logs = alone(model, prompt, count)
            assert collected.reason == "length" and collected.ids == ids
            assert [token.logprob for token in collected.heard] == pytest.approx(logs, abs=1e-4)
            assert all(token.top[0] == (token.id, token.logprob) and len(token.top) == 3 for token in collected.heard)
        metrics = engine.metrics()
        assert (metrics.running, metrics.waiting, metrics.kv_tokens) == (0, 0, 0)
        same = ask(engine, prompts()[4], 50), ask(engine, prompts()[4], 50)
        assert same[0].wait().ids == same[1].wait().ids
        assert engine.metrics().cached_prompt_tokens == 0  # nothing is taken over from a running row either
        assert metrics.prompt_tokens == sum(LENGTHS) and metrics.generated_tokens == sum(ANSWERS)
        assert metrics.steps < sum(ANSWERS) + sum(-(-length // piece) for length in LENGTHS)  # fewer than one after the other
    finally:
        engine.close()


def test_a_prefix_is_taken_over_without_changing_the_answer(model: PreTrainedModel, folder: Path) -> None:
    long = prompts()[4]
    other = [*long[:60], 11, 12, 13]
    engine = TransformersEngine(engine_settings(folder, max_batch=3), piece=16)
    engine.load()
    try:
        first = ask(engine, long, 10).wait()
        again = ask(engine, long, 10).wait()
        branch = ask(engine, other, 10).wait()
        assert first.ids == again.ids == alone(model, long, 10)[0]
        assert branch.ids == alone(model, other, 10)[0]
        assert first.ticket and again.ticket and branch.ticket
        assert [answer.ticket.cached_tokens for answer in (first, again, branch) if answer.ticket] == [0, 89, 60]
        # While one answer runs, three more begin as it did: they copy from its row and do not disturb it.
        running = ask(engine, long, 120)
        running.first.wait(60)
        copies = [ask(engine, [*long, *extra], 8) for extra in ([1], [2, 3], [4])]
        for copy, extra in zip(copies, ([1], [2, 3], [4]), strict=True):
            copy.wait()
            assert copy.ticket and copy.ticket.cached_tokens == 90
            assert copy.ids == alone(model, [*long, *extra], 8)[0]
        assert running.wait().ids == alone(model, long, 120)[0]
        assert engine.metrics().cached_prompt_tokens >= 89 + 60 + 3 * 90
    finally:
        engine.close()
