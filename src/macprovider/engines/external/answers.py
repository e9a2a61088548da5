"""One answer that a child computes: what was asked, what has come, when it ends. Lives on the engine's event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import orjson

from macprovider.engines.base import EngineError, FinishReason, GenerationRequest, Listener, Token
from macprovider.engines.external.dialect import Dialect
from macprovider.engines.external.event_stream import EventStream


class Owner(Protocol):
    """Whoever runs answers."""

    def cancel(self, answer: Answer) -> None:
        """From any thread."""

    def over(self, answer: Answer, reason: FinishReason, error: str = "") -> None:
        """The answer has its end; on the loop."""

    def again(self, answer: Answer) -> None:
        """Ask for the rest; on the loop."""

    def lost(self, answer: Answer, error: str) -> None:
        """Its connection is gone; on the loop."""

    def stepped(self, answer: Answer) -> None:
        """The answer has new tokens; on the loop."""


class Answer:
    """See `macprovider.engines.base.Ticket`. ids: tokens that the listener has heard. stream: None before its start."""

    def __init__(self, request: GenerationRequest, listener: Listener, dialect: Dialect, owner: Owner) -> None:
        self.request, self.listener = request, listener
        self._dialect, self._owner = dialect, owner
        self.ids: list[int] = []
        self.stream: EventStream | None = None
        self.cached_tokens = 0
        self.parts = 0
        self._before = 0  # tokens of earlier parts
        self._finish: FinishReason | None = None
        self._stopped = False  # by one of the request's stop ids

    def cancel(self) -> None:
        """See `Ticket.cancel`."""
        self._owner.cancel(self)

    def begin_part(self, start: Callable[[Answer], EventStream]) -> None:
        """Open its next stream."""
        self.parts += 1
        self._before, self._finish = len(self.ids), None
        self.stream = start(self)

    # ------------------------------------------------------------------ event_stream.Reader

    def event(self, data: bytes) -> None:
        """See `Reader.event`."""
        try:
            document = orjson.loads(data)
        except ValueError:
            self._owner.over(self, "error", f"{self._dialect.name}: an event is no JSON: {data[:200].decode('utf-8', 'replace')}")
            return
        if "error" in document:
            self._owner.over(self, "error", f"{self._dialect.name}: {error_text(document['error'])}")
            return
        try:
            piece = self._dialect.piece(document, self.request)
        except (LookupError, TypeError, ValueError, EngineError) as error:
            told = str(error) if isinstance(error, EngineError) else f"an event is not understood ({error!r}): {data[:200]!r}"
            self._owner.over(self, "error", f"{self._dialect.name}: {told.removeprefix(self._dialect.name + ': ')}")
            return
        if piece.cached is not None and self.parts == 1:
            self.cached_tokens = piece.cached
        if piece.tokens:
            self._hear(piece.tokens)
        if piece.finish is not None and not self._stopped:
            self._finish = piece.finish
        if self._stopped and not self._dialect.stops_itself:
            self._owner.over(self, "stop")
        elif piece.made is not None and self._finish is not None:
            self._end(piece.made)

    def ended(self, error: str, lost: bool) -> None:
        """See `Reader.ended`."""
        if lost:
            self._owner.lost(self, f"{self._dialect.name}: {error}.")
        elif error:
            schema = self.request.json_schema is not None and not self.ids and self.stream is not None and self.stream.status == 400
            self._owner.over(self, "refused" if schema else "error", f"{self._dialect.name}: {error}.")
        elif self._finish is None:
            self._owner.over(self, "error", f"{self._dialect.name}: an answer ended without its last event.")
        else:
            self._end(None)

    def _hear(self, tokens: Sequence[Token]) -> None:
        """Pass on what comes before a stop id and within the limit."""
        request = self.request
        found: list[Token] = []
        for token in tokens:
            if self._stopped or len(self.ids) >= request.max_tokens:
                break
            if token.id in request.stop_ids:
                self._stopped, self._finish = True, "stop"
                break
            self.ids.append(token.id)
            found.append(token)
        if found:
            self.listener.tokens(found)
            self._owner.stepped(self)

    def _end(self, made: int | None) -> None:
        """The server's last word. made: tokens that it counts, where it does."""
        heard = len(self.ids) - self._before
        if self._stopped:
            self._owner.over(self, "stop")
        elif made is not None and made != heard:
            told = f"{self._dialect.name}: the server made {made} tokens and sent {heard}"
            self._owner.over(self, "error", f"{told}; its version does not fit this program.")
        elif len(self.ids) >= self.request.max_tokens:
            self._owner.over(self, "length")
        elif self._finish == "stop" and self._dialect.goes_on(self.request) and heard:
            self._owner.again(self)
        else:
            self._owner.over(self, self._finish or "stop")


def error_text(error: Any) -> str:
    """The sentence in a server's error, whichever shape it has."""
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error)
