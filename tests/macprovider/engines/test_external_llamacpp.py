"""The llamacpp engine against the real llama-server: transformers' greedy tokens, true log-probabilities, knobs read back, no orphans."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from jsonschema import validate
from transformers import PreTrainedModel

from helpers.engine_listener import ask, engine_settings
from helpers.tiny_random import random_qwen3
from helpers.tuning import wait_until
from macprovider.codec import Codec
from macprovider.engines.base import EngineError, Sampling
from macprovider.engines.choice import make_engine
from macprovider.engines.external.engine import ExternalEngine
from modelwright.loading import load_model, resolve_model
from modelwright.tiny import tiny_model_path

pytestmark = pytest.mark.skipif(shutil.which("llama-server") is None, reason="llama-server is not on PATH")

NAME = "modelwright/tiny-1.5m"
FOLDER = tiny_model_path(NAME)
TEXT = "The function returns the number of items in the list, and the"


@pytest.fixture(scope="module", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


def loaded(folder: Path = FOLDER, **options: Any) -> ExternalEngine:
    made = make_engine("llamacpp", engine_settings(folder, **{"threads": 1, "dtype": "float32", **options}))
    assert isinstance(made, ExternalEngine)
    made.load()
    return made


@pytest.fixture(scope="module")
def engine() -> Iterator[ExternalEngine]:
    made = loaded()
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    return load_model(resolve_model(NAME))


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load(FOLDER, NAME)


@pytest.fixture(scope="module")
def prompt(codec: Codec) -> list[int]:
    return codec.encode(TEXT)


def greedy(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    found = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return found[0, len(prompt) :].tolist()


def agreement(found: list[int], expected: list[int]) -> float:
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)


def distributions(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)


def server_of(engine: ExternalEngine) -> psutil.Process:
    """The llama-server below the engine's guard."""
    assert engine._child is not None
    return psutil.Process(engine._child.pid).children()[0]


def test_greedy_answers_are_those_of_transformers(engine: ExternalEngine, reference: PreTrainedModel, prompt: list[int]) -> None:
    prompts = [prompt, prompt[3:], prompt[:5], prompt * 4, prompt[::-1], prompt[1:9]]
    answers = [ask(engine, each, 40) for each in prompts]  # two more than there are slots
    for each, answer in zip(prompts, answers, strict=True):
        answer.wait()
        assert (answer.reason, answer.ends, len(answer.ids)) == ("length", 1, 40)
        assert agreement(answer.ids, greedy(reference, each, 40)) >= 0.9


def test_log_probabilities_are_those_of_the_model_before_temperature(
    engine: ExternalEngine, reference: PreTrainedModel, prompt: list[int]
) -> None:
    for sampling in (Sampling(temperature=0.0), Sampling(temperature=0.7, top_p=0.8, top_k=20, seed=3, logit_bias={40: 3.0})):
        answer = ask(engine, prompt, 12, sampling, top_logprobs=3).wait()
        rows = distributions(reference, prompt, answer.ids)
        for row, token in zip(rows, answer.heard, strict=True):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=0.02)
            assert [number for number, _ in token.top] == row.topk(3).indices.tolist()
            assert [value for _, value in token.top] == pytest.approx(row.topk(3).values.tolist(), abs=0.02)
    assert {token.top for token in ask(engine, prompt, 3, top_logprobs=0).wait().heard} == {()}
    assert {token.logprob for token in ask(engine, prompt, 3).wait().heard} == {None}


def test_every_token_of_a_split_character_arrives(engine: ExternalEngine, codec: Codec, prompt: list[int]) -> None:
    spelt = {codec.token_bytes(number): number for number in range(codec.vocabulary)}
    parts = [spelt[bytes([byte])] for byte in "🙂".encode()]
    for number in parts:
        answer = ask(engine, prompt, 3, Sampling(temperature=0.0, logit_bias={number: 100.0}), top_logprobs=1).wait()
        assert (answer.reason, answer.error, answer.ids) == ("length", "", [number] * 3)
        assert all(token.logprob is not None for token in answer.heard)


