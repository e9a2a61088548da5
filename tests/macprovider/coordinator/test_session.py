"""The session over real sockets, against the reference coordinator; the server behind it is a small one of this file."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from helpers.reference_coordinator import PoolSession, ReferenceCoordinator
from macprovider.coordinator.messages import Endpoint, Hello
from macprovider.coordinator.provider import Load, RequestRefused
from macprovider.coordinator.session import Membership, Timing

pytestmark = pytest.mark.anyio
QUICK = Timing(first_backoff=0.01, last_backoff=0.05, rejoin=(0.01, 0.02), hello=20.0, state=0.01)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SmallServer:
    """A provider whose answers are numbers. A request with `{"wait": true}` goes on until it is cancelled or `go` is set."""

    provider_id = "small"

    def __init__(self) -> None:
        self.now = Load("ready", 0, 0, 5.0)
        self.go = asyncio.Event()
        self.freed: list[str] = []
        self.warmed = 0

    def hello(self) -> Hello:
        return Hello(
            tier="8GB",
            provider_id=self.provider_id,
            hostname="here",
            model_id="m",
            model_params_b=0.1,
            ram_gb=None,
            max_context_tokens=64,
            max_concurrency=1,
            throughput_tps_estimate=self.now.tps,
            binary_version="1",
        )

    def load(self) -> Load:
        return self.now

    def refusal(self, model: str | None, context_tokens: int | None) -> str:
        return "This provider serves m." if model not in (None, "m") else ""

    async def answer(self, endpoint: Endpoint, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        if "refuse" in body:
            raise RequestRefused({"message": body["refuse"], "code": "invalid_request"})
        if "defect" in body:
            raise ZeroDivisionError
        try:
            yield {"endpoint": endpoint, "n": 0}
            if body.get("wait"):
                await self.go.wait()
            yield {"n": 1}
        finally:
            self.freed.append(str(body.get("name", "")))

    async def warm_up(self) -> None:
        self.warmed += 1


@asynccontextmanager
async def joined(pool: ReferenceCoordinator, **more: Any) -> AsyncGenerator[tuple[Membership, SmallServer, PoolSession], None]:
    server = SmallServer()
    membership = Membership(pool.url, server, **{"timing": QUICK, **more})
    await membership.start()
    try:
        yield membership, server, await off(pool.session)
    finally:
        await membership.close()


async def off(wait: Callable[..., Any], *arguments: Any) -> Any:
    """A wait of the coordinator's thread, without holding up the session on this loop."""
    return await asyncio.to_thread(wait, *arguments)


