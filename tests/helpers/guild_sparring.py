"""An inference host of a few lines: a real HTTP server with the chat API, whose answers are known beforehand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from guild.places import Places
from guild.records import ledger
from guild.records.checkpoint_record import CampaignId, CheckpointFacts
from guild.skills.contract import Sample
from helpers.guild_records import write_checkpoint
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database

WRONG = "no idea"

Answering = Callable[[str], str | int]
"""Prompt → the answer, or the HTTP code of a refusal."""


@dataclass
class ChatServer:
    """A server that answers. models: what it says it serves. requests: bodies of the questions, in the order in which they came."""

    answering: Answering
    models: list[dict[str, Any]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def prompts(self) -> list[str]:
        """The user's words in each request."""
        return [body["messages"][-1]["content"] for body in self.requests]

    def asked(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(HTTP code, answer) to a request for a completion."""
        self.requests.append(body)
        found = self.answering(body["messages"][-1]["content"])
        if isinstance(found, int):
            return found, {"error": {"message": f"refused with {found}"}}
        return 200, {"choices": [{"message": {"role": "assistant", "content": found}, "finish_reason": "stop"}]}


def golden(samples: list[Sample], wrong: int = 0, reply: str | int = WRONG) -> Answering:
    """The right answers, but for the first `wrong` problems."""
    answers: dict[str, str | int] = {sample.user_prompt: sample.assistant_response for sample in samples}
    answers.update({sample.user_prompt: reply for sample in samples[:wrong]})
    return lambda prompt: answers[prompt]


@contextmanager
def chat_server(answering: Answering, *, model: str = "checkpoint-100", path: str = "") -> Iterator[ChatServer]:
    """A server with one model, until the block ends."""
    served = ChatServer(answering, [{"id": model, "object": "model", **({"path": path} if path else {})}])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._answer(200, {"object": "list", "data": served.models})
            else:
                self._answer(404, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*(served.asked(body) if self.path == "/v1/chat/completions" else (404, {})))

        def _answer(self, code: int, content: dict[str, Any]) -> None:
            raw = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def trained_to(db: Database, places: Places, step: int, campaign: CampaignId, *, clock: Clock = SYSTEM_CLOCK, **facts: Any) -> Path:
    """A checkpoint of the campaign in the ledger, as a save leaves it; one that is there is recorded again."""
    folder = places.campaigns / campaign.hero_id / campaign.campaign_id / "checkpoints"
    path = folder / f"checkpoint-{step}"
    if not path.exists():
        write_checkpoint(folder, path.name)
    ledger.record(db, places, path, facts=CheckpointFacts(**facts), clock=clock)
    return path
