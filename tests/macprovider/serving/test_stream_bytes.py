"""The bytes of a stream, and of errors inside one, as a client without a library reads them. (spec 3.1)"""

from __future__ import annotations

import json
from typing import Any

from helpers.raw_http import dechunked, post_raw
from helpers.serve_scripts import say
from helpers.served import Served


def stream_of(server: Served, path: str = "/v1/chat/completions", **fields: Any) -> tuple[bytes, list[bytes]]:
    """(response head, the events without their empty lines)."""
    prompt = {"messages": say("h")} if "chat" in path else {"prompt": "h", "max_tokens": 20}
    body = {"model": server.model, "stream": True, "temperature": 0, **prompt, **fields}
    with post_raw(server.port, path, body, {"Connection": "close"}) as connection:
        content = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, rest = content.partition(b"\r\n\r\n")
    text = dechunked(rest)
    assert text.endswith(b"\n\n") and b"\r" not in text
    return head.lower(), text[:-2].split(b"\n\n")


def test_a_chat_stream_has_exactly_the_shape_of_the_contract(server: Served) -> None:
    head, events = stream_of(server, n=2, stream_options={"include_usage": False})
    assert head.startswith(b"http/1.1 200") and b"content-type: text/event-stream; charset=utf-8" in head
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    assert events[-1] == b"data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"} and len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"] == [] and {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(chunks[-1]["usage"])
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    for index in (0, 1):
        own = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == index]
        assert own[0]["delta"]["role"] == "assistant" and all("role" not in choice["delta"] for choice in own[1:])
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + ["stop"]
        assert "".join(choice["delta"].get("content", "") for choice in own) == "The quick brown fox"


def test_a_completion_stream_ends_the_same_way(server: Served) -> None:
    _, events = stream_of(server, "/v1/completions")
    chunks = [json.loads(event[6:]) for event in events[:-1]]
    assert events[-1] == b"data: [DONE]" and chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 4
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]][-1] == "stop"


def test_a_refused_stream_has_a_status_and_no_events(server: Served) -> None:
    with post_raw(
        server.port, "/v1/chat/completions", {"model": server.model, "messages": [], "stream": True}, {"Connection": "close"}
    ) as connection:
        content = b"".join(iter(lambda: connection.recv(65536), b""))
    assert content.startswith(b"HTTP/1.1 400") and b"data:" not in content and b"application/json" in content
