"""Slots, the queue, 429, clients that leave, bodies that are too long, readers that do not read: real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest

from helpers.raw_http import call, eventually, get, post_raw, read_until
from helpers.serve_scripts import say
from helpers.served import Served

CHAT = "/v1/chat/completions"
SLOTS, QUEUE = 2, 3


def body(server: Served, letter: str = "e", **fields: Any) -> dict[str, Any]:
    return {"model": server.model, "messages": say(letter), "temperature": 0, **fields}


def load(server: Served) -> tuple[int, int]:
    """(answers in flight, requests waiting)."""
    health = get(f"{server.url}/v1/health")[1]
    return health["requests_in_flight"], health["requests_queued"]


@pytest.fixture(autouse=True)
def idle_before_and_after(server: Served) -> Iterator[None]:
    """No test leaves anything running."""
    assert eventually(lambda: load(server) == (0, 0))
    yield
    assert eventually(lambda: load(server) == (0, 0)), load(server)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(server: Served, stream: bool) -> None:
    connection = post_raw(server.port, CHAT, body(server, stream=stream))
    if stream:
        read_until(connection, b"once more")
    assert eventually(lambda: load(server) == (1, 0))
    connection.close()
    assert eventually(lambda: load(server) == (0, 0), 5)
    assert server.entries("request")[-1]["status"] == 499


def test_a_client_that_leaves_the_queue_is_forgotten_and_order_is_kept(server: Served) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(post_raw(server.port, CHAT, body(server, stream=True))) for _ in range(SLOTS)]
        assert eventually(lambda: load(server) == (SLOTS, 0))
        waiting = []
        for index, letter in enumerate("hhu"):
            waiting.append(stack.enter_context(post_raw(server.port, CHAT, body(server, letter))))
            assert eventually(lambda index=index: load(server) == (SLOTS, index + 1))
        waiting[0].close()
        assert eventually(lambda: load(server) == (SLOTS, 2), 5)
        running[0].close()
        assert b"quick brown fox" in read_until(waiting[1], b"usage")
        assert "café".encode() in read_until(waiting[2], b"usage")
        running[1].close()


def test_beyond_the_queue_a_client_is_told_when_to_come_again(client: Any, server: Served) -> None:
    with ExitStack() as stack:
        for _ in range(SLOTS + QUEUE):
            stack.enter_context(post_raw(server.port, CHAT, body(server)))
        assert eventually(lambda: load(server) == (SLOTS, QUEUE))
        status, document, headers = call("POST", server.url + CHAT, body(server, "h"))
        assert (status, document["error"]["code"], document["error"]["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
        assert 1 <= int(headers["retry-after"]) <= 600
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model=server.model, messages=say("h"))
        # what is wrong with a request is said before that there is no room for it
        assert call("POST", server.url + CHAT, body(server, "h", n=0))[0] == 400


def test_more_answers_than_slots_are_made_one_after_the_other(client: Any, server: Served) -> None:
    answer = client.chat.completions.create(**body(server, "h"), n=2 * (SLOTS + QUEUE))
    assert {choice.message.content for choice in answer.choices} == {"The quick brown fox"}


def test_answers_of_one_request_are_all_given_up_with_it(server: Served) -> None:
    with post_raw(server.port, CHAT, body(server, n=6, stream=True)) as connection:
        read_until(connection, b"once more")
        assert eventually(lambda: load(server)[0] == SLOTS)


def test_a_body_over_the_limit_is_refused_before_it_is_read(server: Served) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 1000000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"{")
        content = read_until(connection, b"}}")
    assert content.startswith(b"HTTP/1.1 413") and json.loads(content.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"


def test_a_chunked_body_over_the_limit_is_refused(server: Served) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode())
        for _ in range(30):
            connection.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        assert read_until(connection, b"}}").startswith(b"HTTP/1.1 413")


def test_a_client_library_reads_the_refusal_of_its_long_body(client: Any, server: Served) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(**body(server) | {"messages": say("x" * 300_000)})
    assert error.value.status_code == 413


def test_a_reader_that_does_not_read_stalls_nobody(client: Any, server: Served) -> None:
    """Its answer is computed to the end, its slot is free, and the text waits as tokens."""
    lazy = socket.socket()
    lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lazy.connect(("127.0.0.1", server.port))
    told = get(f"{server.url}/v1/engine")[1]["facts"]["features"]
    more = {"top_logprobs": 5} if "top_logprobs" in told else {}
    data = json.dumps(body(server, stream=True, logprobs=True, max_tokens=2000, **more)).encode()
    lazy.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    assert client.chat.completions.create(**body(server, "h")).choices[0].message.content == "The quick brown fox"
    assert eventually(lambda: load(server) == (0, 0), 60)
    lazy.settimeout(60)
    content = b""
    while b"[DONE]" not in content[-200:]:
        content += lazy.recv(1 << 20)
    assert content.count(b'"logprob"') >= 2000
    lazy.close()


def test_pipelined_and_kept_alive_connections_work(server: Served) -> None:
    data = json.dumps(body(server, "h")).encode()
    one = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(one + one)
        content = b""
        while content.count(b'"total_tokens"') < 2:
            content += connection.recv(65536)
    assert content.count(b"HTTP/1.1 200") == 2
