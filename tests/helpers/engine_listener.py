"""A listener that collects one answer and can be waited for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from macprovider.engines.base import Engine, EngineSettings, GenerationRequest, Sampling, Ticket, Token


class Collected:
    """See `macprovider.engines.base.Listener`. first: set with the first token, done: with the end."""

    def __init__(self) -> None:
        self.heard: list[Token] = []
        self.reason: str | None = None
        self.error = ""
        self.ends = 0
        self.first, self.done = threading.Event(), threading.Event()
        self.ticket: Ticket | None = None

    @property
    def ids(self) -> list[int]:
        """The token ids so far."""
        return [token.id for token in self.heard]

    def tokens(self, tokens: Sequence[Token]) -> None:
        """See `Listener.tokens`."""
        self.heard.extend(tokens)
        self.first.set()

    def finished(self, reason: str, error: str = "") -> None:
        """See `Listener.finished`."""
        self.reason, self.error, self.ends = reason, error, self.ends + 1
        self.first.set()
        self.done.set()

    def wait(self, seconds: float = 120.0) -> Collected:
        """Wait for the end."""
        assert self.done.wait(seconds), "the answer did not end"
        return self


GREEDY = Sampling(temperature=0.0)


def ask(engine: Engine, prompt: Sequence[int], max_tokens: int = 8, sampling: Sampling = GREEDY, **options: Any) -> Collected:
    """Submit a request, greedy unless told, and return its listener at once."""
    listener = Collected()
    listener.ticket = engine.submit(GenerationRequest(prompt, max_tokens, sampling, **options), listener)
    return listener


def engine_settings(folder: Path, **options: Any) -> EngineSettings:
    """Settings for a model folder."""
    return EngineSettings(str(folder), folder, **{"max_context": 256, "max_batch": 4, "device": "cpu", **options})
