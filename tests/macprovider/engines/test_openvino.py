"""The OpenVINO engine against transformers: same greedy tokens, true log-probabilities, seeds, penalties, cache precision read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from helpers.engine_listener import ask, engine_settings
from helpers.tiny_random import random_llama, random_qwen3
from macprovider.engines.base import EngineError, Sampling, fault_of
from macprovider.engines.gguf_file import exported
from macprovider.engines.openvino.engine import FEATURES, OpenVinoEngine
from macprovider.engines.openvino.setup import confirmed_cache
from macprovider.weights.gguf_config import describe
from modelwright.loading import load_model, load_tokenizer, resolve_model
from modelwright.tiny import tiny_model_path

pytest.importorskip("openvino_genai")

NAME = "modelwright/tiny-1.5m"
TEXT = "The function returns the number of items in the list, and the"


@pytest.fixture(scope="module", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    return load_model(resolve_model(NAME))


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    return list(load_tokenizer(resolve_model(NAME))(TEXT)["input_ids"])


@pytest.fixture(scope="module")
def engine() -> Iterator[OpenVinoEngine]:
    made = OpenVinoEngine(engine_settings(tiny_model_path(NAME), threads=1))
    made.load()
    yield made
    made.close()


def saved(folder: Path, model: PreTrainedModel) -> Path:
    """A random model with the tokenizer of the tiny ones, which has merges as GGUF's readers demand."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_model_path(NAME) / name, folder / name)
    return folder


def greedy(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    found = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[0, len(prompt) :].tolist()


def agreement(found: list[int], expected: list[int]) -> float:
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)


def logprobs(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> list[float]:
    with torch.no_grad():
        rows = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return [float(rows[number, token]) for number, token in enumerate(answer)]


def test_greedy_answers_are_those_of_transformers(engine: OpenVinoEngine, reference: PreTrainedModel, prompt: list[int]) -> None:
    prompts = [prompt, prompt[3:], prompt[:5], prompt * 4, prompt[::-1], prompt[1:9]]
    answers = [ask(engine, each, 40) for each in prompts]  # two more than there are slots
    for each, answer in zip(prompts, answers, strict=True):
        answer.wait()
        assert (answer.reason, answer.ends, len(answer.ids)) == ("length", 1, 40)
        assert agreement(answer.ids, greedy(reference, each, 40)) >= 0.9


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_family_of_the_export_answers_as_transformers(family: str, tmp_path: Path) -> None:
    if family == "qwen2":
        settings = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        model: Any = Qwen2ForCausalLM(Qwen2Config(vocab_size=1024, **settings)).eval()
        with torch.no_grad():
            for number, (name, parameter) in enumerate(model.named_parameters()):
                if parameter.ndim > 1 or name.endswith("bias"):
                    parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(number))
    else:
        model = random_llama(vocab_size=1024, tie_word_embeddings=False) if family == "llama" else random_qwen3(vocab_size=1024)
    made = OpenVinoEngine(engine_settings(saved(tmp_path, model), threads=1))
    try:
        made.load()
        each = [40, 41, 42, 99, 7, 200]
        assert agreement(ask(made, each, 20).wait().ids, greedy(model, each, 20)) >= 0.8
    finally:
        made.close()


def test_log_probabilities_are_those_of_the_model_before_temperature(
    engine: OpenVinoEngine, reference: PreTrainedModel, prompt: list[int]
) -> None:
    for sampling in (Sampling(temperature=0.0), Sampling(temperature=0.7, top_p=0.8, top_k=20, seed=3)):
        answer = ask(engine, prompt, 12, sampling, top_logprobs=0).wait()
        assert [token.logprob for token in answer.heard] == pytest.approx(logprobs(reference, prompt, answer.ids), abs=0.02)
    assert {token.logprob for token in ask(engine, prompt, 3).wait().heard} == {None}


