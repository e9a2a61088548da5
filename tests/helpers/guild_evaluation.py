"""A house with checkpoints to evaluate, somebody who knows (some of) the answers, and a small real chat server that misbehaves as told."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from guild.evaluation.answerers import Reply
from guild.evaluation.subject import Subject
from guild.places import Places
from guild.records import ledger
from guild.records.checkpoint_record import CampaignId
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.tiny import tiny_model_path

CAMPAIGN = CampaignId("tiny", "campaign-001")


def add_checkpoint(db: Database, places: Places, step: int) -> Path:
    """The tiny model as a recorded checkpoint of the first campaign."""
    folder = places.campaigns / "tiny" / "campaign-001" / "checkpoints" / f"checkpoint-{step}-20260101-1000"
    shutil.copytree(tiny_model_path("tiny-0.4m"), folder)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    ledger.record(db, places, folder, campaign=CAMPAIGN)
    return folder


@dataclass
class Knowing:
    """Answers from a table of prompts and golden answers; `reply` changes what is said, None for no result. asked: everything it was
    asked. How sure it is it does not know."""

    golden: dict[str, str]
    reply: Callable[[str], str | None] = lambda answer: answer
    model: str = "a table"
    system_prompt: str = "Today is 2026-01-01. You are happy. You enjoy helping others."
    asked: list[str] = field(default_factory=list)
    closed: int = 0

    def answer(self, prompts: Sequence[str], *, max_new_tokens: int = 512, golden: Sequence[str] | None = None) -> list[Reply]:
        self.asked += prompts
        replies = [self.reply(self.golden[prompt]) for prompt in prompts]
        return [Reply(text, 0.01, "" if text is not None else "the line is dead") for text in replies]

    def close(self) -> None:
        self.closed += 1

    def for_subject(self, subject: Subject, device: str, clock: Clock) -> Knowing:
        return self


@dataclass
class Chat:
    """A real HTTP server with the chat API. answers: called with each request's body, returns (status, body, headers)."""

    answers: Callable[[dict[str, Any]], tuple[int, Any, dict[str, str]]]
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "m"}])
    key: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


def said(text: str | None, finish: str = "stop", logprobs: Any = None) -> tuple[int, Any, dict[str, str]]:
    """A sound answer with that content."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": logprobs, "finish_reason": finish}
    return 200, {"choices": [choice]}, {}


@contextmanager
def chat_server(chat: Chat) -> Iterator[Chat]:
    """Serve until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if chat.key and self.headers.get("X-API-Key") != chat.key:
                self._send(401, {"error": {"message": "a key is needed"}}, {})
                return
            self._send(200, {"data": chat.models}, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                chat.seen.append(body)
                chat.headers.append(dict(self.headers))
                status, content, headers = chat.answers(body)
            self._send(status, content, headers)

        def _send(self, status: int, content: Any, headers: dict[str, str]) -> None:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