def test_sampling_follows_the_distribution(engine: ExternalEngine, reference: PreTrainedModel, prompt: list[int]) -> None:
    row = distributions(reference, prompt, [0])[0]
    allowed = set(row.topk(3).indices.tolist())
    drawn = [ask(engine, prompt, 1, Sampling(temperature=1.5, top_k=3)) for _ in range(60)]
    counts = [answer.wait().ids[0] for answer in drawn]
    assert set(counts) == allowed
    expected = (row.topk(3).values / 1.5).softmax(-1)
    share = counts.count(int(row.argmax())) / 60
    assert abs(share - float(expected[0])) < 0.25  # four standard deviations
    assert {ask(engine, prompt, 1, Sampling(temperature=1.5, top_p=0.01)).wait().ids[0] for _ in range(8)} == {int(row.argmax())}


def test_a_seed_repeats_an_answer(engine: ExternalEngine, prompt: list[int]) -> None:
    def drawn(seed: int | None) -> tuple[int, ...]:
        return tuple(ask(engine, prompt, 12, Sampling(temperature=1.0, seed=seed)).wait().ids)

    assert drawn(5) == drawn(5) != drawn(6)
    assert len({drawn(None) for _ in range(3)}) == 3


def test_a_json_schema_holds_the_answer(engine: ExternalEngine, codec: Codec, prompt: list[int]) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Zürich", "🙂"]}, "count": {"type": "integer"}},
        "required": ["name", "count"],
        "additionalProperties": False,
    }
    sampling = Sampling(temperature=1.0, seed=2)
    answer = ask(engine, prompt, 200, sampling, json_schema=json.dumps(schema), stop_ids=codec.stop_ids).wait()
    assert answer.reason == "stop", answer.error
    validate(json.loads(codec.decode(answer.ids)), schema)


def test_an_end_that_nobody_asked_for_is_passed_over(engine: ExternalEngine, codec: Codec, prompt: list[int]) -> None:
    end = min(codec.stop_ids)
    forced = Sampling(temperature=0.0, logit_bias={end: 100.0})
    assert ask(engine, prompt, 5, forced).wait().ids == [end] * 5
    stopped = ask(engine, prompt, 5, forced, stop_ids=frozenset({end})).wait()
    assert (stopped.ids, stopped.reason) == ([], "stop")


def test_a_stop_id_of_ours_ends_an_answer(engine: ExternalEngine, prompt: list[int]) -> None:
    whole = ask(engine, prompt, 10).wait().ids
    place = next(number for number in range(2, 10) if whole[number] not in whole[:number])
    answer = ask(engine, prompt, 10, stop_ids=frozenset({whole[place]})).wait()
    assert (answer.ids, answer.reason) == (whole[:place], "stop")


def test_a_prefix_is_used_again_and_told(engine: ExternalEngine, prompt: list[int]) -> None:
    long = (prompt * 10)[:150]
    ask(engine, long, 2).wait()
    before = engine.metrics()
    again = ask(engine, [*long, 7, 8], 2).wait()
    assert again.ticket is not None and again.ticket.cached_tokens >= 140
    after = engine.metrics()
    assert after.cached_prompt_tokens - before.cached_prompt_tokens == again.ticket.cached_tokens
    assert after.prompt_tokens - before.prompt_tokens == 152
    assert (after.generated_tokens - before.generated_tokens, after.steps - before.steps) == (2, 2)


def test_a_cancel_frees_the_slot(engine: ExternalEngine, prompt: list[int]) -> None:
    for _ in range(2):
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


def test_an_answer_may_fill_the_context_to_its_last_token(engine: ExternalEngine, prompt: list[int]) -> None:
    answer = ask(engine, (prompt * 20)[:200], 56).wait()
    assert (answer.reason, len(answer.ids)) == ("length", 56)
    with pytest.raises(EngineError, match="256 together"):
        ask(engine, (prompt * 20)[:200], 57)
    with pytest.raises(EngineError, match="penalty"):
        ask(engine, prompt, 5, Sampling(frequency_penalty=1.0))


