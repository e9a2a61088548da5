"""The served model without its HTTP: requests in, answers out. One for a process; everything but the engine lives on the event loop."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any
from unicodedata import normalize

from macprovider.capacity import Capacity
from macprovider.codec import Codec
from macprovider.engines.base import Engine, EngineFacts, fault_of
from macprovider.serving.admission import Admission, closing
from macprovider.serving.answer import Delta
from macprovider.serving.errors import ApiError
from macprovider.serving.exchange import Exchange
from macprovider.serving.fields import Document
from macprovider.serving.handover import Handover
from macprovider.serving.metrics import Counters
from macprovider.serving.plan import Api, Plan, draft_chat, draft_completion, plan
from macprovider.serving.shapes import ChatShape, CompletionShape, Head, Shape
from macprovider.serving.stream import Stream
from macprovider.settings import Loaded
from modelwright.clock import SYSTEM_CLOCK, Clock

DEGRADED_S = 60.0
INLINE_BYTES = 20_000
"""Longer requests are checked and encoded in a thread, so that other answers go on."""


class Service:
    """facts: what the engine read back. tps: tokens per second of the self-test, the first estimate."""

    def __init__(
        self, loaded: Loaded, engine: Engine, facts: EngineFacts, codec: Codec, capacity: Capacity, tps: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.loaded, self.settings = loaded, loaded.settings
        self.engine, self.facts, self.codec, self.capacity, self.clock = engine, facts, codec, capacity, clock
        self.counters = Counters()
        self.admission = Admission(facts.slots, self.settings.queue_depth)
        self.handover = Handover(asyncio.get_running_loop())
        self.started, self.created = clock.monotonic(), int(clock.now().timestamp())
        self.tps = tps
        self._engine_error = ("", 0.0)  # of the newest answer, "" when it ended well, and when that was
        self._open: set[Exchange] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def model(self) -> str:
        """The id as it was given, which is the one reported everywhere."""
        return self.settings.model

    @property
    def engine_error(self) -> str:
        """Why the server counts as degraded, "" while it does not. An answer's error is forgotten after `DEGRADED_S`: a pool that sends
        nothing to a degraded server would otherwise never hear that it works.
        """
        sentence, since = self._engine_error
        return fault_of(self.engine) or (sentence if self.clock.monotonic() - since < DEGRADED_S else "")

    @property
    def draining(self) -> bool:
        return self.admission.closed

    async def open(self, api: Api, document: Document, size: int | None = None) -> Exchange:
        """Check a request, encode it, and let it wait for its slot. The caller closes the exchange. size: its bytes, where known.

        Raises ApiError in the order of spec 3.1: fields, tools, model, context, then 503 and 429.
        """
        if size is not None and size <= INLINE_BYTES:
            made = self._checked(api, document)
        else:
            made = await asyncio.to_thread(self._checked, api, document)
        exchange = Exchange(self, made)
        self.admission.enter(exchange)
        self._open.add(exchange)
        self._empty.clear()
        return exchange

    def _checked(self, api: Api, document: Document) -> Plan:
        draft = (draft_chat if api == "chat" else draft_completion)(document, self.facts, self.codec)
        if model_key(draft.parameters.model) != model_key(self.model):
            found = draft.parameters.model[:200]
            raise ApiError(404, "model_not_found", f"model: found {found!r}; this server serves {self.model!r} alone.", "model")
        return plan(draft, self.facts, self.codec)

    def shape(self, exchange: Exchange) -> tuple[Head, Shape]:
        """The response's head, with a new id, and its API's shape."""
        created = int(self.clock.now().timestamp())
        if exchange.plan.api == "chat":
            head = Head(f"chatcmpl-{secrets.token_hex(12)}", "chat.completion", created, self.model)
            return head, ChatShape(head, self.codec)
        head = Head(f"cmpl-{secrets.token_hex(12)}", "text_completion", created, self.model)
        return head, CompletionShape(head, self.codec)

    def stream(self, exchange: Exchange) -> Stream:
        """The response as a stream that its reader asks whenever the exchange wakes it."""
        head, shape = self.shape(exchange)
        return Stream(exchange, head, shape, self.refused)

    async def events(self, exchange: Exchange) -> AsyncIterator[bytes]:
        """The response as a stream for a task: each item is one or more whole SSE events, the last one ends with `[DONE]`.

        An error after the beginning is an event, never an exception. Raises ClientGone when the exchange was closed.
        """
        stream = self.stream(exchange)
        while not stream.ended:
            events = stream.take()
            if events:
                yield events
            elif not stream.ended:
                await exchange.wait()

    async def whole(self, exchange: Exchange) -> bytes:
        """The response as one JSON body. Raises ApiError, and ClientGone when the exchange was closed."""
        head, shape = self.shape(exchange)
        deltas: dict[int, list[Delta]] = {answer.index: [] for answer in exchange.answers}
        while step := await exchange.step():
            for answer, delta in step:
                deltas[answer.index].append(delta)
        return head.body([shape.choice(answer, deltas[answer.index]) for answer in exchange.answers], exchange)

    async def drain(self, timeout: float) -> None:
        """Take nothing more, let what runs finish for `timeout` seconds, then end the rest; what waits is refused at once."""
        self.admission.close()
        for exchange in list(self._open):
            if exchange.queued:
                exchange.fail(closing())
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            for exchange in list(self._open):
                exchange.fail(closing())
            await asyncio.sleep(0)

    def left(self, exchange: Exchange) -> None:
        """An exchange was closed: count it."""
        self._open.discard(exchange)
        if not self._open:
            self._empty.set()
        self._measure(exchange)

    def refused(self, error: ApiError) -> None:
        """Count a request that ended in an error."""
        self.counters.errors += 1
        self.counters.refused[error.code] += 1

    def count_engine_error(self, sentence: str) -> None:
        """Remember that the engine failed an answer; health is degraded until one ends well, or for `DEGRADED_S`."""
        self._engine_error = (sentence or "the engine gave no reason", self.clock.monotonic())

    def _measure(self, exchange: Exchange) -> None:
        count, now = self.counters, self.clock.monotonic()
        reasons = [answer.finish for answer in exchange.answers]
        for reason in reasons:
            count.finished[reason or ("error" if exchange.failed else "abort")] += 1
        count.whole.observe(now - exchange.arrived)
        count.prompt_tokens.observe(exchange.plan.prompt_tokens)
        count.generation_tokens.observe(exchange.completion_tokens)
        if exchange.first_started:
            count.queued.observe(exchange.first_started - exchange.arrived)
        if not exchange.first_token:
            return
        count.first_token.observe(exchange.first_token - exchange.arrived)
        seconds = now - exchange.first_token
        if exchange.completion_tokens > len(reasons) and seconds > 0:
            count.per_token.observe(seconds / (exchange.completion_tokens - len(reasons)) * len(reasons))
        if None not in reasons:
            self._engine_error = ("", now)
            if now > exchange.first_started:
                self.tps += 0.2 * (exchange.completion_tokens / (now - exchange.first_started) - self.tps)

    def health(self) -> tuple[int, Mapping[str, Any]]:
        """(HTTP status, body) of `/v1/health`."""
        import psutil

        status = "unavailable" if self.draining else "degraded" if self.engine_error else "healthy"
        asked = self.loaded.origins["max_batch"] != "default"
        body = {
            "status": status,
            "model": self.model,
            "model_loaded": True,
            "uptime_s": round(self.clock.monotonic() - self.started, 3),
            "requests_total": self.counters.requests,
            "requests_in_flight": self.admission.running,
            "requests_queued": self.admission.waiting,
            "errors_total": self.counters.errors,
            "memory_rss_mb": round(psutil.Process(os.getpid()).memory_info().rss / (1 << 20), 1),
            "capacity": {
                "ram_gb": self.capacity.ram_gb,
                "ram_tier": self.capacity.tier.name,
                "max_context_tokens": self.facts.context,
                "max_concurrency": self.facts.slots,
                "advertised_concurrency": self.facts.slots if asked else self.capacity.tier.concurrency,
                "throughput_tps_estimate": round(self.tps, 2),
            },
        }
        return (200 if status == "healthy" else 503), body


def model_key(model: str) -> str:
    """Equal for equal model ids: Unicode NFC, then ASCII letters in lower case. (spec 2)"""
    return "".join(c.lower() if c.isascii() else c for c in normalize("NFC", model))
