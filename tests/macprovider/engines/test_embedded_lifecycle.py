"""Waiting, cancelling, failing and closing, with a real model of random weights."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from helpers.engine_listener import GREEDY, Collected, ask, engine_settings
from helpers.tiny_random import random_llama, save_model
from macprovider.engines.base import EngineError, GenerationRequest, Sampling, Token
from macprovider.engines.embedded.engine import TransformersEngine
from modelwright.errors import ModelwrightError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(folder: Path) -> Iterator[TransformersEngine]:
    made = TransformersEngine(engine_settings(folder, max_batch=2), piece=8)
    made.load()
    yield made
    made.close()


def test_more_requests_than_slots_are_answered_in_order(engine: TransformersEngine) -> None:
    order: list[int] = []

    class Named(Collected):
        def __init__(self, name: int) -> None:
            super().__init__()
            self.name = name

        def tokens(self, tokens: Sequence[Token]) -> None:
            if self.name not in order:
                order.append(self.name)
            super().tokens(tokens)

    heard = [Named(index) for index in range(7)]
    for index, listener in enumerate(heard):
        engine.submit(GenerationRequest([index + 1] * 12, 6, GREEDY), listener)
    assert all(listener.wait().reason == "length" and listener.ends == 1 and len(listener.heard) == 6 for listener in heard)
    assert order == list(range(7))


def test_a_long_prompt_does_not_stop_a_running_answer(engine: TransformersEngine) -> None:
    seen: list[int] = []
    running = ask(engine, [1, 2, 3], 200)
    running.first.wait(60)

    class Late(Collected):
        def tokens(self, tokens: Sequence[Token]) -> None:
            if not self.heard:
                seen.append(len(running.heard))
            super().tokens(tokens)

    late = Late()
    before = len(running.heard)
    engine.submit(GenerationRequest([5] * 160, 2, GREEDY), late)
    late.wait()
    # 160 tokens in pieces of 8: twenty turns, each with a token for the running answer.
    assert seen[0] - before >= 18
    assert running.wait().reason == "length"


def test_a_cancelled_answer_gives_its_slot_to_the_next(engine: TransformersEngine) -> None:
    busy = [ask(engine, [index, 2, 3], 240) for index in (1, 2)]
    waiting = [ask(engine, [9, 9], 3), ask(engine, [8, 8], 3)]
    for answer in busy:
        answer.first.wait(60)
    assert waiting[0].ticket and busy[0].ticket and busy[1].ticket
    assert engine.metrics().waiting == 2 and engine.metrics().running == 2
    waiting[0].ticket.cancel()
    assert waiting[0].wait().reason == "cancelled"
    busy[0].ticket.cancel()
    assert busy[0].wait().reason == "cancelled" and busy[0].ends == 1
    assert waiting[1].wait().reason == "length"
    busy[1].ticket.cancel()
    assert busy[1].wait().reason == "cancelled"
    busy[1].ticket.cancel()
    assert busy[1].ends == 1


def test_stop_ids_end_an_answer_and_are_no_part_of_it(engine: TransformersEngine) -> None:
    free = ask(engine, [4, 5, 6], 20).wait()
    stop = free.ids[7]
    stopped = ask(engine, [4, 5, 6], 20, stop_ids=frozenset({stop})).wait()
    assert stopped.reason == "stop" and stopped.ids == free.ids[: free.ids.index(stop)]


def test_an_answer_ends_where_the_context_ends(engine: TransformersEngine) -> None:
    answer = ask(engine, [7] * 250, 100).wait()
    assert answer.reason == "length" and len(answer.heard) == 6


@pytest.mark.parametrize(
    ("prompt", "options", "word"),
    [
        ([], {}, "empty"),
        ([1] * 256, {}, "256"),
        ([1, 260], {}, "vocabulary"),
        ([1], {"max_tokens": 0}, "max_tokens"),
        ([1], {"sampling": Sampling(logit_bias={999: 1.0})}, "999"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(
    engine: TransformersEngine, prompt: list[int], options: dict[str, object], word: str
) -> None:
    with pytest.raises(EngineError, match=word):
        ask(engine, prompt, **options)  # type: ignore[arg-type]


def test_a_reader_that_fails_costs_the_others_nothing(engine: TransformersEngine) -> None:
    class Broken(Collected):
        def tokens(self, tokens: Sequence[Token]) -> None:
            raise ValueError("reader is gone")

        def finished(self, reason: str, error: str = "") -> None:
            super().finished(reason, error)
            raise ValueError("and again")

    alone = ask(engine, [3, 1, 4], 30).wait()
    good, broken = ask(engine, [3, 1, 4], 30), Broken()
    engine.submit(GenerationRequest([2, 7], 30, GREEDY), broken)
    assert broken.wait().reason == "error" and "reader is gone" in broken.error
    assert good.wait().ids == alone.ids
    assert ask(engine, [2, 7], 4).wait().reason == "length"


@pytest.mark.parametrize(("fault", "word"), [(ValueError("shapes differ"), "shapes differ"), (MemoryError(), "not enough memory")])
def test_a_step_that_fails_ends_those_in_it_and_nobody_else(engine: TransformersEngine, fault: Exception, word: str) -> None:
    assert engine._loaded is not None
    model = engine._loaded.runner.model
    expected = ask(engine, [6, 6, 6], 8).wait().ids
    both = [ask(engine, [index], 240) for index in (1, 2)]
    waiting = ask(engine, [6, 6, 6], 8)
    for answer in both:
        answer.first.wait(60)

    def fail(module: torch.nn.Module, arguments: object, keywords: dict[str, torch.Tensor]) -> None:
        if len(keywords["input_ids"]) == 2:  # a step of both answers, no piece of a prompt
            handle.remove()
            raise fault

    handle = model.register_forward_pre_hook(fail, with_kwargs=True)
    assert [answer.wait().reason for answer in both] == ["error", "error"] and all(word in answer.error for answer in both)
    assert waiting.wait().ids == expected and waiting.reason == "length"


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from helpers.engine_listener import ask, engine_settings
from macprovider.engines.embedded.engine import TransformersEngine

engine = TransformersEngine(engine_settings(Path(sys.argv[1]), max_context=16000, max_batch=2, threads=1))
engine.load()
ask(engine, [1, 2, 3], 4).wait()
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (192 << 20), resource.RLIM_INFINITY))
short, long = ask(engine, [4, 5], 20), ask(engine, [7] * 15000, 4)
print(long.wait().reason, long.error)
print(short.wait().reason, len(short.heard))
print(ask(engine, [8, 9], 4).wait().reason)
engine.close()
"""