def test_a_seed_repeats_an_answer_also_in_company(engine: OpenVinoEngine, prompt: list[int]) -> None:
    drawn = Sampling(temperature=1.0, seed=5)
    alone = ask(engine, prompt, 20, drawn).wait().ids
    company = [ask(engine, prompt, 20, Sampling(temperature=1.0, seed=seed)) for seed in (8, 5, 9)]
    assert company[1].wait().ids == alone
    assert company[0].wait().ids != alone
    chance = {tuple(ask(engine, prompt, 20, Sampling(temperature=1.0)).wait().ids) for _ in range(3)}
    assert len(chance) == 3


def test_penalties_are_over_the_answer(engine: OpenVinoEngine, reference: PreTrainedModel, prompt: list[int]) -> None:
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(16):
            logits = reference(torch.tensor([prompt + expected])).logits[0, -1].float()
            for token in set(expected):
                logits[token] -= 0.5 * expected.count(token) + 0.6
            expected.append(int(logits.argmax()))
    found = ask(engine, prompt, 16, Sampling(temperature=0.0, frequency_penalty=0.5, presence_penalty=0.6)).wait()
    assert agreement(found.ids, expected) >= 0.9


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(engine: OpenVinoEngine, prompt: list[int]) -> None:
    free = ask(engine, prompt, 20).wait().ids
    stop = free[7]
    answer = ask(engine, prompt, 20, stop_ids=frozenset({stop})).wait()
    assert answer.reason == "stop" and answer.ids == free[: free.index(stop)]
    assert ask(engine, prompt, 20).wait().ids == free  # the end-of-text token of the model stops nothing by itself


def test_a_cancelled_answer_gives_its_slot_back(engine: OpenVinoEngine, prompt: list[int]) -> None:
    for _ in range(3):  # three times all slots and all of the cache
        taken = [ask(engine, prompt, 230) for _ in range(4)]
        for answer in taken:
            assert answer.first.wait(60) and answer.ticket is not None
            answer.ticket.cancel()
        for answer in taken:
            assert answer.wait().reason == "cancelled" and answer.ends == 1
    waiting = [ask(engine, prompt, 8) for _ in range(6)]
    assert [answer.wait().reason for answer in waiting] == ["length"] * 6
    metrics = engine.metrics()
    assert (metrics.running, metrics.waiting, metrics.kv_tokens) == (0, 0, 0)


def test_a_prompt_that_needs_the_whole_cache_follows_a_cancelled_one() -> None:
    """The pipeline keeps the blocks of a cancelled request until its next step and would drop what does not fit beside them."""
    made = OpenVinoEngine(engine_settings(tiny_model_path("tiny-0.4m"), threads=1, max_batch=1))
    made.load()
    try:
        for number in range(5, 8):
            broken_off = ask(made, [number] * 230, 20)
            assert broken_off.first.wait(60) and broken_off.ticket is not None
            broken_off.ticket.cancel()
            assert broken_off.wait().reason == "cancelled"
            assert ask(made, [number] * 240, 16).wait().reason == "length"
    finally:
        made.close()


def test_the_metrics_count(engine: OpenVinoEngine, prompt: list[int]) -> None:
    before = engine.metrics()
    ask(engine, prompt, 6).wait()
    after = engine.metrics()
    assert after.prompt_tokens - before.prompt_tokens == len(prompt)
    assert after.generated_tokens - before.generated_tokens == 6
    assert after.steps - before.steps == 6
    assert after.kv_capacity >= 4 * 256 and after.kv_bytes > 0


@pytest.mark.parametrize(("bits", "row"), [(None, 64), (8, 40), (4, 24)])
def test_the_precision_of_the_cache_is_read_back(bits: Any, row: int, prompt: list[int], reference: PreTrainedModel) -> None:
    made = OpenVinoEngine(engine_settings(tiny_model_path(NAME), threads=1, kv_bits=bits, max_batch=2))
    try:
        facts = made.load()
        assert (facts.kv_bits, facts.slots, facts.context) == (bits, 2, 256)
        assert facts.kv_bytes_per_token == 2 * 4 * 3 * row  # keys and values of 4 layers, 3 heads of 32
        assert facts.features == FEATURES and facts.engine == "openvino" and facts.version
        answer = ask(made, prompt, 30).wait()
        assert len(answer.ids) == 30
        if bits != 4:  # four bits for a row of 32 cost this model its wits; the quality gate measures how much
            assert agreement(answer.ids, greedy(reference, prompt, 30)) >= 0.9
    finally:
        made.close()


