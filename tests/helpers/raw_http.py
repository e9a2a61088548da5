"""HTTP by hand, for what a client library hides: the bytes of a response, and clients that leave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """(status, document or text) of a GET."""
    return call("GET", url, headers=headers)[:2]


def call(method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
    """(status, document or text, headers in lower case). body: bytes, or what becomes JSON."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = Request(url, data=data, method=method, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urlopen(request, timeout=60) as response:
            status, content, found = response.status, response.read(), response.headers
    except HTTPError as error:
        status, content, found = error.code, error.read(), error.headers
    lowered = {name.lower(): value for name, value in found.items()}
    return status, json.loads(content) if "json" in lowered.get("content-type", "") else content.decode(), lowered


def post_raw(port: int, path: str, body: Any, headers: dict[str, str] | None = None) -> socket.socket:
    """Send a POST and return the socket, nothing read."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(head.encode() + data)
    return connection


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """Everything up to the first read that holds `mark`. Raises AssertionError when the server closes first."""
    content = b""
    while mark not in content:
        part = connection.recv(65536)
        assert part, f"the server closed before {mark!r}: {content[-500:]!r}"
        content += part
    return content


def dechunked(body: bytes) -> bytes:
    """The content of a chunked body."""
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return out
        out, body = out + body[:length], body[length + 2 :]
    return out


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether something becomes true before `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return holds()
