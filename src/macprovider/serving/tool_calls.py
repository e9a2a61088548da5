"""Tool calls in a model's text, found while the text arrives.

Three families of models, three ways to write a call; which one is seen from the text itself:

- Hermes, Qwen: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number, text may stand around them;
- Mistral: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]` or `[TOOL_CALLS]name[ARGS]{...}`, up to the end;
- Llama 3: the whole answer is `{"name": ..., "parameters": {...}}`, possibly after `<|python_tag|>`, calls separated by `;`.

A held answer (the call was demanded and its JSON enforced) has the third form. What only looks like a call and is none stays text.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import orjson

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MISTRAL, ARGS = "[TOOL_CALLS]", "[ARGS]"
PYTHON_TAG = "<|python_tag|>"
MARKERS = (OPEN, MISTRAL, PYTHON_TAG)
"""Texts that begin calls; a tokenizer that has them as special tokens must not strip them from the text given here."""
JSON_STARTS = ('{"name"', '{"type"', '{"parameters"', '{"arguments"')
"""How a bare call begins, white space aside; an answer that begins so is held until its end decides what it is."""


class ToolCall(NamedTuple):
    """arguments: JSON text."""

    id: str
    name: str
    arguments: str


class ToolCallParser:
    """Feed it the text as it comes: `push` gives what is plain text by now and the calls that are complete."""

    def __init__(self, names: frozenset[str], *, parallel: bool = True) -> None:
        self._names = names
        self._parallel = parallel
        self._held = ""
        self._begun = False  # it is known how the answer begins
        self._after_call = False  # white space behind a call is layout, not an answer
        self._to_end = False  # a call's text that ends only with the answer
        self.calls = 0

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """(plain text, complete calls) that the answer has gained."""
        self._held += text
        plain = ""
        calls: list[ToolCall] = []
        while self._held and not self._to_end and self._known_beginning():
            start, to_end = self._held.find(OPEN), _first(self._held, (MISTRAL, PYTHON_TAG))
            if to_end >= 0 and (start < 0 or to_end < start):
                plain += self._gained(to_end)
                self._to_end = True
                break
            if start < 0:
                plain += self._gained(len(self._held) - _marker_begun(self._held))
                break
            plain += self._gained(start)
            end = self._held.find(CLOSE)
            if end < 0:
                break
            found = self._calls_in(self._held[len(OPEN) : end])
            if found:
                self._held, self._after_call = self._held[end + len(CLOSE) :], True
                calls += found
            else:
                plain += self._gained(end + len(CLOSE))
        return plain, self._counted(calls)

    def finish(self) -> tuple[str, list[ToolCall]]:
        """The same for what was held back when the answer ended."""
        body = self._held.strip()
        if body.startswith(MISTRAL):
            calls = _mistral(body, self._names)
        elif self._begun and not body.startswith((OPEN, PYTHON_TAG)):
            calls = []
        else:
            calls = self._calls_in(body.removeprefix(OPEN).removeprefix(PYTHON_TAG))
        return ("" if calls else self._gained(len(self._held))), self._counted(calls)

    def _known_beginning(self) -> bool:
        """False while the answer may still be nothing but a bare call, or white space before a call."""
        if self._begun:
            return True
        lead = self._held.lstrip()
        bare = "".join(lead[:200].split())
        if any(bare.startswith(start) or start.startswith(bare) for start in JSON_STARTS) or any(m.startswith(lead) for m in MARKERS):
            self._begun = lead.startswith(MARKERS)
        else:
            self._begun = True
        if lead.startswith(MARKERS):
            self._held = lead
        return self._begun

    def _gained(self, length: int) -> str:
        """Take so many characters of what is held as plain text."""
        text, self._held = self._held[:length], self._held[length:]
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        return text

    def _calls_in(self, text: str) -> list[ToolCall]:
        """Calls written as JSON objects, one after the other or in a list; none when any of it is something else."""
        calls = []
        for value in _json_values(text):
            for item in value if isinstance(value, list) else [value]:
                call = _call_of(item, self._names)
                if call is None:
                    return []
                calls.append(call)
        return calls

    def _counted(self, calls: list[ToolCall]) -> list[ToolCall]:
        if not self._parallel:
            calls = calls[: max(0, 1 - self.calls)]
        self.calls += len(calls)
        return calls


def _first(text: str, marks: tuple[str, ...]) -> int:
    """Where the first of the marks stands, -1 for nowhere."""
    return min((at for at in map(text.find, marks) if at >= 0), default=-1)


def _marker_begun(text: str) -> int:
    """Length of the longest end of `text` that may be the beginning of a marker."""
    for length in range(min(len(text), max(map(len, MARKERS)) - 1), 0, -1):
        if any(marker.startswith(text[-length:]) for marker in MARKERS):
            return length
    return 0


def _json_values(text: str) -> list[Any]:
    """The JSON values in `text`, separated by white space, `;` or `,`; empty when any part is no JSON."""
    import json

    decoder = json.JSONDecoder(parse_constant=_no_number)
    values: list[Any] = []
    at = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n;,":
            at += 1
        if at >= len(text):
            return values
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        values.append(value)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _call_of(value: Any, names: frozenset[str]) -> ToolCall | None:
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the arguments as JSON inside JSON
        parsed = _json_values(arguments)
        arguments = parsed[0] if len(parsed) == 1 else arguments
    text = _json_text(arguments) if isinstance(arguments, dict) else None
    return None if text is None else ToolCall(f"call_{secrets.token_hex(12)}", name, text)


def _json_text(value: Any) -> str | None:
    """JSON of what a model wrote: with whole numbers of any size, and half a surrogate pair as its escape. None beyond Python's depth."""
    import json

    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        pass
    try:
        return json.dumps(value, separators=(",", ":"))
    except RecursionError:
        return None


def _mistral(text: str, names: frozenset[str]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for part in text.split(MISTRAL)[1:]:
        if ARGS in part:
            name, _, arguments = part.partition(ARGS)
            values: list[Any] = [{"name": name.strip(), "arguments": value} for value in _json_values(arguments)]
        else:
            values = [item for value in _json_values(part) for item in (value if isinstance(value, list) else [value])]
        found = [_call_of(value, names) for value in values]
        if not found or None in found:
            return []
        calls += [call for call in found if call is not None]
    return calls
