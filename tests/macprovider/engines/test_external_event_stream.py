"""The event stream's parser, wherever the network cuts a response."""

from __future__ import annotations

import asyncio

import pytest

from macprovider.engines.external.event_stream import EventStream, open_stream, request_bytes

EVENTS = [b'{"a": 1}', '{"text": "é 🙂"}'.encode(), b'{"b": "' + b"x" * 300 + b'"}', b'{"c": 3}']


class Heard:
    """What a stream told."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.ends: list[tuple[str, bool]] = []

    def event(self, data: bytes) -> None:
        self.events.append(data)

    def ended(self, error: str, lost: bool) -> None:
        self.ends.append((error, lost))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunked(*parts: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(map(chunk, parts)) + b"0\r\n\r\n"


def feed(response: bytes, sizes: int, close: bool = True) -> Heard:
    heard = Heard()
    stream = EventStream(b"", heard)
    for begin in range(0, len(response), sizes):
        part = response[begin : begin + sizes]
        stream.get_buffer(-1)[: len(part)] = part
        stream.buffer_updated(len(part))
    if close:
        stream.connection_lost(None)
    return heard


ONE_EACH = chunked(*(b"data: " + event + b"\n\n" for event in EVENTS), b"data: [DONE]\n\n")
TOGETHER = chunked(
    b"".join(b"data: " + event + b"\n\n" for event in EVENTS[:2]) + b": note\n\nda",
    b"ta: " + EVENTS[2] + b"\n",
    b"\ndata: " + EVENTS[3] + b"\n\n",
)
TO_THE_CLOSE = b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\n\r\n" + b"".join(b"data: " + event + b"\n\n" for event in EVENTS)


@pytest.mark.parametrize("response", [ONE_EACH, TOGETHER, TO_THE_CLOSE], ids=["one each", "together", "to the close"])
def test_events_are_whole_wherever_they_are_cut(response: bytes) -> None:
    for sizes in (*range(1, 80), len(response)):
        heard = feed(response, sizes)
        assert heard.events == EVENTS, sizes
        assert heard.ends == [("", False)], sizes


def test_a_token_in_a_read_of_its_own_is_heard_at_once() -> None:
    head, body = ONE_EACH.split(b"\r\n\r\n", 1)
    heard = Heard()
    stream = EventStream(b"", heard)
    parts = [head + b"\r\n\r\n", *(chunk(b"data: " + event + b"\n\n") for event in EVENTS)]
    for place, part in enumerate(parts):
        stream.get_buffer(-1)[: len(part)] = part
        stream.buffer_updated(len(part))
        assert heard.events == EVENTS[:place]
    assert body.startswith(parts[1])


@pytest.mark.parametrize(
    ("response", "error", "lost"),
    [
        (b'HTTP/1.1 400 Bad Request\r\nContent-Length: 20\r\n\r\n{"error": "too long"}', 'status 400: {"error": "too long"}', False),
        (b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwait\r\n0\r\n\r\n", "status 503: wait", False),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP", False),
        (ONE_EACH[:-40], "in the middle of an answer", True),
        (b"", "in the middle of an answer", True),
    ],
)
def test_whatever_is_no_whole_answer_ends_in_one_error(response: bytes, error: str, lost: bool) -> None:
    for sizes in (1, 7, 10_000):
        heard = feed(response, sizes)
        assert len(heard.ends) == 1 and error in heard.ends[0][0] and heard.ends[0][1] is lost


def test_nothing_is_heard_after_a_close() -> None:
    heard = Heard()
    stream = EventStream(b"", heard)
    stream.close()
    stream.get_buffer(-1)[: len(TOGETHER)] = TOGETHER
    stream.buffer_updated(len(TOGETHER))
    stream.connection_lost(None)
    assert (heard.events, heard.ends) == ([], [])


def test_a_real_connection_carries_the_request_and_its_key() -> None:
    async def talk() -> tuple[bytes, Heard]:
        got = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.set_result(await reader.readuntil(b"{}"))
            writer.write(ONE_EACH)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        heard = Heard()
        open_stream(asyncio.get_running_loop(), port, request_bytes(port, "/completion", "secret", b"{}"), heard)
        request = await asyncio.wait_for(got, 20)
        while not heard.ends:
            await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()
        refused = Heard()
        open_stream(asyncio.get_running_loop(), port, b"", refused)
        while not refused.ends:
            await asyncio.sleep(0.01)
        assert refused.ends[0][1] and "takes no connection" in refused.ends[0][0]
        return request, heard

    request, heard = asyncio.run(talk())
    assert b"Authorization: Bearer secret\r\n" in request and b"Content-Length: 2\r\n" in request
    assert heard.events == EVENTS