@pytest.mark.parametrize(("head", "bits", "row"), [(64, 8, 76), (64, 4, 44), (128, 8, 148), (128, 4, 84), (128, None, 256)])
def test_the_precision_is_read_back_for_heads_of_every_size(head: int, bits: Any, row: int, tmp_path: Path) -> None:
    """Keys have their scales by channel, values by row: the two sizes agree for heads of 32 alone."""
    folder = saved(tmp_path, random_llama(vocab_size=1024, head_dim=head))
    made = OpenVinoEngine(engine_settings(folder, threads=1, kv_bits=bits))
    try:
        facts = made.load()
        assert (facts.kv_bits, facts.kv_bytes_per_token) == (bits, 2 * 2 * 2 * row)  # keys and values of 2 layers, 2 heads
        assert len(ask(made, [40, 41, 42, 99], 8).wait().ids) == 8
    finally:
        made.close()


def test_eight_bit_weights_answer_too(prompt: list[int], reference: PreTrainedModel) -> None:
    made = OpenVinoEngine(engine_settings(tiny_model_path(NAME), threads=1, dtype="q8_0"))
    try:
        facts = made.load()
        assert facts.dtype == "q8_0"
        assert agreement(ask(made, prompt, 20).wait().ids, greedy(reference, prompt, 20)) >= 0.8
    finally:
        made.close()


def test_a_cache_of_another_size_than_asked_is_refused() -> None:
    model = describe(json.loads((tiny_model_path(NAME) / "config.json").read_text()), NAME)
    rows = 2 * 4 * 3 * 8 * 32
    assert confirmed_cache(rows * 40, 8, model, "u8")[0] == 960
    with pytest.raises(EngineError, match="f16"):
        confirmed_cache(rows * 64, 8, model, "u8")
    with pytest.raises(EngineError, match="no known type"):
        confirmed_cache(rows * 41, 8, model, "u8")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"repair": Path("x")}, "repair"), ({"device": "cuda"}, "cuda"), ({"dtype": "float32"}, "float32")],
)
def test_what_it_cannot_do_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        OpenVinoEngine(engine_settings(tiny_model_path(NAME), **change)).load()