def test_memory_that_is_lacking_ends_the_answer_that_needs_it(tmp_path: Path) -> None:
    # 64 KiB for each token: 15,000 of them do not fit into 192 MiB.
    folder = save_model(tmp_path, random_llama(num_attention_heads=32, num_key_value_heads=32, head_dim=128, max_position_embeddings=16384))
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, str(folder)],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines and lines[0].startswith("error There was not enough memory"), done.stdout + done.stderr
    assert lines[1:] == ["length 20", "length"]


def test_weights_that_are_no_numbers_give_an_error_and_spoil_no_slot(folder: Path) -> None:
    model = random_llama()
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = torch.nan  # tied: every logit row of token 77 is lost too
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.1)
    broken = save_model(folder.parent / "broken", model)
    engine = TransformersEngine(engine_settings(broken, max_batch=1, prefix_reuse=False))
    engine.load()
    try:
        sound = ask(engine, [1, 2, 3], 10).wait()
        bad = ask(engine, [1, 77, 3, 4, 5, 6, 7, 8], 10).wait()
        assert bad.reason == "error" and "not a number" in bad.error
        assert ask(engine, [1, 2, 3], 10).wait().ids == sound.ids
    finally:
        engine.close()


def test_closing_ends_everything_and_may_be_repeated(folder: Path) -> None:
    engine = TransformersEngine(engine_settings(folder, max_batch=1))
    engine.load()
    answers = [ask(engine, [index], 250) for index in range(3)]
    answers[0].first.wait(60)
    engine.close()
    engine.close()
    assert [answer.wait(5).reason for answer in answers] == ["cancelled"] * 3
    assert not any(thread.name == "engine" for thread in threading.enumerate())
    with pytest.raises(EngineError, match="start the server again"):
        ask(engine, [1])


@pytest.mark.parametrize(
    ("options", "word"),
    [({"device": "tpu"}, "device"), ({"max_batch": 0}, "max_batch"), ({"dtype": "int3"}, "dtype"), ({"threads": 0}, "threads")],
)
def test_settings_that_cannot_be_are_refused(folder: Path, options: dict[str, object], word: str) -> None:
    engine = TransformersEngine(engine_settings(folder, **options))
    with pytest.raises(ModelwrightError, match=word):
        engine.load()
    engine.close()


def test_the_context_is_not_more_than_the_model_was_made_for(folder: Path) -> None:
    engine = TransformersEngine(engine_settings(folder, max_context=20_000))
    facts = engine.load()
    engine.close()
    assert facts.context == 512 and "512" in facts.notes[0]


def test_memory_grows_with_what_is_used(folder: Path) -> None:
    engine = TransformersEngine(engine_settings(folder, max_context=512, max_batch=4, prefix_reuse=False))
    facts = engine.load()
    try:
        assert facts.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, channels, bytes
        start = engine.metrics().kv_bytes
        assert start == 256 * facts.kv_bytes_per_token
        ask(engine, [1] * 300, 2).wait()
        assert engine.metrics().kv_bytes == 512 * facts.kv_bytes_per_token
        assert engine.metrics().kv_capacity == 4 * 512
    finally:
        engine.close()


def test_a_cache_that_the_model_cannot_read_is_refused_while_loading(tmp_path: Path) -> None:
    """Falcon's attention does not go through the library's registry, which a quantised cache needs."""
    from transformers import FalconConfig, FalconForCausalLM

    shape = {"vocab_size": 260, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 256}
    engine = TransformersEngine(engine_settings(save_model(tmp_path, FalconForCausalLM(FalconConfig(**shape))), kv_bits=8))
    try:
        with pytest.raises(ModelwrightError, match="attention registry"):
            engine.load()
    finally:
        engine.close()
