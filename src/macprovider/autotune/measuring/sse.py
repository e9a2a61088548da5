"""Reading a stream of server-sent events the way a patient client does. Pure. (specs/autotune.md, 3.1 and 5.3)"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

DONE = "[DONE]"


def events(lines: Iterable[bytes]) -> Iterator[dict[str, Any] | str]:
    """The JSON object of each `data:` line, and `DONE` for the end mark. Comments, other fields, blank and malformed lines are
    passed over.
    """
    for raw in lines:
        line = raw.decode("utf-8", errors="replace").strip("\r\n")
        if not line.startswith("data:"):
            continue
        text = line[len("data:") :].strip()
        if text == DONE:
            yield DONE
            continue
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def content_of(event: dict[str, Any]) -> str:
    """The text that an event adds to the answer; "" for one that adds none, such as a role or the usage."""
    choice = _first_choice(event)
    delta = choice.get("delta")
    content = delta.get("content") if isinstance(delta, dict) else None
    return content if isinstance(content, str) else ""


def finished(event: dict[str, Any]) -> bool:
    """Whether the event carries a reason for the end."""
    return bool(_first_choice(event).get("finish_reason"))


def count_of(event: dict[str, Any], name: str) -> int | None:
    """A number of the event's `usage`, None where it has none."""
    usage = event.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def error_of(body: Any) -> str:
    """The message of an error envelope, "" when it is none."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        return ": ".join(str(part) for part in (code, message) if part) or "an error without a message"
    return str(error) if error else ""


def _first_choice(event: dict[str, Any]) -> dict[str, Any]:
    choices = event.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
