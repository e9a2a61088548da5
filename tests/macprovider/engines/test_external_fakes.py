"""vLLM and mlx-lm up to the command line and the protocol, by programs of their names (`helpers.fake_engines`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.engine_listener import ask, engine_settings
from helpers.fake_engines import Fake, put_on_path
from helpers.tuning import wait_until
from macprovider.codec import Codec
from macprovider.engines.base import EngineError, EngineSettings, Sampling
from macprovider.engines.choice import make_engine
from macprovider.engines.external import child as child_module
from macprovider.engines.external.engine import ExternalEngine
from modelwright.tiny import tiny_model_path

FOLDER = tiny_model_path("modelwright/tiny-0.4m")
PROGRAMS = {"vllm": "vllm", "mlx": "mlx_lm.server"}


def settings_of(engine: str, **options: Any) -> EngineSettings:
    return engine_settings(FOLDER, **{"max_batch": 2, "device": "auto", **options})


Start = Callable[..., tuple[ExternalEngine, Fake]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Loads an engine whose program behaves as asked."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made: list[ExternalEngine] = []

    def begin(name: Any, behaviour: dict[str, Any] | None = None, **options: Any) -> tuple[ExternalEngine, Fake]:
        fake = put_on_path(tmp_path / "bin", monkeypatch, PROGRAMS[name], **(behaviour or {}))
        engine = make_engine(name, settings_of(name, **options))
        assert isinstance(engine, ExternalEngine)
        made.append(engine)
        engine.load()
        return engine, fake

    yield begin
    for engine in made:
        engine.close()


# ---------------------------------------------------------------------- vLLM


def test_vllm_is_started_with_every_knob_and_read_back(start: Start) -> None:
    engine, fake = start("vllm", kv_bits=8, max_batch=3, prefix_reuse=False)
    flags, facts = fake.flags(), engine._facts
    assert fake.starts[0][:2] == ["serve", str(FOLDER)]
    expected = {
        "--host": "127.0.0.1",
        "--max-model-len": "256",
        "--max-num-seqs": "3",
        "--kv-cache-dtype": "fp8",
        "--dtype": "auto",
        "--generation-config": "vllm",
        "--no-enable-prefix-caching": "",
    }
    assert expected.items() <= flags.items()
    assert facts is not None
    assert (facts.engine, facts.version, facts.context, facts.slots, facts.kv_bits) == ("vllm", "0.11.0", 256, 3, 8)
    assert (facts.dtype, facts.weight_bytes, facts.accelerator) == ("bfloat16", 1 << 29, "cuda")
    assert "prefix_reuse" not in facts.features and any("fp8" in note for note in facts.notes)
    assert engine.metrics().kv_capacity == 1600


@pytest.mark.parametrize(
    ("behaviour", "options", "words"),
    [
        ({"max_model_len": 128}, {}, "a context of 256 tokens was asked for and vLLM has 128"),
        ({"slots": 7}, {}, "2 answers at the same time were asked for and vLLM has 7"),
        ({"cache_dtype": "auto"}, {"kv_bits": 8}, "fp8 and vLLM has auto"),
        ({"cache_dtype": "fp8_e4m3"}, {}, "vLLM has fp8_e4m3"),
    ],
)
def test_a_knob_without_effect_is_an_error_and_leaves_no_process(
    start: Start, tmp_path: Path, behaviour: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        start("vllm", behaviour, **options)
    pid = Fake("vllm", tmp_path / "bin/vllm.jsonl").pids[0]
    assert wait_until(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vllm", {"kv_bits": 4}, "--kv-bits 4; allowed: 8"),
        ("vllm", {"threads": 2}, "--threads 2"),
        ("vllm", {"device": "mps"}, "'mps'; allowed: auto, cuda"),
        ("vllm", {"repair": Path("x")}, "--repair"),
        ("mlx", {"kv_bits": 8}, "--kv-bits 8 with --max-batch 2"),
        ("mlx", {"dtype": "float32"}, "'float32'"),
        ("mlx", {"device": "cuda"}, "'cuda'"),
        ("mlx", {"threads": 2}, "--threads 2"),
        ("llamacpp", {"dtype": "bfloat16"}, "'bfloat16'"),
        ("llamacpp", {"repair": Path("x")}, "--repair"),
    ],
)
def test_what_a_server_cannot_honour_is_refused_by_name(name: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        make_engine(name, settings_of(name, **options)).load()


@pytest.mark.parametrize(("name", "program"), [("vllm", "vllm"), ("mlx", "mlx_lm.server"), ("llamacpp", "llama-server")])
def test_a_missing_program_is_named_with_the_way_to_get_it(
    name: Any, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EngineError, match=f"{program} is not on PATH. Install"):
        make_engine(name, settings_of(name)).load()


def test_vllm_answers_in_token_ids_and_knows_the_stop_ids(start: Start) -> None:
    engine, fake = start("vllm")
    answer = ask(engine, [5, 6], 4).wait()
    assert (answer.ids, answer.reason) == ([7, 8, 9, 10], "length")
    stopped = ask(engine, [5, 6], 9, stop_ids=frozenset({9})).wait()
    assert (stopped.ids, stopped.reason) == ([7, 8], "stop")
    assert fake.requests[0] == {
        "model": str(FOLDER),
        "prompt": [5, 6],
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "add_special_tokens": False,
        "stop_token_ids": [],
        "ignore_eos": True,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    metrics = engine.metrics()
    assert (metrics.prompt_tokens, metrics.generated_tokens, metrics.cached_prompt_tokens, metrics.running) == (4, 6, 32, 0)


def test_vllm_sampling_and_log_probabilities_are_mapped(start: Start) -> None:
    engine, fake = start("vllm")
    sampling = Sampling(0.7, 0.9, 20, 11, 0.5, 0.25, {3: 1.5})
    answer = ask(engine, [5], 2, sampling, top_logprobs=2, json_schema='{"type": "object"}').wait()
    assert answer.heard[0] == (6, -0.5, ((6, -0.5), (7, -1.5)))
    body = fake.requests[0]
    asked = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 11, "presence_penalty": 0.5, "frequency_penalty": 0.25, "logprobs": 2}
    assert asked.items() <= body.items()
    assert body["logit_bias"] == {"3": 1.5} and body["ignore_eos"] is False and body["return_tokens_as_token_ids"] is True
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    alone = ask(engine, [5], 1, top_logprobs=0).wait()
    assert alone.heard == [(6, -0.5, ())]


def test_a_vllm_without_token_ids_is_refused_in_words(start: Start) -> None:
    engine, _ = start("vllm", {"no_ids": True})
    answer = ask(engine, [5], 2).wait()
    assert (answer.reason, answer.error) == ("error", "vllm: its events carry no token ids; install vLLM 0.11 or later.")


def test_an_http_error_reaches_its_listener_and_the_next_answer_is_tried(start: Start) -> None:
    engine, fake = start("vllm", {"status": 400})
    for _ in range(3):
        answer = ask(engine, [5], 2).wait()
        assert answer.reason == "error" and "HTTP status 400" in answer.error and "not today" in answer.error
    assert len(fake.requests) == 3 and engine.metrics().running == 0


def test_answers_beyond_the_slots_wait_here_and_a_cancel_reaches_the_server(start: Start) -> None:
    engine, fake = start("vllm", {"token_s": 0.05})
    answers = [*(ask(engine, [5], 200) for _ in range(2)), *(ask(engine, [5], 20) for _ in range(3))]
    assert answers[0].first.wait(20) and answers[1].first.wait(20)
    metrics = engine.metrics()
    assert (metrics.running, metrics.waiting, len(fake.requests)) == (2, 3, 2)
    for answer in (answers[4], answers[0], answers[1]):
        assert answer.ticket is not None
        answer.ticket.cancel()
        assert answer.wait().reason == "cancelled" and answer.ends == 1
    assert answers[4].ids == []
    assert answers[2].wait().reason == answers[3].wait().reason == "length"
    assert wait_until(lambda: fake.gone == 2)


def test_the_end_of_the_child_reaches_every_listener_and_every_later_one(start: Start) -> None:
    engine, _ = start("vllm", {"die_after": 3, "token_s": 0.02})
    answers = [ask(engine, [5], 50) for _ in range(4)]
    for answer in answers:
        assert answer.wait().reason == "error" and answer.ends == 1
    assert "vllm ended with exit status 9" in answers[3].error
    assert wait_until(lambda: bool(engine.fault))
    late = ask(engine, [5], 2).wait()
    assert (late.reason, late.error) == ("error", engine.fault)


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("INFO all is well\nValueError: not me", "ValueError: not me"),
        (
            "Traceback (most recent call last):\n  File x\nRuntimeError: first\nRuntimeError: CUDA out of memory",
            "RuntimeError: CUDA out of memory",
        ),
        ("usage: vllm\nvllm: error: unrecognized arguments: --new", "vllm: error: unrecognized arguments: --new"),
    ],
)
def test_an_early_end_is_told_with_the_telling_line(start: Start, log: str, told: str) -> None:
    with pytest.raises(EngineError, match="exit status 3") as caught:
        start("vllm", {"die": 3, "log": log})
    assert f": {told} (its log: " in str(caught.value)


def test_a_taken_port_is_tried_again_with_another(start: Start) -> None:
    engine, fake = start("vllm", {"busy": 2})
    assert len(fake.starts) == 3
    assert len({argv[argv.index("--port") + 1] for argv in fake.starts}) == 3
    assert ask(engine, [5], 1).wait().ids == [6]


def test_a_server_that_never_gets_ready_is_given_up_and_ended(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("macprovider.engines.external.vllm.Vllm.ready_s", 1.0)
    with pytest.raises(EngineError, match="vllm was not ready within 1 s"):
        start("vllm", {"mute": True})
    assert not psutil.pid_exists(Fake("vllm", tmp_path / "bin/vllm.jsonl").pids[0])


def test_closing_ends_the_child_and_every_answer_once(start: Start) -> None:
    engine, fake = start("vllm", {"token_s": 0.02})
    answers = [ask(engine, [5], 200) for _ in range(3)]
    assert answers[0].first.wait(20)
    engine.close()
    engine.close()
    assert [answer.wait().reason for answer in answers] == ["cancelled"] * 3 and {answer.ends for answer in answers} == {1}
    assert not psutil.pid_exists(fake.pids[0])
    with pytest.raises(EngineError, match="closed"):
        ask(engine, [5], 1)


# ---------------------------------------------------------------------- mlx-lm


def test_mlx_quantises_from_the_first_token_and_takes_text(start: Start) -> None:
    engine, fake = start("mlx", kv_bits=4, max_batch=1)
    codec = Codec.load(FOLDER, "tiny")
    flags, facts = fake.flags(), engine._facts
    expected = {"--kv-bits": "4", "--kv-group-size": "64", "--quantized-kv-start": "0", "--decode-concurrency": "1"}
    assert {**expected, "--model": str(FOLDER.resolve())}.items() <= flags.items()
    assert facts is not None and facts.version == "0.28.3" and facts.features == {"seed", "logit_bias", "top_k", "prefix_reuse"}
    assert any("text alone" in note for note in facts.notes) and any("not as they were read back" in note for note in facts.notes)
    prompt = codec.encode("The list")
    answer = ask(engine, prompt, 9, Sampling(0.5, 0.9, 7, 3, logit_bias={4: 2.0})).wait()
    assert (codec.decode(answer.ids), answer.reason) == (" and so", "stop")
    assert fake.requests[0] == {
        "prompt": "The list",
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "seed": 3,
        "logit_bias": {"4": 2.0},
    }
    assert engine.metrics().cached_prompt_tokens == 5


def test_mlx_text_becomes_tokens_that_say_the_same(start: Start) -> None:
    pieces = ["caf", "é", "\n\n  x = 1", " 🙂", "</s>", " "]
    engine, _ = start("mlx", {"pieces": pieces})
    codec = Codec.load(FOLDER, "tiny")
    answer = ask(engine, codec.encode("a"), 60).wait()
    assert codec.decode(answer.ids) == "".join(pieces)


def test_mlx_batches_without_a_quantised_cache(start: Start) -> None:
    _, fake = start("mlx", max_batch=3, prefix_reuse=False)
    assert {"--decode-concurrency": "3", "--prompt-cache-size": "0"}.items() <= fake.flags().items()
    assert "--kv-bits" not in fake.flags()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_logprobs": 0}, "logprobs"),
        ({"json_schema": "{}"}, "a JSON Schema"),
        ({"sampling": Sampling(presence_penalty=0.5)}, "penalty"),
        ({"prompt": []}, "empty"),
        ({"prompt": [5] * 250}, "allowed: 256 together"),
        ({"prompt": [1 << 20]}, "outside the vocabulary"),
    ],
)
def test_requests_that_mlx_cannot_honour_are_refused_by_name(start: Start, options: dict[str, Any], words: str) -> None:
    engine, fake = start("mlx")
    with pytest.raises(EngineError, match=words):
        ask(engine, **{"prompt": [5], "max_tokens": 8, **options})
    assert fake.requests == []


# ---------------------------------------------------------------------- logs


def test_a_long_log_is_begun_anew(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("x" * 100)
    child_module.shorten(log, 100)
    assert log.stat().st_size == 100
    child_module.shorten(log, 99)
    assert log.read_text().startswith("(the log had more than 99 bytes")


def test_old_logs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for _ in range(child_module.KEPT_LOGS + 5):
        child_module.log_file("vllm").touch()
        child_module.log_file("mlx").touch()
    assert len(list((tmp_path / ".cache/macprovider/engine-logs").glob("vllm-*"))) <= child_module.KEPT_LOGS
