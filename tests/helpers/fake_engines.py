"""Programs named `vllm`, `mlx_lm.server` and `llama-server`, for what no such server here can show: real processes on real ports that
take the real flags, speak the recorded protocol, write down what they were asked, and misbehave where a test says so.

`put_on_path(folder, monkeypatch, "vllm", slots=3)` makes one; `Fake.requests` and `Fake.flags` read what it wrote down. An answer to a
prompt that ends with token t is t+1, t+2, … modulo the vocabulary, until a stop id or the limit.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SELF = Path(__file__).resolve()
VOCABULARY = 1024


@dataclass(frozen=True)
class Fake:
    """One program. record: JSON lines, its flags and every request."""

    program: str
    record: Path

    def _lines(self, kind: str) -> list[Any]:
        if not self.record.is_file():
            return []
        entries = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [entry[kind] for entry in entries if kind in entry]

    @property
    def starts(self) -> list[list[str]]:
        """The arguments of each start."""
        return self._lines("argv")

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of the requests for answers."""
        return self._lines("body")

    @property
    def pids(self) -> list[int]:
        """Of each start."""
        return self._lines("pid")

    @property
    def gone(self) -> int:
        """Answers whose reader left before their end."""
        return len(self._lines("gone"))

    def flags(self) -> dict[str, str]:
        """Flags of the last start with their values, "" for those without one."""
        found: dict[str, str] = {}
        name = ""
        for word in self.starts[-1]:
            if word.startswith("-"):
                name = word
                found[name] = ""
            elif name and not found[name]:
                found[name] = word
        return found