def kind(name: str, **fields: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda message: message["type"] == name and all(message.get(key) == value for key, value in fields.items())


async def test_hello_heartbeats_states_and_goodbye() -> None:
    with ReferenceCoordinator(heartbeat_s=0.02) as pool:
        async with joined(pool) as (membership, server, session):
            await off(session.wait, kind("state_update", state="ready"))
            await off(session.wait, lambda _: len(session.of("heartbeat")) >= 3)
            server.now = replace(server.now, state="busy", in_flight=1)
            await off(session.wait, kind("state_update", state="busy"))
            await off(session.wait, kind("heartbeat", state="busy", requests_in_flight=1))
            server.now = replace(server.now, state="degraded")
            await off(session.wait, kind("state_update", state="degraded"))
            await membership.close()
            await membership.close()
        assert session.wait_closed() == 1000
        assert session.kinds()[0] == "hello" and session.of("state_update")[-1] == {
            "type": "state_update",
            "state": "unavailable",
            "reason": "shutdown",
        }
        assert [m["state"] for m in session.of("state_update")] == ["ready", "busy", "degraded", "unavailable"], "only changes are told"
        assert pool.connections == 1 and not session.faults


async def test_the_heartbeat_keeps_the_interval_that_was_acknowledged() -> None:
    with ReferenceCoordinator(heartbeat_s=3600) as pool:
        async with joined(pool) as (_, _server, session):
            await off(session.wait, kind("heartbeat"))
            session.send({"type": "warm_up"})
            session.send({"type": "preflight", "request_id": "last"})
            await off(session.wait, kind("preflight_ack", request_id="last"))
            assert len(session.of("heartbeat")) == 1


async def test_answers_stream_back_in_order() -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (_, server, session):
            for name in ("a", "b"):
                request = {"type": "inference_request", "request_id": name, "endpoint": "/v1/completions", "body": {"name": name}}
                session.send(request)
            for name in ("a", "b"):
                end = await off(session.wait, kind("inference_response_end", request_id=name))
                assert (end["status"], end["chunks"], end["error"]) == ("ok", 2, None)
                chunks = [m for m in session.of("inference_response_chunk") if m["request_id"] == name]
                assert [(m["index"], m["data"]) for m in chunks] == [(0, {"endpoint": "/v1/completions", "n": 0}), (1, {"n": 1})]
            assert server.freed == ["a", "b"]


async def test_refusals_and_defects_end_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (_, _server, session):
            session.send({"type": "inference_request", "request_id": "r", "body": {"refuse": "Too long."}})
            end = await off(session.wait, kind("inference_response_end", request_id="r"))
            assert (end["status"], end["error"]["message"]) == ("error", "Too long.")
            session.send({"type": "inference_request", "request_id": "d", "body": {"defect": 1}})
            end = await off(session.wait, kind("inference_response_end", request_id="d"))
            assert (end["status"], end["error"]["code"]) == ("error", "internal_error")
    assert "ZeroDivisionError" in caplog.text


async def test_cancelling_frees_the_slot() -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (_, server, session):
            session.send({"type": "inference_request", "request_id": "r", "body": {"wait": True, "name": "long"}})
            await off(session.wait, kind("inference_response_chunk", request_id="r"))
            session.send({"type": "cancel_request", "request_id": "r"})
            end = await off(session.wait, kind("inference_response_end", request_id="r"))
            assert (end["status"], end["chunks"]) == ("cancelled", 1) and server.freed == ["long"]
            session.send({"type": "cancel_request", "request_id": "r"})
            session.send({"type": "cancel_request", "request_id": "never"})
            session.send({"type": "inference_request", "request_id": "r", "body": {}})
            await off(session.wait, kind("inference_response_end", request_id="r", status="ok"))


async def test_a_cancel_right_behind_its_request_is_told_too() -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (_, _server, session):
            for number in range(20):
                session.send({"type": "inference_request", "request_id": f"r{number}", "body": {"wait": True}})
                session.send({"type": "cancel_request", "request_id": f"r{number}"})
            for number in range(20):
                await off(session.wait, kind("inference_response_end", request_id=f"r{number}", status="cancelled"))


async def test_a_broken_connection_frees_its_answers_and_comes_back() -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (_, server, session):
            session.send({"type": "inference_request", "request_id": "r", "body": {"wait": True, "name": "long"}})
            await off(session.wait, kind("inference_response_chunk"))
            await off(session.close, 1011)
            again = await off(pool.session, 1)
            assert server.freed == ["long"]
            await off(again.wait, kind("state_update", state="ready"))
            assert not session.of("inference_response_end")


async def test_what_is_not_understood_gets_a_nak_and_the_session_goes_on() -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (_, _server, session):
            session.send({"type": "dance", "request_id": "q"})
            nak = await off(session.wait, kind("nak", received="dance"))
            assert nak["request_id"] == "q"
            for frame in ("no json", b"\x01\x02", {"type": "hello_ack"}):
                session.send(frame)
            await off(session.wait, lambda _: len(session.of("nak")) == 4)
            session.send({"type": "inference_request", "request_id": "same", "body": {"wait": True}})
            session.send({"type": "inference_request", "request_id": "same", "body": {}})
            await off(session.wait, kind("nak", received="inference_request", request_id="same"))
            session.send({"type": "preflight", "request_id": "p1"})
            session.send({"type": "preflight", "request_id": "p2", "model": "other"})
            assert (await off(session.wait, kind("preflight_ack", request_id="p1")))["accepted"] is True
            assert "serves m" in (await off(session.wait, kind("preflight_ack", request_id="p2", accepted=False)))["reason"]


async def test_a_drained_provider_leaves_and_rejoins() -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (_, server, session):
            session.send({"type": "inference_request", "request_id": "r", "body": {"wait": True}})
            await off(session.wait, kind("inference_response_chunk"))
            session.send({"type": "drain", "reason": "maintenance"})
            session.send({"type": "drain"})
            await off(session.wait, kind("drain_status", status="in_progress", requests_in_flight=1))
            session.send({"type": "inference_request", "request_id": "late", "body": {}})
            session.send({"type": "preflight", "request_id": "p"})
            late = await off(session.wait, kind("inference_response_end", request_id="late", status="error"))
            assert late["error"]["code"] == "model_not_loaded"
            await off(session.wait, kind("preflight_ack", accepted=False))
            server.go.set()
            assert await off(session.wait_closed) == 1000
            told = [text for text in session.kinds() if text.startswith(("state", "drain", "inference_response_end ok"))]
            assert told == [
                "state_update ready",
                "state_update draining",
                "drain_status starting",
                "drain_status in_progress",
                "inference_response_end ok",
                "drain_status complete",
            ]
            again = await off(pool.session, 1)
            await off(again.wait, kind("state_update", state="ready"))
            assert again.kinds()[0] == "hello"


async def test_rejoins_after_ten_to_fifteen_seconds_by_default() -> None:
    waits: list[float] = []
    with ReferenceCoordinator() as pool:

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        for number in range(5):
            async with joined(pool, timing=Timing(state=0.01, sleep=sleep)):
                session = await off(pool.session, 2 * number)
                session.send({"type": "drain"})
                await off(pool.session, 2 * number + 1)
    assert len(waits) == 5 and all(10 <= wait <= 15 for wait in waits) and len(set(waits)) == 5


async def test_back_off_doubles_to_a_minute_and_starts_again_after_a_welcome() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    waits: list[float] = []
    done = asyncio.Event()
    pools: list[ReferenceCoordinator] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 9:
            pools.append(ReferenceCoordinator(port=port).__enter__())
        if len(waits) == 11:
            done.set()
            await asyncio.Event().wait()

    membership = Membership(f"ws://127.0.0.1:{port}/", SmallServer(), timing=Timing(state=0.01, sleep=sleep))
    await membership.start()
    while not pools:
        await asyncio.sleep(0.01)
    session = await off(pools[0].session)
    await off(session.wait, kind("state_update", state="ready"))
    await off(pools[0].__exit__, None, None, None)
    await asyncio.wait_for(done.wait(), 60)
    await membership.close()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 1, 2]


