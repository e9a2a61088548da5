"""Single questions to a child: blocking, for loading and tests of readiness, never for answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any

from macprovider.engines.base import EngineError

TIMEOUT_S = 30.0


class NoAnswer(EngineError):
    """The child does not listen yet, or gave no proper answer."""


def fetch(port: int, path: str, key: str = "", body: Mapping[str, Any] | None = None, timeout_s: float = TIMEOUT_S) -> bytes:
    """The body of a 200 answer of 127.0.0.1; a POST where `body` is given. Raises NoAnswer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body), {**headers, "Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"Port {port} gave no answer to {path}: {error or type(error).__name__}.") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise NoAnswer(f"Port {port} answered {path} with HTTP status {answer.status}: {content[:300].decode('utf-8', 'replace')}")
    return content


def fetch_json(port: int, path: str, key: str = "", body: Mapping[str, Any] | None = None) -> Any:
    """`fetch` of JSON. Raises NoAnswer."""
    try:
        return json.loads(fetch(port, path, key, body))
    except ValueError as error:
        raise NoAnswer(f"Port {port} answered {path} with no JSON ({error}).") from error


def answers(port: int, path: str) -> bool:
    """Whether `path` is answered with 200 by now."""
    try:
        fetch(port, path, timeout_s=5.0)
    except NoAnswer:
        return False
    return True
