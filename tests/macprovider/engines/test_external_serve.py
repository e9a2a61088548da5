"""`serve` over engines of other processes, with the real `openai` client; llama-server is the real one where it is on PATH."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from helpers.fake_engines import put_on_path
from helpers.raw_http import get
from helpers.served import Served, served, start_serve, wait_ready
from helpers.tuning import wait_until

MODEL = "modelwright/tiny-0.4m"
SAY = [{"role": "user", "content": "Say something about lists."}]
needs_llama = pytest.mark.skipif(shutil.which("llama-server") is None, reason="llama-server is not on PATH")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = str(tmp_path_factory.mktemp("home"))
    flags = ("--engine", "llamacpp", "--max-batch", "2", "--max-context", "256", "--kv-bits", "8", "--threads", "1")
    with served(MODEL, *flags, env={"HOME": home}) as running:
        yield running
        family = below(running.pid)
        assert running.stop() == 0
        assert family and wait_until(lambda: not any(each.is_running() for each in family))


def engine_of(server: Served) -> dict[str, Any]:
    return dict(get(f"{server.url}/v1/engine")[1])


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@needs_llama
def test_llama_server_answers_the_openai_client(server: Served) -> None:
    client = server.client()
    whole = client.chat.completions.create(model=MODEL, messages=SAY, max_tokens=12, temperature=0)
    parts = list(client.chat.completions.create(model=MODEL, messages=SAY, max_tokens=12, temperature=0, stream=True))
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content and whole.usage.completion_tokens > 0
    likely = client.chat.completions.create(
        model=MODEL, messages=SAY, max_tokens=3, logprobs=True, top_logprobs=2, temperature=0.8, seed=4, logit_bias={"40": 1}, n=2
    )
    for choice in likely.choices:
        assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    held = client.chat.completions.create(
        model=MODEL, messages=SAY, max_tokens=100, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    )
    assert json.loads(held.choices[0].message.content)["n"] in (1, 2)


@needs_llama
def test_its_facts_are_served_and_what_it_lacks_is_refused(server: Served) -> None:
    document = engine_of(server)
    facts = document["facts"]
    assert (facts["engine"], facts["slots"], facts["context"], facts["kv_bits"]) == ("llamacpp", 2, 256, 8)
    assert document["metrics"]["generated_tokens"] > 0 and document["metrics"]["kv_capacity"] == 512
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        server.client().chat.completions.create(model=MODEL, messages=SAY, presence_penalty=0.5)


@needs_llama
def test_a_client_that_leaves_frees_its_slot(server: Served) -> None:
    streams = [server.client().chat.completions.create(model=MODEL, messages=SAY, max_tokens=200, stream=True) for _ in range(2)]
    for stream in streams:
        next(iter(stream))
        stream.close()
    assert wait_until(lambda: engine_of(server)["metrics"]["running"] == 0)
    assert server.client().chat.completions.create(model=MODEL, messages=SAY, max_tokens=2).usage.completion_tokens == 2


@needs_llama
def test_no_llama_server_outlives_a_killed_serve(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    process = start_serve(MODEL, "--engine", "llamacpp", "--max-context", "256", log=log, env={"HOME": str(tmp_path)})
    try:
        wait_ready(process, log)
        family = below(process.pid)
        assert "llama-server" in {each.name() for each in family}
        process.kill()
        assert process.wait(40) == -9
        assert wait_until(lambda: not any(each.is_running() for each in family))
    finally:
        process.kill()
        process.wait()


@needs_llama
def test_the_death_of_llama_server_makes_serve_say_so(tmp_path: Path) -> None:
    with served(MODEL, "--engine", "llamacpp", "--max-context", "256", env={"HOME": str(tmp_path)}) as server:
        assert get(f"{server.url}/v1/health")[0] == 200
        next(each for each in below(server.pid) if each.name() == "llama-server").kill()
        assert wait_until(lambda: get(f"{server.url}/v1/health")[0] == 503)
        assert get(f"{server.url}/v1/health")[1]["status"] == "degraded"
        with pytest.raises(openai.InternalServerError, match="llama-server ended by signal 9"):
            server.client().chat.completions.create(model=MODEL, messages=SAY, max_tokens=2)


def test_an_engine_of_text_alone_is_served_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = put_on_path(tmp_path / "bin", monkeypatch, "mlx_lm.server")
    with served(MODEL, "--engine", "mlx", "--max-batch", "2", "--max-context", "256", env={"HOME": str(tmp_path)}) as server:
        answer = server.client().chat.completions.create(model=MODEL, messages=SAY, max_tokens=2, temperature=0)
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (2, "length")
        assert answer.choices[0].message.content == " and so"
        assert engine_of(server)["facts"]["engine"] == "mlx"
    assert not psutil.pid_exists(fake.pids[0])
