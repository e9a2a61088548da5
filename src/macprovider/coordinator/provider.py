"""What a session asks of the server it stands for: facts, load, and answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from macprovider.coordinator.messages import Endpoint, Hello, State


@dataclass(frozen=True)
class Load:
    """state: "draining" once the process itself ends. in_flight: requests that have a slot. queued: that wait for one. tps: tokens
    per second of one answer, of late.
    """

    state: State
    in_flight: int
    queued: int
    tps: float


class RequestRefused(Exception):
    """The request got no answer, or its answer broke off. error: OpenAI's error object."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message", "")))
        self.error = dict(error)


class Provider(Protocol):
    """The server."""

    @property
    def provider_id(self) -> str:
        """Its name in the pool."""

    def hello(self) -> Hello:
        """Who it is and what it can hold, now."""

    def load(self) -> Load:
        """Cheap; asked several times a second."""

    def refusal(self, model: str | None, context_tokens: int | None) -> str:
        """Why a request like that would not be taken now, a sentence, or "" when it would."""

    def answer(self, endpoint: Endpoint, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer without `[DONE]`. Closing the iterator frees the slot. Raises RequestRefused."""

    async def warm_up(self) -> None:
        """Compute a few tokens. Never raises."""
