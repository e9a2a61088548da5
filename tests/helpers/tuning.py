"""Tuning runs against scripted candidates: a real process on a real port that behaves, or misbehaves, as a script says.

As a program: `tuning.py child SCRIPT MODEL KV BATCH CONTEXT PORT REPAIR` is a candidate, `tuning.py pull SCRIPT MODEL` fetches weights,
`tuning.py autotune SCRIPT FLAGS…` is `autotune` with such candidates. The script is a JSON object: model, or `model kv batch context`,
or `model kv batch context repair` for one with an operator, to a behaviour (see `Behaviour`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypedDict

import psutil

from macprovider.parent_watch import watch_parent

SELF = str(Path(__file__).resolve())
CHARACTERS_PER_TOKEN = 5
TEMPLATE_TOKENS = 3


class Behaviour(TypedDict, total=False):
    """What a scripted candidate does; without any it answers well. Times in seconds.

    exit_in_load: exit status while it loads (negative: a signal to itself), with `log` on stderr. never_ready: never listens.
    status: HTTP status of every answer. no_content: a stream without text. first_s: until the first token. token_s: between
    tokens. leak: text in the middle of the answer. die_after: tokens after which the process ends. break_after: tokens after
    which the connection ends. fail_at: numbers of requests (1 is the warm-up) answered with 500. no_usage: leave it out.
    kv_bits, slots, context, repair: what it says at /v1/engine instead of the truth. no_engine: 404 there. ignore_term: survive
    SIGTERM. grandchild: start a process that sleeps. pull: exit status of the fetch, with `pull_log`. pull_s: how long that takes.
    last_breath: seconds from the end of the connection to that of the process, with die_after. whole: body of an answer that is not
    streamed.
    tokens: of the answer. noise: malformed lines and comments in the stream. mute: accept a request, never answer.
    """

    exit_in_load: int
    log: str
    never_ready: bool
    status: int
    no_content: bool
    first_s: float
    token_s: float
    leak: str
    die_after: int
    last_breath: float
    whole: dict[str, Any]
    break_after: int
    fail_at: list[int]
    no_usage: bool
    kv_bits: Any
    slots: int
    context: int
    repair: str | None
    no_engine: bool
    ignore_term: bool
    grandchild: bool
    pull: int
    pull_log: str
    pull_s: float
    tokens: int
    noise: bool
    mute: bool


def write_script(path: Path, behaviours: Mapping[str, Behaviour]) -> Path:
    """The script as the child reads it."""
    path.write_text(json.dumps(behaviours))
    return path


def scripted_world(script: Path, conflicts: Any = None) -> Any:
    """The outside of a run whose candidates follow `script`; nothing is in the way unless `conflicts` says so."""
    from macprovider.autotune.session import World

    def serve(model: str, knobs: Any, port: int, config: Path, engine: str) -> list[str]:
        context = knobs.max_context or "default"
        words = [str(value) for value in (knobs.kv_bits or "unset", knobs.max_batch, context, port, knobs.repair or "none")]
        return [sys.executable, SELF, "child", str(script), model, *words, "--no-join", "--config", str(config)]

    def pull(model: str) -> list[str]:
        return [sys.executable, SELF, "pull", str(script), model]

    return World(serve=serve, pull=pull, conflicts=conflicts or (lambda port: []))


def free_port() -> int:
    """A port that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_naming(text: str) -> list[psutil.Process]:
    """Live processes with `text` in their command line, this one left out."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        lives = process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE
        if lives and any(text in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found


def wait_until(holds: Any, seconds: float = 20.0) -> bool:
    """Whether `holds()` became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return bool(holds())


def autotune_argv(script: Path, *flags: str) -> list[str]:
    """The command of a whole run with scripted candidates."""
    return [sys.executable, SELF, "autotune", str(script), *flags]


@dataclass(frozen=True)
class Tuned:
    """What a run left behind. document: the JSON that it printed. logs: of its candidates, joined."""

    code: int
    out: str
    err: str
    document: dict[str, Any]
    run: dict[str, Any]
    trials: list[dict[str, Any]]
    logs: str


class Bench:
    """Runs of `autotune` inside this process, below a home folder of their own."""

    def __init__(self, folder: Path, monkeypatch: Any, capsys: Any) -> None:
        self.folder, self._capsys, self.port = folder, capsys, free_port()
        self.database = folder / "db" / "autotune.sqlite"
        self.script = folder / "script.json"
        monkeypatch.setenv("HOME", str(folder))

    def flags(self, *more: str) -> list[str]:
        """Short trials on a free port; later flags win over these."""
        base = ["--target-context", "256", "--max-tokens", "8", "--kv-bits-axis", "unset", "--max-batch-axis", "1", "--drain-grace", "5"]
        return [*base, "--stage2-replicates", "1", "--port", str(self.port), "--db-path", str(self.database), "--json", *more]

    def tune(self, behaviours: Mapping[str, Behaviour], *flags: str, conflicts: Any = None) -> Tuned:
        """One whole run with scripted candidates."""
        from macprovider.autotune.arguments import parse
        from macprovider.autotune.run import tune

        world = scripted_world(write_script(self.script, behaviours), conflicts)
        return self.outcome(tune(parse(self.flags(*flags))[0], world))

    def command(self, *words: str) -> Tuned:
        """The command as users type it."""
        from macprovider.autotune_cli import main

        return self.outcome(main(list(words)))

    def outcome(self, code: int) -> Tuned:
        """What was printed, and the newest run of the database."""
        from macprovider.autotune.records.database import TuningDatabase

        told = self._capsys.readouterr()
        begin = 0 if told.out.startswith("{") else told.out.find("\n{") + 1
        shown = json.loads(told.out[begin:]) if "{" in told.out[begin : begin + 1] else {}
        run, trials = {}, []
        if self.database.is_file():
            database = TuningDatabase(self.database, readonly=True)
            run = (database.runs() or [{}])[0]
            trials = database.trials(run["run_id"]) if run else []
            database.close()
        folder = self.folder / ".cache/macprovider/autotune-logs" / run.get("run_id", "-")
        logs = "".join(file.read_text(errors="replace") for file in sorted(folder.glob("*.log")))
        return Tuned(code, told.out, told.err, shown, run, trials, logs)


