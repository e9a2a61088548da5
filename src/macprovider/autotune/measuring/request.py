"""One streaming request against a candidate, timed. (specs/autotune.md, 5.3)

The request runs in a thread of its own, so that the run can notice a signal, the end of its budget or the death of the
candidate at any moment, and break the connection off.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from macprovider.autotune.measuring import sse
from macprovider.autotune.measuring.measure import Replicate
from macprovider.autotune.watch import Watch

HOST = "127.0.0.1"
JOIN_S = 0.05
BODY_CHARACTERS = 300


@dataclass
class _Stream:
    """What has come so far."""

    text: list[str] = field(default_factory=list)
    first_at: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ended: bool = False
    error: str = ""
    status: int | None = None


@dataclass(frozen=True)
class Answer:
    """A request and its answer. status: of HTTP, None when there was no answer at all."""

    replicate: Replicate
    text: str
    status: int | None


class StreamingRequest:
    """Sends at construction; `wait` gives the answer. leaks: texts that no answer may contain."""

    def __init__(self, port: int, model: str, prompt: str, max_tokens: int, timeout_s: float, leaks: Iterable[str] = ()) -> None:
        self._body = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": max_tokens,
                "temperature": 0,
                "stream": True,
            }
        ).encode()
        self._leaks, self._timeout_s = tuple(leaks), timeout_s
        self._connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
        self._stream = _Stream()
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="measured request", daemon=True)
        self._thread.start()

    def wait(self, watch: Watch) -> Answer:
        """The answer, at the latest after the timeout. Raises like `Watch.check`; the request is then broken off."""
        try:
            while self._thread.is_alive():
                self._thread.join(JOIN_S)
                watch.check()
                if self._thread.is_alive() and time.perf_counter() - self._started > self._timeout_s:
                    self._given_up = True
                    break
        finally:
            self._break_off()
        return self._answer()

    def _run(self) -> None:
        stream = self._stream
        try:
            self._connection.connect()
            self._started = time.perf_counter()
            self._connection.request("POST", "/v1/chat/completions", self._body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            stream.status = response.status
            if not 200 <= response.status < 300:
                stream.error = _refusal(response.status, response.read(1 << 16))
            else:
                self._read(stream, response)
        except TimeoutError:
            self._given_up = True
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:  # AttributeError: broken off while it connects
            stream.error = stream.error or f"the connection broke ({_words(error)})"
        finally:
            self._seconds = time.perf_counter() - self._started

    def _read(self, stream: _Stream, response: http.client.HTTPResponse) -> None:
        for event in sse.events(response):
            if isinstance(event, str):
                stream.ended = True
                return
            stream.error = stream.error or sse.error_of(event)
            content = sse.content_of(event)
            if content:
                stream.first_at = stream.first_at or time.perf_counter()
                stream.text.append(content)
            stream.ended = stream.ended or sse.finished(event)
            for name in ("prompt_tokens", "completion_tokens"):
                setattr(stream, name, sse.count_of(event, name) if sse.count_of(event, name) is not None else getattr(stream, name))

    def _break_off(self) -> None:
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._connection.close()

    def _answer(self) -> Answer:
        stream = self._stream
        text = "".join(stream.text)
        replicate = Replicate(
            ttft_ms=None if stream.first_at is None else (stream.first_at - self._started) * 1000,
            seconds=self._seconds,
            prompt_tokens=stream.prompt_tokens,
            completion_tokens=stream.completion_tokens,
            error=self._error(stream),
            leak=next((leak for leak in self._leaks if leak in text), ""),
        )
        return Answer(replicate, text, stream.status)

    def _error(self, stream: _Stream) -> str:
        if self._given_up:
            return f"no whole answer within {self._timeout_s:.0f}s"
        if stream.error:
            return stream.error
        if not stream.text:
            return "the answer has no content"
        return "" if stream.ended else "the answer broke off before its end"


def get_json(port: int, path: str, timeout_s: float) -> tuple[int, Any]:
    """(HTTP status, decoded body or None). Raises OSError when nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        data = response.read(1 << 20)
    except http.client.HTTPException as error:
        raise OSError(_words(error)) from error
    finally:
        connection.close()
    try:
        return response.status, json.loads(data)
    except ValueError:
        return response.status, None


def _refusal(status: int, body: bytes) -> str:
    try:
        told = sse.error_of(json.loads(body))
    except ValueError:
        told = body.decode("utf-8", errors="replace")
    told = " ".join(told.split())[:BODY_CHARACTERS]
    return f"HTTP {status}: {told}" if told else f"HTTP {status}"


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:BODY_CHARACTERS]
