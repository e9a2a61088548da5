"""One POST and its server-sent events, on an event loop: no task and no buffer copies for a token, a close that reaches the server.

A general HTTP client costs as much for a token as the whole rest of its way through our server, so this one knows just what the three
servers send: HTTP/1.1 with a chunked body (llama-server, vLLM) and HTTP/1.0 with a body up to the close (mlx-lm).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

BUFFER = 1 << 14
"""Bytes of one read; a token's event has a few hundred, the last one of llama-server a few thousand."""
HEADERS_LIMIT = 1 << 16
"""Bytes of a response's head; no server sends so many."""


class Reader(Protocol):
    """Hears one response, on the loop."""

    def event(self, data: bytes) -> None:
        """The data of one event, never `[DONE]`."""

    def ended(self, error: str, lost: bool) -> None:
        """The last call: the response is complete, or `error` says why it is not. lost: the connection was. Never after
        `EventStream.close`."""


class EventStream(asyncio.BufferedProtocol):
    """See `open_stream`. Buffered: asyncio otherwise makes room for 256 KiB at every read of a hundred bytes."""

    def __init__(self, request: bytes, reader: Reader) -> None:
        self._request, self._reader = request, reader
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(BUFFER)
        self._raw = bytearray()  # bytes as they came
        self._body = bytearray()  # without the chunks' borders
        self._status = 0
        self._chunked = False
        self._left = 0  # bytes of the chunk that are still to come, its line end included
        self._done = False
        self.connecting: asyncio.Task[None] | None = None  # kept here, since the loop holds tasks weakly

    @property
    def status(self) -> int:
        """Of the response; 0 before its head."""
        return self._status

    def close(self) -> None:
        """Leave: nothing more is heard, and the server finds the connection gone."""
        self._done = True
        if self._transport is not None:
            self._transport.abort()

    def fail(self, error: str, *, lost: bool = False) -> None:
        """End it with an error."""
        if not self._done:
            self._done = True
            self._reader.ended(error, lost)

    # ------------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._done:
            transport.abort()
        else:
            transport.write(self._request)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._done:
            return
        data = bytes(memoryview(self._buffer)[:nbytes])
        if self._usual(data):
            return
        self._raw += data
        if not self._status and not self._head():
            return
        if self._chunked:
            self._dechunk()
        else:
            self._body += self._raw
            self._raw.clear()
        if self._status == 200:
            self._events()

    def connection_lost(self, error: Exception | None) -> None:
        if self._done:
            return
        if self._status and self._status != 200:
            self.fail(f"it answered with HTTP status {self._status}: {self._body[:1000].decode('utf-8', 'replace').strip()}")
        elif self._status and not self._chunked and error is None:
            self._finish()  # a body without a length ends where the connection does
        else:
            self.fail(f"its connection ended in the middle of an answer ({error or 'closed'})", lost=True)

    # ------------------------------------------------------------------ HTTP

    def _head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            if len(self._raw) > HEADERS_LIMIT:
                self.fail("it answered with something that is not HTTP")
                self.close()
            return False
        lines = bytes(self._raw[:end]).split(b"\r\n")
        del self._raw[: end + 4]
        words = lines[0].split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            self.fail("it answered with something that is not HTTP")
            self.close()
            return False
        self._status = int(words[1])
        headers = {name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in lines[1:])}
        self._chunked = headers.get(b"transfer-encoding") == b"chunked"
        return True

    def _usual(self, data: bytes) -> bool:
        """Whether `data` was one whole chunk with one whole event, as it is for nearly every token; its reader has heard it then."""
        if self._status != 200 or not self._chunked or self._raw or self._body or self._left:
            return False
        end = data.find(b"\r\n")
        whole = data.startswith(b"data: ", end + 2) and data.find(b"\n\n") == len(data) - 4 and data.endswith(b"\n\n\r\n")
        if not whole or data.startswith(b"[DONE]", end + 8) or not _is_size(data[:end], len(data) - end - 4):
            return False
        self._reader.event(data[end + 8 : -4])
        return True

    def _dechunk(self) -> None:
        raw = self._raw
        while raw:
            if self._left:
                taken = min(self._left, len(raw))
                kept = min(taken, self._left - 2) if self._left > 2 else 0
                self._body += raw[:kept]
                del raw[:taken]
                self._left -= taken
                continue
            end = raw.find(b"\r\n")
            if end < 0:
                return
            size = int(bytes(raw[:end]).split(b";")[0], 16)
            del raw[: end + 2]
            if size == 0:
                self._last_chunk()
                return
            self._left = size + 2

    def _last_chunk(self) -> None:
        if self._status == 200:
            self._events()
            self._finish()
        else:
            self.connection_lost(None)

    def _events(self) -> None:
        body = self._body
        while not self._done:
            end = body.find(b"\n\n")
            if end < 0:
                return
            lines = bytes(body[:end])
            del body[: end + 2]
            for line in lines.split(b"\n"):
                if line.startswith((b"data:", b"error:")):
                    data = line.split(b":", 1)[1].strip()
                    if data == b"[DONE]":
                        self._finish()
                        return
                    self._reader.event(data)

    def _finish(self) -> None:
        if not self._done:
            self._done = True
            self._reader.ended("", False)
            if self._transport is not None:
                self._transport.close()


def _is_size(line: bytes, size: int) -> bool:
    """Whether a chunk's first line announces `size` bytes."""
    try:
        return int(line, 16) == size
    except ValueError:
        return False


def request_bytes(port: int, path: str, key: str, body: bytes) -> bytes:
    """A POST to 127.0.0.1 of JSON."""
    secret = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{secret}Content-Type: application/json\r\nAccept: text/event-stream\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def open_stream(loop: asyncio.AbstractEventLoop, port: int, request: bytes, reader: Reader) -> EventStream:
    """Begin a request, on the loop; everything else comes by the reader."""
    stream = EventStream(request, reader)

    async def connect() -> None:
        try:
            await loop.create_connection(lambda: stream, "127.0.0.1", port)
        except OSError as error:
            stream.fail(f"it takes no connection ({error.strerror or error})", lost=True)

    stream.connecting = loop.create_task(connect())
    return stream
