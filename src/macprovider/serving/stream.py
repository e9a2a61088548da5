"""A response as server-sent events, and the way of each event to its socket.

At eight clients an event is made a few hundred times a second, so that waking a task for each costs as much as all the rest of its
way. `DirectWriter` therefore writes where the engine's tokens arrive, and needs a task only while a socket takes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any

from macprovider.serving.errors import ApiError, defect
from macprovider.serving.exchange import ClientGone, Exchange
from macprovider.serving.shapes import DONE, Head, Shape, error_events

log = logging.getLogger("macprovider")
STALL_S = 60.0
"""A client that takes nothing for this long is given up. Its answer's slot was free before: the engine waits for no reader."""


class Stream:
    """The events of one exchange. refused: told of an error that ends it."""

    def __init__(self, exchange: Exchange, head: Head, shape: Shape, refused: Callable[[ApiError], None]) -> None:
        self._exchange, self._head, self._shape, self._refused = exchange, head, shape, refused
        self._opened: set[int] = set()
        self.ended = False

    def take(self) -> bytes:
        """The events that are there by now: whole ones, possibly none. After the last, which ends with `[DONE]`, `ended` is true.

        Raises ClientGone when the exchange was closed.
        """
        exchange, shape = self._exchange, self._shape
        try:
            step = exchange.take()
        except ApiError as error:
            self.ended = True
            self._refused(error)
            return error_events(error)
        except ClientGone:
            raise
        except Exception as error:
            log.error("defect", exc_info=error)
            self.ended = True
            self._refused(defect())
            return error_events(defect())
        out = b""
        for answer, delta in step:
            if answer.index not in self._opened:
                self._opened.add(answer.index)
                out += shape.opening(answer.index)
            out += shape.event(answer, delta)
        if exchange.finished:
            self.ended = True
            out += self._head.usage_event(exchange) + DONE
        return out


class DirectWriter:
    """Writes a stream by ASGI's `send`, on the event loop, without a task of its own while the socket takes what it is given."""

    def __init__(self, stream: Stream, exchange: Exchange, send: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        self._stream, self._exchange, self._send = stream, exchange, send
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._rest: asyncio.Task[None] | None = None  # of a write that waits for its socket
        self._writes, self._seen = 0, -1

    async def run(self) -> None:
        """Until the last event is written. Raises ClientGone when the client left, or took nothing for `STALL_S`."""
        self._timer = self._loop.call_later(STALL_S, self._look)
        self._exchange.sink = self._pump
        try:
            self._pump()
            await self._done
        finally:
            self._exchange.sink = None
            self._timer.cancel()
            if self._rest is not None:
                self._rest.cancel()

    def _pump(self) -> None:
        if self._rest is not None or self._done.done():
            return
        try:
            events = self._stream.take()
            if events:
                self._write(events)
        except Exception as error:  # noqa: BLE001 - whatever it is ends this response alone, in `run`
            self._end(error)
            return
        if self._stream.ended and self._rest is None:
            self._end(None)

    def _write(self, events: bytes) -> None:
        self._writes += 1
        sending = self._send({"type": "http.response.body", "body": events, "more_body": not self._stream.ended})
        try:
            awaited = sending.send(None)
        except StopIteration:
            return
        self._rest = self._loop.create_task(self._later(sending, awaited))

    async def _later(self, sending: Coroutine[Any, Any, None], awaited: Any) -> None:
        try:
            await _resumed(sending, awaited)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(error)
        finally:
            self._rest = None
        self._pump()

    def _end(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)

    def _look(self) -> None:
        """End it when the write that waited at the last look still waits."""
        if self._rest is not None and self._seen == self._writes:
            self._end(ClientGone())
            return
        self._seen = self._writes if self._rest is not None else -1
        self._timer = self._loop.call_later(STALL_S, self._look)


@coroutine
def _resumed(begun: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """The rest of a coroutine that was begun without a task and awaits `awaited`."""
    while True:
        thrown: BaseException | None = None
        sent: Any = None
        try:
            sent = yield awaited
        except BaseException as error:  # noqa: BLE001 - a cancellation belongs to the coroutine
            thrown = error
        try:
            awaited = begun.send(sent) if thrown is None else begun.throw(thrown)
        except StopIteration:
            return
