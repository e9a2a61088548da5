"""Before the first client: a question that must be answered, and a few answers to warm up. (spec 3.3)"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from macprovider.codec import Codec
from macprovider.engines.base import Engine, EngineFacts, FinishReason, GenerationRequest, Sampling, Token
from modelwright.errors import ModelwrightError

QUESTION = "Hello"
ANSWER_TOKENS = 5
LIMIT_S = 30.0
WARM_PROMPT, WARM_ANSWER = 48, 4  # tokens


class SelfTestError(ModelwrightError):
    """The loaded model does not answer as it must."""


@dataclass(frozen=True)
class SelfTest:
    """What the model answered. tps: tokens per second of the whole request."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    @property
    def tps(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds > 0 else 0.0


class Collected:
    """A listener for callers that wait."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.reason: FinishReason | None = None
        self.error = ""
        self.done = threading.Event()

    def tokens(self, tokens: Sequence[Token]) -> None:
        self.ids += [token.id for token in tokens]

    def finished(self, reason: FinishReason, error: str = "") -> None:
        self.reason, self.error = reason, error
        self.done.set()


def self_test(engine: Engine, codec: Codec, limit_s: float = LIMIT_S) -> SelfTest:
    """Ask `Hello` for up to five tokens. Raises SelfTestError when nothing came, nothing was counted, a special token leaked into
    the text, or it took too long."""
    text = codec.render([{"role": "user", "content": QUESTION}]) if codec.has_template else QUESTION
    prompt = codec.encode(text, special=not codec.has_template)
    heard = Collected()
    begun = time.monotonic()
    request = GenerationRequest(prompt, ANSWER_TOKENS, Sampling(temperature=0.0), codec.stop_ids)
    ticket = engine.submit(request, heard)
    if not heard.done.wait(limit_s):
        ticket.cancel()
        raise SelfTestError(f"Self-test: no answer to {QUESTION!r} within {limit_s:g} s; this machine is too slow for {codec.name}.")
    seconds = time.monotonic() - begun
    if heard.reason not in ("stop", "length"):
        raise SelfTestError(f"Self-test: the engine gave up ({heard.error or heard.reason}).")
    detokeniser = codec.detokeniser()
    answer = detokeniser.push(heard.ids) + detokeniser.finish()
    if not prompt or not heard.ids or not answer:
        raise SelfTestError(
            f"Self-test: {codec.name} answered {QUESTION!r} with nothing ({len(prompt)} prompt tokens, {len(heard.ids)} answer tokens)."
        )
    leaked = next((special for special in codec.specials.values() if special and special in answer), None)
    if leaked is not None:
        raise SelfTestError(f"Self-test: the special token {leaked} stands in the answer of {codec.name}; its tokenizer files are wrong.")
    return SelfTest(answer, len(prompt), len(heard.ids), seconds)


def warm_up(engine: Engine, facts: EngineFacts, codec: Codec, limit_s: float = LIMIT_S) -> float:
    """Fill every slot once with different short prompts, so that the first client pays for no first time. Returns seconds."""
    begun = time.monotonic()
    length = max(1, min(WARM_PROMPT, facts.context - WARM_ANSWER))
    filler = codec.encode("The quick brown fox jumps over the lazy dog. " * WARM_PROMPT)
    heard = []
    for slot in range(facts.slots):
        prompt = (filler[slot : slot + length] or filler) if len(filler) > slot + length else filler[:length]
        listener = Collected()
        engine.submit(GenerationRequest(prompt, WARM_ANSWER, Sampling(temperature=0.0), frozenset()), listener)
        heard.append(listener)
    for listener in heard:
        listener.done.wait(max(0.0, limit_s - (time.monotonic() - begun)))
    return time.monotonic() - begun
