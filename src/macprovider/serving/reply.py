"""Reading a request's body and sending a response, over plain ASGI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from macprovider.serving.errors import ApiError
from macprovider.serving.exchange import ClientGone

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"


async def read_body(scope: Any, receive: Any, limit: int) -> bytes:
    """The body. Raises ApiError 413 as soon as it is known to be longer than `limit` bytes: by its announced length before any of it
    is read, else when the limit is passed; ClientGone when the client leaves meanwhile."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    if length.isdigit() and int(length) > limit:
        raise _too_long(limit)
    parts, total = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        total += len(parts[-1])
        if total > limit:
            raise _too_long(limit)
        if not message.get("more_body", False):
            return b"".join(parts)


async def send_body(send: Any, status: int, body: bytes, media: bytes = JSON, headers: Mapping[str, str] | None = None) -> None:
    """One whole response."""
    extra = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    start = [(b"content-type", media), (b"content-length", str(len(body)).encode()), *extra]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Any, error: ApiError) -> None:
    """The envelope of an error."""
    await send_body(send, error.status, error.body(), headers=error.headers)


async def begin_stream(send: Any) -> None:
    """The head of an event stream; no cache or proxy is to keep it back."""
    headers = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def _too_long(limit: int) -> ApiError:
    message = f"The body is longer than {limit} bytes, which is this server's limit (max_request_body_bytes)."
    return ApiError(413, "request_too_large", message)