# --- the candidate


def _behaviour(script: str, model: str, *knobs: str) -> Behaviour:
    told = json.loads(Path(script).read_text())
    return {**told.get(model, {}), **told.get(" ".join((model, *knobs)), {})}


def _child(script: str, model: str, kv: str, batch: str, context: str, port: str, repair: str) -> None:
    behaviour = _behaviour(script, model, kv, batch, context, *(() if repair == "none" else ("repair",)))
    if behaviour.get("ignore_term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour.get("grandchild") and not os.fork():
        sys.argv.append("grandchild")
        time.sleep(600)
    if behaviour.get("log"):
        print(behaviour["log"], file=sys.stderr, flush=True)
    status = behaviour.get("exit_in_load")
    if status is not None:
        if status < 0:
            os.kill(os.getpid(), -status)
        os._exit(status)
    if behaviour.get("never_ready"):
        time.sleep(600)
    told = {
        "kv_bits": behaviour.get("kv_bits", None if kv == "unset" else int(kv)),
        "slots": behaviour.get("slots", int(batch)),
        "context": behaviour.get("context", 50000 if context == "default" else int(context)),
        "kv_bytes_per_token": 64.0,
        "repair": behaviour.get("repair", None if repair == "none" else repair),
    }
    handler = type("Handler", (_Handler,), {"behaviour": behaviour, "facts": told, "model": model, "asked": 0, "lock": threading.Lock()})
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", int(port)), handler).serve_forever()


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour
    facts: dict[str, Any]
    model: str
    asked: int
    lock: Any
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._json(200, {"object": "list", "data": [{"id": self.model, "object": "model", "created": 1, "owned_by": "macprovider"}]})
        elif self.path == "/v1/engine" and not self.behaviour.get("no_engine"):
            self._json(200, {"facts": self.facts})
        else:
            self._json(404, {"error": {"message": "nothing here", "type": "x", "param": None, "code": "path_not_found"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            type(self).asked += 1
            number = type(self).asked
        prompt = body["messages"][0]["content"]
        tokens = len(prompt) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        print(f"REQUEST {number} {tokens} {body['max_tokens']} {prompt[:60]!r}", flush=True)
        if self.behaviour.get("mute"):
            time.sleep(600)
        if number in self.behaviour.get("fail_at", []) or self.behaviour.get("status"):
            self._json(
                self.behaviour.get("status", 500), {"error": {"message": "told to fail", "type": "x", "param": None, "code": "scripted"}}
            )
        elif tokens + body["max_tokens"] > self.facts["context"]:
            self._json(413, {"error": {"message": "too long", "type": "x", "param": None, "code": "context_length_exceeded"}})
        elif not body.get("stream"):
            self._json(200, self.behaviour.get("whole", {}))
        else:
            self._stream(tokens, min(body["max_tokens"], self.behaviour.get("tokens", 8)))

    def _stream(self, prompt_tokens: int, tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for line in self._lines(prompt_tokens, tokens):
            self.wfile.write(line.encode())
            self.wfile.flush()

    def _lines(self, prompt_tokens: int, tokens: int) -> Iterator[str]:
        behaviour = self.behaviour
        yield _event(delta={"role": "assistant"})
        yield _event(delta={"content": ""})
        time.sleep(behaviour.get("first_s", 0.0))
        for number in range(0 if behaviour.get("no_content") else tokens):
            if behaviour.get("die_after") == number:
                print("MemoryError: out of memory in the middle", flush=True)
                self.connection.shutdown(socket.SHUT_RDWR)
                time.sleep(behaviour.get("last_breath", 0.0))
                os._exit(1)
            if behaviour.get("break_after") == number:
                return
            if behaviour.get("noise"):
                yield ": a comment\n\ndata: {broken\n\nevent: odd\n\n"
            yield _event(delta={"content": f"word{number} "}, extra=number)
            time.sleep(behaviour.get("token_s", 0.002))
        if behaviour.get("leak"):
            yield _event(delta={"content": behaviour["leak"]})
        yield _event(delta={}, finish_reason="length")
        if not behaviour.get("no_usage"):
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet: the log is for what a candidate says."""


def _event(**choice: Any) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n"


def _pull(script: str, model: str) -> int:
    behaviour = _behaviour(script, model)
    time.sleep(behaviour.get("pull_s", 0.0))
    if behaviour.get("pull_log"):
        print(behaviour["pull_log"], file=sys.stderr)
    return behaviour.get("pull", 0)


def _autotune(script: str, flags: list[str]) -> int:
    from macprovider.autotune.arguments import parse
    from macprovider.autotune.run import tune

    return tune(parse(flags)[0], scripted_world(Path(script)))


if __name__ == "__main__":
    what, rest = sys.argv[1], sys.argv[2:]
    if what == "autotune":
        sys.exit(_autotune(rest[0], rest[1:]))
    watch_parent()
    if what == "pull":
        sys.exit(_pull(rest[0], rest[1]))
    _child(*rest[:7])