def put_on_path(folder: Path, patch: Any, program: str, **behaviour: Any) -> Fake:
    """Write the program into `folder` and put that before PATH. behaviour: max_model_len, slots, cache_dtype: what it says it has, where
    that is not what it was asked for. die: exit status while it loads, with `log` as its last words. busy: how often its port is taken.
    mute: never ready. token_s: seconds between tokens. die_after: tokens after which it kills itself. no_ids: leave token ids out.
    status: HTTP status of every answer. pieces: texts of an answer of mlx-lm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fake = Fake(program, folder / f"{program}.jsonl")
    script = folder / program
    settings = json.dumps({"record": str(fake.record), **behaviour})
    script.write_text(f"#!{sys.executable} -S\nimport runpy, sys\nsys.argv[1:1] = [{program!r}, {settings!r}]\n")
    with script.open("a") as file:
        file.write(f"runpy.run_path({str(SELF)!r}, run_name='__main__')\n")
    script.chmod(0o755)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return fake


class Server:
    """The state of one fake."""

    def __init__(self, program: str, settings: dict[str, Any], argv: list[str]) -> None:
        self.program, self.settings, self.argv = program, settings, argv
        self.key = os.environ.get("VLLM_API_KEY", os.environ.get("LLAMA_API_KEY", ""))

    def note(self, **entry: Any) -> None:
        with open(self.settings["record"], "a") as file:
            file.write(json.dumps(entry) + "\n")

    def flag(self, name: str, default: str = "") -> str:
        return self.argv[self.argv.index(name) + 1] if name in self.argv else default

    def run(self) -> None:
        self.note(argv=self.argv, pid=os.getpid())
        if self.program == "vllm":
            given = {"max_model_len": int(self.flag("--max-model-len")), "max_num_seqs": self.slots, "model": "m"}
            print(f"(APIServer pid=1) INFO 04-19 10:18:36 [utils.py:233] non-default args: {given}", flush=True)
            print("INFO [core.py:93] Initializing a V1 LLM engine (v0.11.0) with config: model='m', dtype=torch.bfloat16,", flush=True)
            print("INFO [gpu_model_runner.py:2653] Model loading took 0.5000 GiB and 1.2 seconds", flush=True)
        if "die" in self.settings:
            print(self.settings.get("log", "error: no reason"), flush=True)
            os._exit(self.settings["die"])
        if self.settings.get("busy", 0) >= sum("argv" in line for line in Path(self.settings["record"]).read_text().splitlines()):
            print("OSError: [Errno 98] Address already in use", flush=True)
            os._exit(1)
        if self.settings.get("mute"):
            time.sleep(600)
        handler = type("Handler", (Handler,), {"server_state": self})
        ThreadingHTTPServer(("127.0.0.1", int(self.flag("--port"))), handler).serve_forever()

    @property
    def slots(self) -> int:
        return int(self.settings.get("slots", self.flag("--max-num-seqs", "1")))


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0 as mlx-lm, whose body ends with the connection; HTTP/1.1 with chunks as vLLM."""

    server_state: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        state = self.server_state
        kv = state.settings.get("cache_dtype", state.flag("--kv-cache-dtype"))
        context = state.settings.get("max_model_len", int(state.flag("--max-model-len", "0")))
        labels = f'block_size="16",cache_dtype="{kv}",enable_prefix_caching="True",num_gpu_blocks="100"'
        replies: dict[str, Any] = {
            "/health": {},
            "/version": {"version": "0.11.0"},
            "/v1/models": {"object": "list", "data": [{"id": "m", "max_model_len": context}]},
            "/metrics": f"# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{{labels}}} 1.0\n",
        }
        if self.path.startswith("/v1") and state.key and self.headers["Authorization"] != f"Bearer {state.key}":
            return self._reply(401, {"error": "Unauthorized"})
        found = replies.get(self.path)
        return self._reply(404 if found is None else 200, found)

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not body.get("stream"):
            return self._reply(200, {"system_fingerprint": "0.28.3-0.29.1-macOS-14", "choices": [{"text": "b", "finish_reason": "length"}]})
        state.note(body=body)
        if "status" in state.settings:
            return self._reply(state.settings["status"], {"error": {"message": "not today"}})
        self.protocol_version = "HTTP/1.1" if state.program == "vllm" else "HTTP/1.0"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        if state.program == "vllm":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            (self._vllm if state.program == "vllm" else self._mlx)(body)
            self._send("[DONE]")
            if state.program == "vllm":
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            state.note(gone=True)
        self.close_connection = True
        return None

    def _vllm(self, body: dict[str, Any]) -> None:
        settings = self.server_state.settings
        token, made, finish = body["prompt"][-1], 0, None
        while finish is None:
            time.sleep(settings.get("token_s", 0))
            token, made = (token + 1) % VOCABULARY, made + 1
            finish = "stop" if token in body["stop_token_ids"] else "length" if made == body["max_tokens"] else None
            choice: dict[str, Any] = {"index": 0, "text": f"<{token}>", "finish_reason": finish}
            if not settings.get("no_ids"):
                choice["token_ids"] = [token]
            if body.get("logprobs") is not None:
                tops = {f"token_id:{token + far}": -0.5 - far for far in range(body["logprobs"] + 1)}
                choice["logprobs"] = {"tokens": [f"token_id:{token}"], "token_logprobs": [-0.5], "top_logprobs": [tops]}
            self._send({"choices": [choice]})
            if made == settings.get("die_after"):
                os._exit(9)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": made, "prompt_tokens_details": {"cached_tokens": 16}}
        self._send({"choices": [], "usage": usage})

    def _mlx(self, body: dict[str, Any]) -> None:
        settings = self.server_state.settings
        pieces = settings.get("pieces", [" and", " so"])[: body["max_tokens"]]
        self._raw(b": keepalive 1/2\n\n")
        for text in pieces:
            time.sleep(settings.get("token_s", 0))
            self._send({"choices": [{"index": 0, "text": text, "finish_reason": None}]})
        finish = "length" if len(pieces) == body["max_tokens"] else "stop"
        self._send({"choices": [{"index": 0, "text": "", "finish_reason": finish}]})
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 5}}
        self._send({"choices": [], "usage": usage})

    def _send(self, document: Any) -> None:
        self._raw(f"data: {document if isinstance(document, str) else json.dumps(document)}\n\n".encode())

    def _raw(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self.server_state.program == "vllm" else data)
        self.wfile.flush()

    def _reply(self, status: int, document: Any) -> None:
        content = document.encode() if isinstance(document, str) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    Server(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]).run()
