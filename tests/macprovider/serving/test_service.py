"""The service above an engine that breaks its contract: nobody waits for ever, no slot is lost, and health recovers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from macprovider.capacity import TIERS, Capacity
from macprovider.codec import Codec
from macprovider.engines.base import EngineFacts, EngineMetrics, GenerationRequest, Listener, Token
from macprovider.serving.errors import ApiError
from macprovider.serving.service import DEGRADED_S, Service
from macprovider.settings import load_settings
from modelwright.clock import ManualClock

BODY = {"model": "m", "prompt": "h", "max_tokens": 4}
FACTS = EngineFacts("transformers", "0", 100, 1, None, 1.0, 1, "float32", None, frozenset())


class Ticket:
    cached_tokens = 0

    def cancel(self) -> None:
        pass


class Engine:
    """fault: raised by `submit`. tokens: what an answer hears. error: how it ends, "" for well."""

    def __init__(self, fault: Exception | None = None, tokens: Sequence[Token] = (), error: str = "") -> None:
        self.fault_raised, self.said, self.error = fault, tokens, error

    def load(self) -> EngineFacts:
        return FACTS

    def submit(self, request: GenerationRequest, listener: Listener) -> Ticket:
        if self.fault_raised is not None:
            raise self.fault_raised
        if self.said:
            listener.tokens(self.said)
        listener.finished("error" if self.error else "length", self.error)
        return Ticket()

    def metrics(self) -> EngineMetrics:
        return EngineMetrics(0, 0, 0, 0, 0, 0, 0, 0, 0)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def codec(script_model: Path) -> Codec:
    return Codec.load(script_model, "m")


def served(codec: Codec, engine: Engine, clock: ManualClock, work: Callable[[Service], Awaitable[Any]]) -> Any:
    """What `work(service)` gives, on an event loop of its own."""

    async def main() -> Any:
        loaded = load_settings({"model": "m"}, environ={})
        return await asyncio.wait_for(work(Service(loaded, engine, FACTS, codec, Capacity(None, TIERS[0], 100), 1.0, clock)), 30)

    return asyncio.run(main())


@pytest.fixture(autouse=True)
def no_config_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


async def whole(service: Service) -> bytes:
    exchange = await service.open("completion", BODY)
    try:
        return await service.whole(exchange)
    finally:
        exchange.close()


def test_an_engine_that_raises_what_it_must_not_costs_no_slot(codec: Codec) -> None:
    async def twice(service: Service) -> list[str]:
        codes = []
        for _ in range(2):  # there is one slot: a lost one would keep the second request waiting
            with pytest.raises(ApiError) as refused:
                await whole(service)
            codes.append(refused.value.code)
        await asyncio.sleep(0)
        assert (service.admission.running, service.admission.waiting) == (0, 0)
        return codes

    assert served(codec, Engine(ValueError("not foreseen")), ManualClock(), twice) == ["internal_error"] * 2


def test_a_defect_in_the_middle_of_a_stream_is_an_event_and_a_proper_end(codec: Codec) -> None:
    async def streamed(service: Service) -> list[bytes]:
        exchange = await service.open("completion", BODY)
        events = [event async for event in service.events(exchange)]
        exchange.close()
        return b"".join(events).split(b"\n\n")

    unreadable = Token([1])  # type: ignore[arg-type]
    *_, error, done, nothing = served(codec, Engine(tokens=[unreadable]), ManualClock(), streamed)
    assert json.loads(error[6:])["error"]["code"] == "internal_error" and (done, nothing) == (b"data: [DONE]", b"")


def test_health_forgets_the_error_of_an_answer_after_a_while(codec: Codec) -> None:
    clock = ManualClock()

    async def watched(service: Service) -> list[tuple[int, str]]:
        with pytest.raises(ApiError):
            await whole(service)
        seen = []
        for seconds in (0.0, DEGRADED_S - 1, 1.0):
            clock.advance(seconds)
            status, body = service.health()
            seen.append((status, body["status"]))
        return seen

    expected = [(503, "degraded"), (503, "degraded"), (200, "healthy")]
    assert served(codec, Engine(error="a step failed"), clock, watched) == expected
