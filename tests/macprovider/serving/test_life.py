"""From the start to the end of a server process: what keeps it from serving, and how signals end it. (spec 3.3, 3.4)"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.raw_http import call, eventually, get, post_raw, read_until
from helpers.script_model import save_script_model
from helpers.serve_scripts import SCRIPTS, SPECIAL, say
from helpers.served import Child, read_log, served, start_serve, wait_ready
from macprovider.parent_watch import VARIABLE, parent_pipe

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_script_model(tmp_path_factory.mktemp("life"), SCRIPTS, context=12_000, special=SPECIAL)


def ended(process: Child, log: Path) -> tuple[int, str]:
    """(exit status, stderr) of a child that ends by itself."""
    return process.wait(120), log.read_text()


def body(model: Path, letter: str, **fields: Any) -> dict[str, Any]:
    return {"model": str(model), "messages": say(letter), "temperature": 0, **fields}


def test_help_imports_nothing_heavy_and_has_an_example_and_exit_codes() -> None:
    heavy = {"torch", "transformers", "pydantic", "uvicorn", "starlette", "yaml"}
    code = (
        f"import sys; from macprovider.serve_cli import main\ntry: main(['--help'])\nfinally: print(sorted(set(sys.modules) & {heavy!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "example:" in done.stdout and "exit codes:" in done.stdout and "--max-batch" in done.stdout


def test_wrong_settings_are_all_named_and_end_with_2(tmp_path: Path) -> None:
    log = tmp_path / "log"
    status, text = ended(start_serve("modelwright/tiny-0.4m", "--kv-bits", "5", "--max-batch", "0", "--queue", "x", log=log), log)
    assert status == 2
    assert [line.split(":")[0] for line in text.splitlines()] == ["kv_bits", "max_batch", "queue"]


@pytest.mark.parametrize(
    ("model_id", "arguments", "status", "words"),
    [
        ("/no/such/folder", (), 1, "neither a folder"),
        ("modelwright/tiny-9m", (), 1, "allowed are modelwright/tiny-0.4m"),
        ("modelwright/tiny-0.4m", ("--max-context", "4000"), 2, "allowed: 1 to 512"),
    ],
)
def test_a_server_that_cannot_serve_says_why(tmp_path: Path, model_id: str, arguments: tuple[str, ...], status: int, words: str) -> None:
    log = tmp_path / "log"
    found, text = ended(start_serve(model_id, *arguments, log=log), log)
    assert found == status and words in text and "Traceback" not in text


def test_a_busy_port_is_named_before_the_model_is_loaded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        status, text = ended(start_serve("modelwright/tiny-0.4m", log=log, port=port), log)
    assert status == 1 and f"Port {port} of 127.0.0.1 is in use" in text and "loading" not in text


def test_a_model_that_answers_nothing_does_not_pass_the_self_test(tmp_path: Path) -> None:
    silent = save_script_model(tmp_path / "model", {"h": ["words"]})
    log = tmp_path / "log"
    status, text = ended(start_serve(silent, log=log), log)
    assert status == 1 and "Self-test" in text and "nothing" in text and "Traceback" not in text
    assert not [entry for entry in read_log(log) if entry["event"] == "serving"]


def test_nobody_is_answered_before_the_model_is_ready(tmp_path: Path, model: Path) -> None:
    """The port is held from the start but refuses connections until the self-test has passed."""
    log = tmp_path / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start_serve(model, log=log, port=port, cold=True)
    try:
        assert eventually(lambda: any(entry["event"] == "loading" for entry in read_log(log)), 60)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        assert wait_ready(process, log) == port
        events = [entry["event"] for entry in read_log(log)]
        assert events.index("self-test passed") < events.index("warmed up") < events.index("serving")
        assert get(f"http://127.0.0.1:{port}/v1/models")[0] == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_sigterm_lets_running_answers_finish_and_refuses_the_rest(tmp_path: Path, model: Path) -> None:
    with served(model, log=tmp_path / "log") as server:
        with post_raw(server.port, CHAT, body(model, "e", stream=True, max_tokens=2500)) as running:
            content = read_until(running, b"once more")
            waiting = post_raw(server.port, CHAT, body(model, "h"))
            idle = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            assert eventually(lambda: get(f"{server.url}/v1/health")[1]["requests_queued"] == 1)
            os.kill(server.pid, signal.SIGTERM)
            refused = read_until(waiting, b"}}")
            assert b" 503 " in refused and b"model_not_loaded" in refused and b"retry-after" in refused.lower()
            with pytest.raises(OSError):
                socket.create_connection(("127.0.0.1", server.port), timeout=5)
            # a connection from before is told, and health says why
            idle.sendall(b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % server.port)
            health = read_until(idle, b"}}")
            assert b" 503 " in health and b"unavailable" in health
            content += read_until(running, b"[DONE]")
            waiting.close()
            idle.close()
        assert b'"completion_tokens":2500' in content and b'"finish_reason":"length"' in content
        assert server.process.wait(30) == 0
        assert server.entries("draining")[0]["running"] == 1 and server.entries("ended")


@pytest.mark.parametrize("stream", [True, False])
def test_what_does_not_finish_in_time_is_cancelled(tmp_path: Path, model: Path, stream: bool) -> None:
    with served(model, log=tmp_path / "log", env={"MACPROVIDER_DRAIN_TIMEOUT_S": "0.5"}) as server:
        with post_raw(server.port, CHAT, body(model, "e", stream=stream)) as running:
            assert eventually(lambda: get(f"{server.url}/v1/health")[1]["requests_in_flight"] == 1)
            os.kill(server.pid, signal.SIGTERM)
            content = b"".join(iter(lambda: running.recv(65536), b""))
        assert server.process.wait(30) == 0
    assert b"model_not_loaded" in content
    if stream:
        assert content.rstrip(b"\r\n0").endswith(b"data: [DONE]") and b'data: {"error":' in content
    else:
        assert content.startswith(b"HTTP/1.1 503")


def test_a_client_that_is_still_sending_is_told_that_the_server_ends(tmp_path: Path, model: Path) -> None:
    with served(model, log=tmp_path / "log") as server:
        with post_raw(server.port, CHAT, b'{"model": ', {"Content-Length": "500"}) as sending:
            assert eventually(lambda: get(f"{server.url}/v1/health")[1]["requests_total"] == 1)
            os.kill(server.pid, signal.SIGTERM)
            content = read_until(sending, b"}}")
        assert content.startswith(b"HTTP/1.1 503") and b"model_not_loaded" in content
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text()


def test_sigint_drains_for_a_shorter_time_and_a_second_one_ends_at_once(tmp_path: Path, model: Path) -> None:
    with served(model, log=tmp_path / "log") as server, post_raw(server.port, CHAT, body(model, "e", stream=True)) as running:
        read_until(running, b"once more")
        os.kill(server.pid, signal.SIGINT)
        assert eventually(lambda: bool(server.entries("draining")))
        assert server.entries("draining")[0]["seconds"] == 5
        assert server.process.poll() is None
        os.kill(server.pid, signal.SIGINT)
        assert server.process.wait(3) == 130


def test_an_interrupt_while_loading_ends_in_words(tmp_path: Path, model: Path) -> None:
    log = tmp_path / "log"
    process = start_serve(model, log=log, cold=True)
    assert eventually(lambda: log.exists() and any(entry["event"] == "loading" for entry in read_log(log)), 60)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "interrupted" in log.read_text() and "Traceback" not in log.read_text()


def test_a_server_dies_with_its_parent(tmp_path: Path, model: Path) -> None:
    log = tmp_path / "log"
    for_child, ours = parent_pipe()
    command = [sys.executable, "-m", "macprovider.cli", "serve", "--model", str(model), "--port", "0", "--no-join"]
    with log.open("wb") as stderr:
        environment = {**os.environ, VARIABLE: str(for_child)}
        process = subprocess.Popen(command, env=environment, stderr=stderr, pass_fds=(for_child,), start_new_session=True)
    os.close(for_child)
    try:
        wait_ready(process, log)
        os.close(ours)
        assert process.wait(10) == 137
    finally:
        if process.poll() is None:
            process.kill()


def test_the_log_is_text_in_a_file_when_asked(tmp_path: Path, model: Path) -> None:
    """An own configuration file, whose unknown keys do no harm, and whose values flags override."""
    config = tmp_path / "config.yaml"
    config.write_text(f"log_format: text\nlog_file: {tmp_path / 'own.log'}\nmax_concurrency_override: 3\nport: 1\nsomething_else: 5\n")
    process = start_serve(model, "--config", str(config), "--log-level", "info", log=tmp_path / "log")
    try:
        own = tmp_path / "own.log"
        assert eventually(lambda: own.exists() and " serving " in own.read_text(), 100)
        assert " info self-test passed prompt_tokens=" in own.read_text() and "slots=3" in own.read_text()
        assert (tmp_path / "log").read_text() == ""
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_keys_guard_an_address_that_others_reach(tmp_path: Path, model: Path) -> None:
    home = tmp_path / "home"
    with served(
        model, "--host", "0.0.0.0", "--allowed-hosts", "gpu.lan", log=tmp_path / "log", env={"MODELWRIGHT_HOME": str(home)}
    ) as server:
        keys = json.loads((home / "tokens.json").read_text())
        assert (home / "tokens.json").stat().st_mode & 0o777 == 0o600
        for path in ("/v1/models", "/v1/health", "/metrics", "/v1/engine"):
            assert call("GET", server.url + path)[0] == 401
        status, refused, headers = call("POST", server.url + CHAT, body(model, "h"))
        assert (status, refused["error"]["code"], headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
        for role in ("read", "admin"):
            answer = server.client(api_key=keys[role]).chat.completions.create(**body(model, "h"))
            assert answer.choices[0].message.content == "The quick brown fox"
        reader = {"Authorization": f"Bearer {keys['read']}"}
        assert call("POST", f"{server.url}/v1/anything", b"{}", reader)[0] == 403
        assert call("GET", f"{server.url}/v1/models", headers={**reader, "Host": f"gpu.lan:{server.port}"})[0] == 200
        assert call("GET", f"{server.url}/v1/models", headers={**reader, "Host": "other.lan"})[0] == 421
        assert keys["read"] not in server.log.read_text() and keys["admin"] not in server.log.read_text()


@pytest.mark.slow
def test_two_servers_that_start_together_do_not_share_a_port(tmp_path: Path, model: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    both = [start_serve(model, log=log, port=port) for log in logs]
    try:
        assert eventually(lambda: any(process.poll() is not None for process in both), 100)
        loser = next(index for index, process in enumerate(both) if process.poll() is not None)
        assert both[loser].returncode == 1 and "in use" in logs[loser].read_text() and "Traceback" not in logs[loser].read_text()
        assert wait_ready(both[1 - loser], logs[1 - loser]) == port
    finally:
        for process in both:
            process.terminate()
        deadline = time.monotonic() + 30
        assert all(process.wait(max(0.1, deadline - time.monotonic())) is not None for process in both)
