"""A small coordinator for tests: a real WebSocket server in a thread, with a log of everything that ever connected.

with ReferenceCoordinator() as pool:
    ... start a provider with --coordinator pool.url ...
    session = pool.session()                       # waits for the provider's hello
    session.send({"type": "preflight", ...})
    answer = session.wait(lambda m: m["type"] == "preflight_ack")
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Collection
from http import HTTPStatus
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from macprovider.coordinator.messages import Nak, from_provider

WAIT_S = 60.0


def _quiet() -> logging.Logger:
    """What this side logs would look like the provider's own words to a test that reads its log."""
    logger = logging.getLogger("reference coordinator")
    logger.setLevel(logging.CRITICAL)
    return logger


class PoolSession:
    """One WebSocket session as the coordinator sees it. messages: what the provider sent, in order, each valid."""

    def __init__(self, socket: ServerConnection, loop: asyncio.AbstractEventLoop, changed: threading.Condition) -> None:
        self._socket, self._loop, self._changed = socket, loop, changed
        self.headers = dict(socket.request.headers.raw_items()) if socket.request else {}
        self.messages: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.faults: list[str] = []
        self.close_code: int | None = None

    def send(self, message: dict[str, Any] | str | bytes) -> None:
        """A message, or any frame."""
        frame = json.dumps(message) if isinstance(message, dict) else message
        asyncio.run_coroutine_threadsafe(self._socket.send(frame), self._loop).result(WAIT_S)

    def close(self, code: int = 1001) -> None:
        """End it from this side."""
        asyncio.run_coroutine_threadsafe(self._socket.close(code), self._loop).result(WAIT_S)

    def wait(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = WAIT_S) -> dict[str, Any]:
        """The first message of the session that is wanted; AssertionError when none comes."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.faults or any(map(wanted, self.messages)), timeout), self.kinds()
            assert not self.faults, self.faults
            return next(filter(wanted, self.messages))

    def wait_closed(self, timeout: float = WAIT_S) -> int:
        """The close code."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.close_code is not None, timeout), "the session is still open"
            assert self.close_code is not None
            return self.close_code

    def kinds(self) -> list[str]:
        """The types of all messages, in order; a state behind its update, a status behind its drain."""
        return [
            " ".join(str(m[part]) for part in ("type", "state", "status") if part in m and m["type"] != "heartbeat") or m["type"]
            for m in self.messages
        ]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All messages of a type."""
        return [message for message in self.messages if message["type"] == kind]


class ReferenceCoordinator:
    """heartbeat_s: asked for in hello_ack. known: provider ids; None knows everybody. token: wanted as a bearer token. silent: no
    hello_ack is ever sent. port: 0 takes a free one.

    connections counts every TCP connection, with or without a WebSocket handshake: the proof that nobody joined.
    """

    def __init__(
        self, *, heartbeat_s: float = 30.0, known: Collection[str] | None = None, token: str = "", silent: bool = False, port: int = 0
    ) -> None:
        self._heartbeat_s, self._known, self._token, self._silent, self.port = heartbeat_s, known, token, silent, port
        self.connections = 0
        self.refused = 0
        self.sessions: list[PoolSession] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="reference coordinator", daemon=True)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/providers"

    def __enter__(self) -> ReferenceCoordinator:
        self._thread.start()
        assert self._ready.wait(WAIT_S), "the coordinator does not listen"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def session(self, number: int = 0, timeout: float = WAIT_S) -> PoolSession:
        """The n-th session, from 0, once its provider said hello."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.sessions) > number and self.sessions[number].messages, timeout), "nobody joined"
            return self.sessions[number]

    def wait_connections(self, number: int, timeout: float = WAIT_S) -> None:
        """Wait for that many TCP connections."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.connections >= number, timeout), self.connections

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server: Server = await serve(
            self._talk,
            "127.0.0.1",
            self.port,
            create_connection=self._counted(),
            process_request=self._admit,
            close_timeout=1,
            logger=_quiet(),
        )
        async with server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._ready.set()
            await self._end.wait()

    def _counted(self) -> type[ServerConnection]:
        coordinator = self

        class Counted(ServerConnection):
            def connection_made(self, transport: Any) -> None:
                with coordinator._changed:
                    coordinator.connections += 1
                    coordinator._changed.notify_all()
                super().connection_made(transport)

        return Counted

    def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        if self._token and request.headers.get("Authorization") != f"Bearer {self._token}":
            self.refused += 1
            return socket.respond(HTTPStatus.UNAUTHORIZED, "who are you?\n")
        return None

    async def _talk(self, socket: ServerConnection) -> None:
        session = PoolSession(socket, self._loop, self._changed)
        self.sessions.append(session)
        try:
            async for frame in socket:
                message = from_provider(frame)
                if isinstance(message, Nak) and json.loads(frame).get("type") != "nak":
                    self._note(session, fault=message.reason)
                    continue
                self._note(session, message=json.loads(frame))
                if message.type == "hello":
                    if self._known is not None and message.provider_id not in self._known:
                        await socket.close(4002, "unknown provider id")
                    elif not self._silent:
                        await socket.send(json.dumps({"type": "hello_ack", "heartbeat_interval_s": self._heartbeat_s}))
        except ConnectionClosed:
            pass
        with self._changed:
            session.close_code = socket.close_code or 1006
            self._changed.notify_all()

    def _note(self, session: PoolSession, *, message: dict[str, Any] | None = None, fault: str = "") -> None:
        with self._changed:
            if message is not None:
                session.messages.append(message)
                session.times.append(time.monotonic())
            if fault:
                session.faults.append(fault)
            self._changed.notify_all()
