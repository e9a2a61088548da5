"""A real `serve` process with a real model in the reference coordinator's pool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers.reference_coordinator import PoolSession, ReferenceCoordinator

MODEL = "modelwright/tiny-0.4m"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "import os"}], "max_tokens": 8, "temperature": 0}


class Served:
    """A `serve` process that answers. base: its address. log: what it wrote to standard error, complete once it has ended."""

    def __init__(self, process: subprocess.Popen[str], base: str, log: list[str]) -> None:
        self.process, self.base, self.log = process, base, log

    def get(self, path: str) -> tuple[int, Any]:
        return self._asked(urllib.request.Request(self.base + path))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        data = json.dumps(body).encode()
        return self._asked(urllib.request.Request(self.base + path, data, {"content-type": "application/json"}))

    def _asked(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def end(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        assert self.process.stderr
        self.log.extend(self.process.stderr)
        return status


@contextmanager
def served(folder: Path, *flags: str, **environment: str) -> Iterator[Served]:
    config = folder / "config.yaml"
    if not config.exists():
        config.write_text("# nothing\n{}\n")
    words = [sys.executable, "-m", "macprovider.cli", "serve", "--model", MODEL, "--port", "0", "--config", str(config), *flags]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MACPROVIDER_")}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**kept, **environment})
    log: list[str] = []
    try:
        assert process.stderr
        for line in process.stderr:
            log.append(line)
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "serving":
                yield Served(process, entry["url"], log)
                break
        else:
            raise AssertionError("".join(log))
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[ReferenceCoordinator]:
    with ReferenceCoordinator(heartbeat_s=0.2, token="pool-s3cret", known=["seven"]) as made:
        yield made


@pytest.fixture(scope="module")
def server(pool: ReferenceCoordinator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("member")
    token = folder / "token"
    token.write_text("pool-s3cret\n")
    token.chmod(0o600)
    flags = ("--coordinator", pool.url, "--provider-id", "seven", "--token-file", str(token), "--log-level", "debug")
    with served(folder, *flags) as made:
        yield made


@pytest.fixture
def session(pool: ReferenceCoordinator, server: Served) -> PoolSession:
    return pool.session()


def ended(session: PoolSession, request_id: str) -> dict[str, Any]:
    return session.wait(lambda m: m["type"] == "inference_response_end" and m["request_id"] == request_id)


def chunks(session: PoolSession, request_id: str) -> list[dict[str, Any]]:
    return [m["data"] for m in session.of("inference_response_chunk") if m["request_id"] == request_id]


def test_hello_tells_what_the_server_really_has(session: PoolSession, server: Served) -> None:
    hello = session.messages[0]
    assert (hello["type"], hello["provider_id"], hello["model_id"], hello["endpoint_url"]) == ("hello", "seven", MODEL, None)
    capacity = server.get("/v1/health")[1]["capacity"]
    for key in ("max_context_tokens", "max_concurrency", "ram_gb"):
        assert hello[key] == capacity[key]
    assert 0.0003 < hello["model_params_b"] < 0.0005 and hello["throughput_tps_estimate"] > 0
    assert session.headers["Authorization"] == "Bearer pool-s3cret"
    session.wait(lambda m: m["type"] == "state_update" and m["state"] == "ready")
    session.wait(lambda _: len(session.of("heartbeat")) > 2)


def test_an_answer_is_the_one_http_gives(session: PoolSession, server: Served) -> None:
    session.send({"type": "inference_request", "request_id": "chat", "body": CHAT})
    assert ended(session, "chat")["status"] == "ok"
    data = chunks(session, "chat")
    status, body = server.post("/v1/chat/completions", CHAT)
    assert status == 200
    choice = body["choices"][0]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in data if c["choices"]) == choice["message"]["content"]
    assert [c["choices"][0]["finish_reason"] for c in data if c["choices"]][-1] == choice["finish_reason"]
    assert data[-1]["choices"] == [] and data[-1]["usage"]["completion_tokens"] == body["usage"]["completion_tokens"]


def test_completions_and_refusals(session: PoolSession) -> None:
    plain = {"model": MODEL, "prompt": "import", "max_tokens": 3, "temperature": 0}
    session.send({"type": "inference_request", "request_id": "plain", "endpoint": "/v1/completions", "body": plain})
    assert ended(session, "plain")["status"] == "ok" and chunks(session, "plain")[0]["object"] == "text_completion"
    wrong = {"other": {**CHAT, "model": "other"}, "empty": {}, "long": {**CHAT, "messages": [{"role": "user", "content": "word " * 2000}]}}
    for name, body in wrong.items():
        session.send({"type": "inference_request", "request_id": name, "body": body})
    codes = {name: ended(session, name)["error"]["code"] for name in wrong}
    assert codes == {"other": "model_not_found", "empty": "invalid_request", "long": "context_length_exceeded"}


def test_a_cancelled_request_frees_its_slot(session: PoolSession, server: Served) -> None:
    long = {"model": MODEL, "prompt": "x", "max_tokens": 500, "temperature": 0}
    for number in range(3):
        session.send({"type": "inference_request", "request_id": f"long{number}", "endpoint": "/v1/completions", "body": long})
    for number in range(3):
        session.send({"type": "cancel_request", "request_id": f"long{number}"})
    for number in range(3):
        assert ended(session, f"long{number}")["status"] in ("cancelled", "ok"), ended(session, f"long{number}")
    assert any(end["status"] == "cancelled" for end in session.of("inference_response_end"))
    assert server.post("/v1/chat/completions", CHAT)[0] == 200
    assert server.get("/v1/health")[1]["requests_in_flight"] == 0


def test_preflight_and_warm_up(session: PoolSession, server: Served) -> None:
    before = server.get("/v1/health")[1]["requests_total"]
    session.send({"type": "warm_up"})
    asked = {"fits": {"model": MODEL.upper()}, "other": {"model": "x"}, "long": {"context_tokens": 10**6}}
    for name, fields in asked.items():
        session.send({"type": "preflight", "request_id": name, **fields})
    acks = {name: session.wait(lambda m, name=name: m.get("request_id") == name and m["type"] == "preflight_ack") for name in asked}
    assert {name: ack["accepted"] for name, ack in acks.items()} == {"fits": True, "other": False, "long": False}
    assert MODEL in acks["other"]["reason"] and "tokens of context" in acks["long"]["reason"]
    while server.get("/v1/health")[1]["requests_total"] <= before:
        pass


def test_a_drain_leaves_the_pool_and_nothing_else(session: PoolSession, server: Served, pool: ReferenceCoordinator) -> None:
    """The last test of this server: it ends while it is out of the pool."""
    session.send({"type": "drain", "reason": "maintenance"})
    assert session.wait_closed() == 1000
    assert session.kinds()[-3:] == ["state_update draining", "drain_status starting", "drain_status complete"]
    assert server.get("/v1/models")[0] == 200 and server.get("/v1/health")[1]["status"] == "healthy"
    assert server.post("/v1/chat/completions", CHAT)[0] == 200
    assert server.end() == 0
    assert pool.connections == 1
    assert "s3cret" not in "".join(server.log), "the token is in the log"


@pytest.mark.slow
def test_a_drained_server_comes_back(tmp_path: Path) -> None:
    with ReferenceCoordinator() as pool, served(tmp_path, "--coordinator", pool.url):
        first = pool.session()
        first.wait(lambda m: m["type"] == "state_update")
        first.send({"type": "drain"})
        second = pool.session(1)
        second.wait(lambda m: m["type"] == "state_update" and m["state"] == "ready")
        assert second.times[0] - first.times[-1] >= 10, "it came back too early"
        assert second.messages[0]["provider_id"] == first.messages[0]["provider_id"], "another name in the pool"


def test_sigterm_says_goodbye(tmp_path: Path) -> None:
    with ReferenceCoordinator() as pool, served(tmp_path, MACPROVIDER_COORDINATOR_URL=pool.url) as server:
        session = pool.session()
        session.wait(lambda m: m["type"] == "state_update")
        body = {"model": MODEL, "prompt": "x", "max_tokens": 300, "temperature": 0}
        session.send({"type": "inference_request", "request_id": "running", "endpoint": "/v1/completions", "body": body})
        session.wait(lambda m: m["type"] == "inference_response_chunk")
        assert server.end() == 0
        assert session.wait_closed() == 1000
        kinds = [kind for kind in session.kinds() if kind.startswith(("state_update", "drain_status", "inference_response_end"))]
        assert kinds[0] == "state_update ready" and kinds[-1] == "state_update unavailable"
        assert kinds.index("state_update draining") < kinds.index("drain_status starting") < kinds.index("drain_status complete")
        assert ended(session, "running")["status"] == "ok", "a running answer was cut off"
        assert session.of("state_update")[-1]["reason"] == "shutdown"
        assert pool.connections == 1


@pytest.mark.slow
def test_an_unknown_provider_serves_without_a_pool(tmp_path: Path) -> None:
    with ReferenceCoordinator(known=[]) as pool, served(tmp_path, "--coordinator", pool.url, "--provider-id", "nobody") as server:
        assert pool.session().wait_closed() == 4002
        assert server.post("/v1/chat/completions", CHAT)[0] == 200
        assert server.end() == 0
        assert pool.connections == 1
        (said,) = [entry for entry in map(json.loads, server.log) if entry["level"] == "error"]
        assert "'nobody'" in said["event"] and "4002" in said["event"]


def test_no_join_opens_no_connection(tmp_path: Path) -> None:
    """The connection log counts TCP connections, so it would show a handshake that failed as well."""
    with ReferenceCoordinator() as pool:
        (tmp_path / "config.yaml").write_text(f"coordinator_url: {pool.url}\nprovider_id: seven\n")
        with served(tmp_path, "--no-join", "--coordinator", pool.url, MACPROVIDER_COORDINATOR_URL=pool.url) as server:
            assert server.post("/v1/chat/completions", CHAT)[0] == 200
            assert server.end() == 0
        assert pool.connections == 0 and pool.sessions == []
        assert "coordinator" not in "".join(server.log)