async def test_an_unknown_provider_stops_with_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    with ReferenceCoordinator(known=["somebody else"]) as pool:
        async with joined(pool) as (membership, _, session):
            assert await off(session.wait_closed) == 4002
            while not membership.refused:
                await asyncio.sleep(0.01)
            await asyncio.sleep(10 * QUICK.last_backoff)
            assert pool.connections == 1, "it came back"
    assert "'small'" in membership.refused and "--provider-id" in membership.refused and membership.refused in caplog.text


async def test_the_token_is_sent_and_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ReferenceCoordinator(token="s3cret-token") as pool:
        async with joined(pool, token="s3cret-token") as (_, _server, session):
            assert session.headers["Authorization"] == "Bearer s3cret-token"
        refused = Membership(pool.url, SmallServer(), token="wr0ng-token", timing=QUICK)
        await refused.start()
        while pool.refused < 2:
            await asyncio.sleep(0.01)
        await refused.close()
    assert "HTTP status 401" in caplog.text and "Check the provider token" in caplog.text
    assert "s3cret" not in caplog.text and "wr0ng" not in caplog.text


async def test_a_coordinator_that_says_nothing_is_left(caplog: pytest.LogCaptureFixture) -> None:
    with ReferenceCoordinator(silent=True) as pool:
        async with joined(pool, timing=replace(QUICK, hello=0.05)):
            await off(pool.session, 1)
    assert "did not answer in time" in caplog.text


async def test_what_is_no_coordinator(caplog: pytest.LogCaptureFixture) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        membership = Membership(f"ws://127.0.0.1:{port}", SmallServer(), timing=QUICK)
        await membership.start()
        while "no coordinator (" not in caplog.text:
            await asyncio.sleep(0.01)
        await membership.close()


@pytest.mark.parametrize("moment", ["never started", "backing off", "saying hello"])
async def test_close_at_any_moment(moment: str) -> None:
    with ReferenceCoordinator(silent=True) as pool:
        url = "ws://127.0.0.1:1/" if moment == "backing off" else pool.url
        membership = Membership(url, SmallServer(), timing=replace(QUICK, first_backoff=600.0))
        if moment != "never started":
            await membership.start()
            await (off(pool.session) if moment == "saying hello" else asyncio.sleep(0.1))
        await membership.drain()
        await asyncio.wait_for(membership.close(), 30)
        await membership.start()
        assert pool.connections == (1 if moment == "saying hello" else 0)


async def test_drain_before_the_end_waits_for_what_runs() -> None:
    with ReferenceCoordinator() as pool:
        async with joined(pool) as (membership, server, session):
            await off(session.wait, kind("state_update", state="ready"))
            server.now = replace(server.now, state="draining", in_flight=2, queued=1)
            draining = asyncio.create_task(membership.drain())
            await off(session.wait, kind("drain_status", status="in_progress", requests_in_flight=3))
            assert not draining.done()
            server.now = replace(server.now, in_flight=0, queued=0)
            await asyncio.wait_for(draining, 60)
            await off(session.wait, kind("drain_status", status="complete"))
            await membership.close()
        assert session.kinds()[-1] == "state_update unavailable"
        assert pool.connections == 1, "a server that ends does not come back"
