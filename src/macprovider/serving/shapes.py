"""OpenAI's response shapes: a stream's events, made from prefixes that are built once, and the whole body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from macprovider.engines.base import Token
from macprovider.serving.answer import Answer, Delta
from macprovider.serving.errors import ApiError

if TYPE_CHECKING:
    from macprovider.codec import Codec
    from macprovider.serving.exchange import Exchange

DONE = b"data: [DONE]\n\n"


class Shape(Protocol):
    """How one API writes an exchange. Events are whole SSE events, `data: {json}` and an empty line."""

    def opening(self, index: int) -> bytes:
        """What comes before the first delta of an answer, b"" for nothing."""

    def event(self, answer: Answer, delta: Delta) -> bytes:
        """The event, or events, of one delta."""

    def choice(self, answer: Answer, deltas: Sequence[Delta]) -> dict[str, Any]:
        """The entry of a whole body, from all deltas of its answer."""


class Head:
    """What every event of one response begins with, and the usage and body around it."""

    def __init__(self, request_id: str, kind: str, created: int, model: str) -> None:
        self._fields = {"id": request_id, "created": created, "model": model}
        self._kind = kind
        self.chunk = "chat.completion.chunk" if kind == "chat.completion" else kind
        opened = orjson.dumps({"id": request_id, "object": self.chunk, "created": created, "model": model})[:-1]
        self.prefix = b"data: " + opened + b',"choices":[{"index":'

    def usage_event(self, exchange: Exchange) -> bytes:
        """The chunk with `choices: []` and the usage."""
        return sse({**self._fields, "object": self.chunk, "choices": [], "usage": usage(exchange)})

    def body(self, choices: list[dict[str, Any]], exchange: Exchange) -> bytes:
        """The body of an answer that is not streamed."""
        return orjson.dumps({**self._fields, "object": self._kind, "choices": choices, "usage": usage(exchange)})


class ChatShape:
    """`/v1/chat/completions`."""

    def __init__(self, head: Head, codec: Codec) -> None:
        self.head, self._codec = head, codec

    def opening(self, index: int) -> bytes:
        delta = b',"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        return self.head.prefix + str(index).encode() + delta

    def event(self, answer: Answer, delta: Delta) -> bytes:
        begun = self.head.prefix + str(answer.index).encode()
        if delta.finish is None and not delta.calls and not delta.tokens:
            return begun + b',"delta":{"content":' + orjson.dumps(delta.text) + b'},"logprobs":null,"finish_reason":null}]}\n\n'
        out = b""
        if delta.text or delta.tokens:
            logprobs = orjson.dumps(self._logprobs(delta.tokens) if delta.tokens else None)
            content = b',"delta":{"content":' + orjson.dumps(delta.text) + b'},"logprobs":' + logprobs + b',"finish_reason":null}]}\n\n'
            out += begun + content
        for number, call in enumerate(delta.calls, delta.first_call):
            named = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
            argued = {"index": number, "function": {"arguments": call.arguments}}
            for part in (named, argued):
                out += begun + b',"delta":' + orjson.dumps({"tool_calls": [part]}) + b',"logprobs":null,"finish_reason":null}]}\n\n'
        if delta.finish is not None:
            out += begun + b',"delta":{},"logprobs":null,"finish_reason":' + orjson.dumps(delta.finish) + b"}]}\n\n"
        return out

    def choice(self, answer: Answer, deltas: Sequence[Delta]) -> dict[str, Any]:
        text = "".join(delta.text for delta in deltas)
        calls = [call for delta in deltas for call in delta.calls]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
        if calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls
            ]
        tokens = [token for delta in deltas for token in delta.tokens]
        logprobs = self._logprobs(tokens) if answer.logprobs else None
        return {"index": answer.index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}

    def _logprobs(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any]:
        content = []
        for token, _ in tokens:
            top = [self._entry(index, logprob) for index, logprob in token.top]
            content.append({**self._entry(token.id, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _entry(self, index: int, logprob: float | None) -> dict[str, Any]:
        data = self._codec.token_bytes(index)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


class CompletionShape:
    """`/v1/completions`."""

    def __init__(self, head: Head, codec: Codec) -> None:
        self.head, self._codec = head, codec

    def opening(self, index: int) -> bytes:
        return b""

    def event(self, answer: Answer, delta: Delta) -> bytes:
        logprobs = orjson.dumps(self._logprobs(delta.tokens)) if delta.tokens else b"null"
        ending = b',"logprobs":' + logprobs + b',"finish_reason":' + orjson.dumps(delta.finish) + b"}]}\n\n"
        return self.head.prefix + str(answer.index).encode() + b',"text":' + orjson.dumps(delta.text) + ending

    def choice(self, answer: Answer, deltas: Sequence[Delta]) -> dict[str, Any]:
        tokens = [token for delta in deltas for token in delta.tokens]
        return {
            "index": answer.index,
            "text": "".join(delta.text for delta in deltas),
            "logprobs": self._logprobs(tokens) if answer.logprobs else None,
            "finish_reason": answer.finish,
        }

    def _logprobs(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any]:
        top = [{self._text(index): logprob for index, logprob in token.top} for token, _ in tokens]
        return {
            "tokens": [self._text(token.id) for token, _ in tokens],
            "token_logprobs": [token.logprob for token, _ in tokens],
            "top_logprobs": top if any(top) else None,
            "text_offset": [at for _, at in tokens],
        }

    def _text(self, index: int) -> str:
        return self._codec.token_bytes(index).decode("utf-8", "replace")


def usage(exchange: Exchange) -> dict[str, Any]:
    """Tokens of the prompts, of the answers, of both, and how many of the first prompt's came from an earlier request's cache."""
    prompt, completion = exchange.plan.prompt_tokens, exchange.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": exchange.cached_tokens},
    }


def sse(document: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


def error_events(error: ApiError) -> bytes:
    """What ends a stream that failed: the envelope, then `[DONE]`."""
    return sse(error.envelope()) + DONE