@pytest.mark.parametrize(("bits", "row"), [(None, 64), (8, 34), (4, 18)])
def test_knobs_are_read_back(bits: Any, row: int, prompt: list[int], reference: PreTrainedModel) -> None:
    made = loaded(kv_bits=bits, max_batch=3, max_context=300, dtype="auto", prefix_reuse=False)
    try:
        facts = made._facts
        assert facts is not None
        assert (facts.kv_bits, facts.slots, facts.context, facts.dtype, facts.accelerator) == (bits, 3, 300, "q8_0", None)
        assert facts.kv_bytes_per_token == 2 * 4 * 3 * row  # keys and values of 4 layers, 3 heads of 32
        assert "prefix_reuse" not in facts.features and facts.version
        assert made.metrics().kv_capacity == 3 * 512
        assert any("not rotated" in note for note in facts.notes) == (bits is not None)
        again = [ask(made, prompt, 20).wait() for _ in range(2)]
        assert again[1].ticket is not None and again[1].ticket.cached_tokens == 0
        if bits != 4:
            assert agreement(again[0].ids, greedy(reference, prompt, 20)) >= 0.8
    finally:
        made.close()


def test_another_family_answers_as_transformers(tmp_path: Path) -> None:
    model = random_qwen3(vocab_size=1024)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(FOLDER / name, tmp_path / name)
    made = loaded(tmp_path)
    try:
        assert agreement(ask(made, [40, 41, 42, 99, 7, 200], 20).wait().ids, greedy(model, [40, 41, 42, 99, 7, 200], 20)) >= 0.8
    finally:
        made.close()


def test_what_llama_server_refuses_is_told_with_its_own_words(tmp_path: Path) -> None:
    random_qwen3(vocab_size=1024, head_dim=24).save_pretrained(tmp_path)  # blocks of 32 values do not fit
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(FOLDER / name, tmp_path / name)
    with pytest.raises(EngineError, match=r"llama-server ended with exit status 1: .*[cC]ache type q8_0.*24") as caught:
        loaded(tmp_path, kv_bits=8)
    assert "engine-logs" in str(caught.value)


def test_the_operators_llama_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "64")
    monkeypatch.setenv("LLAMA_ARG_N_PARALLEL", "7")
    made = loaded(max_batch=1)
    try:
        assert made._facts is not None and (made._facts.slots, made._facts.context) == (1, 256)
    finally:
        made.close()


def test_the_death_of_llama_server_reaches_every_listener(prompt: list[int]) -> None:
    made = loaded(max_batch=2)
    try:
        answers = [ask(made, prompt, 230) for _ in range(4)]
        assert answers[0].first.wait(60)
        server_of(made).kill()
        for answer in answers:
            answer.wait()
            assert (answer.reason, answer.ends) == ("error", 1)
            assert answer.error.startswith("llama-server ended by signal 9")
        assert ask(made, prompt, 1).wait().error == made.fault
    finally:
        made.close()


OWNER = """
import sys, time
from pathlib import Path
from macprovider.engines.base import EngineSettings
from macprovider.engines.choice import make_engine
folder = Path(sys.argv[1])
engine = make_engine("llamacpp", EngineSettings("m", folder, max_context=256, max_batch=1, threads=1))
engine.load()
print(engine._child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["owner", "guard"])
def test_nothing_outlives_the_process_that_asked(victim: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(FOLDER)], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert owner.stdout is not None
        guard = psutil.Process(int(owner.stdout.readline()))
        server = guard.children()[0]
        assert server.name() == "llama-server" and os.getpgid(server.pid) not in (os.getpgid(owner.pid), os.getpgid(guard.pid))
        if victim == "guard" and sys.platform != "linux":
            pytest.skip("only Linux ends a process with its parent")
        (owner if victim == "owner" else guard).send_signal(signal.SIGKILL)
        assert wait_until(lambda: not server.is_running() and (victim == "guard" or not guard.is_running()))
    finally:
        owner.kill()
        owner.communicate()