def test_scaled_positions_are_refused_instead_of_computed_wrongly(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
    folder = saved(tmp_path, random_llama(vocab_size=1024, rope_parameters=rope, max_position_embeddings=2048))
    with pytest.raises(EngineError, match="rotary"):
        OpenVinoEngine(engine_settings(folder)).load()


def test_requests_that_do_not_fit_are_refused(engine: OpenVinoEngine, prompt: list[int]) -> None:
    for arguments, words in (
        ({"prompt": prompt * 20}, "256"),
        ({"prompt": []}, "empty"),
        ({"prompt": [1024]}, "1023"),
        ({"prompt": [-1]}, "1023"),
        ({"prompt": prompt, "json_schema": "{}"}, "JSON Schema"),
        ({"prompt": prompt, "top_logprobs": 2}, "top_logprobs"),
        ({"prompt": prompt, "sampling": Sampling(logit_bias={3: 1.0})}, "logit_bias"),
    ):
        with pytest.raises(EngineError, match=words):
            ask(engine, **arguments)  # type: ignore[arg-type]


def test_a_step_that_fails_ends_the_running_answers_and_the_next_are_served(prompt: list[int]) -> None:
    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def step(self) -> None:
            raise RuntimeError("somewhere.cpp:1:\nthe memory is gone")

    made = OpenVinoEngine(engine_settings(tiny_model_path(NAME), threads=1, max_batch=2))
    try:
        made.load()
        whole = made._pipeline
        expected = ask(made, prompt, 6).wait().ids
        made._pipeline = Failing()
        failed = ask(made, prompt, 6).wait()
        assert (failed.reason, failed.error, failed.ends) == ("error", "openvino: a step failed: the memory is gone", 1)
        assert ask(made, prompt, 6).wait().ids == expected
    finally:
        made.close()


def test_an_engine_that_cannot_be_loaded_again_says_so_to_everybody(prompt: list[int]) -> None:
    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def step(self) -> None:
            raise RuntimeError("the memory is gone")

    def no_memory() -> int:
        raise RuntimeError("and stays away")

    made = OpenVinoEngine(engine_settings(tiny_model_path(NAME), threads=1, max_batch=1))
    try:
        made.load()
        whole = made._pipeline
        made._build = no_memory
        running, waiting = ask(made, prompt, 200), ask(made, prompt, 6)
        assert running.first.wait(60)
        made._pipeline = Failing()
        assert [answer.wait(30).reason for answer in (running, waiting)] == ["error", "error"]
        assert "and stays away" in waiting.error and fault_of(made) == waiting.error
        with pytest.raises(EngineError, match="start the server again"):
            ask(made, prompt, 6)
    finally:
        made.close()


def test_closing_ends_every_answer_once(prompt: list[int]) -> None:
    made = OpenVinoEngine(engine_settings(tiny_model_path(NAME), threads=1, max_batch=2))
    made.load()
    answers = [ask(made, prompt, 200) for _ in range(5)]
    answers[0].first.wait(60)
    made.close()
    made.close()
    assert [answer.wait().reason for answer in answers] == ["cancelled"] * 5
    assert {answer.ends for answer in answers} == {1}
    with pytest.raises(EngineError, match="closed"):
        ask(made, prompt, 1)


def test_an_export_is_made_once_and_anew_when_the_model_changes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", random_llama(vocab_size=1024))
    first = exported(folder, "m", "f16")
    written = first.stat().st_mtime_ns
    assert exported(folder, "m", "f16") == first and first.stat().st_mtime_ns == written
    saved(folder, random_llama(vocab_size=1024, seed=1))
    assert exported(folder, "m", "f16") != first
    assert exported(folder, "m", "q8_0").name.endswith("q8_0.gguf")


AFTER_CLOSING = """
import faulthandler, os, signal, sys
from pathlib import Path
from macprovider.engines.base import EngineSettings
from macprovider.engines.openvino.engine import OpenVinoEngine
faulthandler.enable() if sys.argv[2] == "with" else None
seen = []
signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
for bits in (None, 8):
    engine = OpenVinoEngine(EngineSettings(model="m", folder=Path(sys.argv[1]), kv_bits=bits, max_context=256, threads=1))
    engine.load()
    os.kill(os.getpid(), signal.SIGINT)
    engine.close()
    os.kill(os.getpid(), signal.SIGINT)
print(len(seen))
"""


@pytest.mark.parametrize("handler", ["with", "without"])
def test_a_signal_is_heard_while_it_runs_and_after_it_is_closed(handler: str) -> None:
    """The library leaves the thread a signal stack that it frees with the model; without and with one of Python's own."""
    words = [sys.executable, "-c", AFTER_CLOSING, str(tiny_model_path("modelwright/tiny-0.4m")), handler]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr[-2000:]


CLOSED_MIDWAY = """
import sys, threading
from pathlib import Path
from macprovider.engines.base import EngineSettings, GenerationRequest
from macprovider.engines.openvino.engine import OpenVinoEngine

class Hearing:
    def __init__(self):
        self.began, self.ended = threading.Event(), threading.Event()
    def tokens(self, tokens):
        self.began.set()
    def finished(self, reason, error=""):
        self.ended.set()

engine = OpenVinoEngine(EngineSettings(model="m", folder=Path(sys.argv[1]), max_batch=2, max_context=256, threads=1))
engine.load()
heard = Hearing()
answer = engine.submit(GenerationRequest([5, 6, 7], 200), heard)
heard.began.wait(60)
if sys.argv[2] == "cancelled":
    answer.cancel()
    heard.ended.wait(60)
engine.close()
"""


@pytest.mark.parametrize("way", ["cancelled", "running"])
def test_closing_leaves_no_block_behind(way: str) -> None:
    """The library prints an error at its end for every block of the cache that a request still holds."""
    words = [sys.executable, "-c", CLOSED_MIDWAY, str(tiny_model_path("modelwright/tiny-0.4m")), way]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
