"""One answer: the engine's tokens become text, without special tokens and stops, with tool calls and log-probabilities set apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from macprovider.codec import Codec, StopText
from macprovider.engines.base import FinishReason, Token
from macprovider.serving.tool_calls import MARKERS, ToolCall, ToolCallParser
from macprovider.serving.tools import ToolUse


class Delta(NamedTuple):
    """What an answer has gained. finish: the reason in OpenAI's words, when this is its end. first_call: number of the first of
    `calls`. tokens: those whose log-probabilities are due, with the character at which each begins in the answer."""

    text: str
    finish: str | None = None
    calls: Sequence[ToolCall] = ()
    first_call: int = 0
    tokens: Sequence[tuple[Token, int]] = ()


class Answer:
    """index: its number in the response. It is fed on the event loop and remembers nothing but what it must hold back."""

    def __init__(self, index: int, codec: Codec, stops: Sequence[str], tools: ToolUse | None, logprobs: bool) -> None:
        self.index = index
        self.completion_tokens = 0
        self.finish: str | None = None
        self.logprobs = logprobs
        self._detokeniser = codec.detokeniser(MARKERS if tools else ())
        self._stops = StopText(stops) if stops else None
        self._calls = ToolCallParser(tools.names, parallel=tools.parallel) if tools else None
        self._due: deque[tuple[Token, int]] | None = deque() if logprobs else None
        self._codec = codec
        self._seen = 0  # characters decoded
        self._out = 0  # characters that are out

    def push(self, tokens: Sequence[Token]) -> Delta:
        """Further tokens. `finish` of the result is set when a stop text ended the answer here."""
        self.completion_tokens += len(tokens)
        if self._due is not None:
            return self._push_with_logprobs(tokens)
        text = self._detokeniser.push([token.id for token in tokens])
        if self._stops is None and self._calls is None:
            return Delta(text)
        return self._filtered(text, None)

    def end(self, reason: FinishReason) -> Delta:
        """The engine has ended the answer."""
        return self._filtered(self._detokeniser.finish(), reason)

    def _push_with_logprobs(self, tokens: Sequence[Token]) -> Delta:
        assert self._due is not None
        text = ""
        for token in tokens:
            if token.id not in self._codec.specials:
                self._due.append((token, self._seen))
            piece = self._detokeniser.push([token.id])
            self._seen += len(piece)
            text += piece
        return self._filtered(text, None)

    def _filtered(self, text: str, reason: FinishReason | None) -> Delta:
        finish = None if reason is None else "length" if reason == "length" else "stop"
        if self._stops is not None:
            text = self._stops.push(text)
            if self._stops.stopped:
                finish = "stop"
            elif reason is not None:
                text += self._stops.finish()
        self._out += len(text)
        calls: list[ToolCall] = []
        first = 0
        if self._calls is not None:
            first = self._calls.calls
            text, calls = self._calls.push(text)
            if finish is not None:
                rest, more = self._calls.finish()
                text, calls = text + rest, calls + more
            if finish == "stop" and self._calls.calls:
                finish = "tool_calls"
        self.finish = finish
        return Delta(text, finish, calls, first, self._released(finish))

    def _released(self, finish: str | None) -> Sequence[tuple[Token, int]]:
        """Tokens of which some text is out; at an end without a stop text, all."""
        if not self._due:
            return ()
        everything = finish is not None and not (self._stops is not None and self._stops.stopped)
        out = []
        while self._due and (everything or self._due[0][1] < self._out):
            out.append(self._due.popleft())
        return out
