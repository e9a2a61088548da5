"""One connection with a coordinator, from `hello` to its close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from macprovider.coordinator.messages import (
    CancelRequest,
    Drain,
    DrainStatus,
    FromCoordinator,
    Heartbeat,
    HelloAck,
    InferenceRequest,
    InferenceResponseChunk,
    InferenceResponseEnd,
    Message,
    Nak,
    Phase,
    Preflight,
    PreflightAck,
    State,
    StateUpdate,
    WarmUp,
    from_coordinator,
)
from macprovider.coordinator.provider import Provider, RequestRefused

_DEFECT = {
    "message": "The server met a defect of its own; its log has the details.",
    "type": "server_error",
    "param": None,
    "code": "internal_error",
}
_log = logging.getLogger("macprovider.coordinator")


@dataclass(frozen=True)
class Ended:
    """How a connection ended. code: of the close, None when there was none. welcomed: `hello_ack` had come. drained: this side left
    because it was told to. why: a sentence for the log.
    """

    code: int | None = None
    welcomed: bool = False
    drained: bool = False
    why: str = ""


class Conversation:
    """hello_s: how long `hello_ack` may take. look_s: how often the server's state is looked at."""

    def __init__(self, socket: ClientConnection, provider: Provider, *, hello_s: float, look_s: float) -> None:
        self._socket, self._provider, self._hello_s, self._look_s = socket, provider, hello_s, look_s
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answering: dict[str, asyncio.Task[Any]] = {}
        self._told: State | None = None
        self._welcomed = self._draining = self._drained = self._stopping = False

    async def run(self) -> Ended:
        """Talk until the connection closes, whoever closes it. Raises TimeoutError when `hello_ack` does not come."""
        try:
            await self._send(self._provider.hello())
            async with asyncio.timeout(self._hello_s):
                acknowledged = await self._hello_ack()
            if acknowledged is not None:
                self._welcomed = True
                _log.info("joined the pool; a heartbeat every %g s", acknowledged.heartbeat_interval_s)
                self._begin(self._follow_state())
                self._begin(self._beat(acknowledged.heartbeat_interval_s))
            async for frame in self._socket:
                await self._hear(from_coordinator(frame))
        except ConnectionClosed:
            pass
        finally:
            await self._stop_tasks()
        code, reason = self._socket.close_code, (self._socket.close_reason or "")[:200]
        why = f"the connection closed with code {code}{f' ({reason!r})' if reason else ''}."
        return Ended(code, self._welcomed, self._drained, why)

    async def _hello_ack(self) -> HelloAck | None:
        """None when the coordinator closed the connection instead."""
        async for frame in self._socket:
            message = from_coordinator(frame)
            if isinstance(message, HelloAck):
                return message
            reason = "found a message before hello_ack; allowed: hello_ack first."
            await self._send(message if isinstance(message, Nak) else Nak(received=message.type, reason=reason))
        return None

    # --- leaving

    async def leave(self) -> None:
        """This process ends: say that no more work is taken, and when all that ran has ended."""
        self._draining = True
        if self._welcomed:
            await self._quietly(self._leave_pool(everything=True))

    async def goodbye(self) -> None:
        """The last message, and the close."""
        self._draining = True
        await self._quietly(self._send(StateUpdate(state="unavailable", reason="shutdown")))
        await self._socket.close(1000, "shutdown")

    async def _drain(self) -> None:
        """The coordinator wants us out of its pool; clients of the HTTP surface notice nothing."""
        await self._leave_pool(everything=False)
        self._drained = True
        await self._socket.close(1000, "drained")

    async def _leave_pool(self, *, everything: bool) -> None:
        """everything: wait for the HTTP surface's requests too, not for the session's alone."""

        def running() -> int:
            load = self._provider.load()
            return load.in_flight + load.queued if everything else len(self._answering)

        async def status(phase: Phase) -> None:
            await self._send(DrainStatus(status=phase, requests_in_flight=running()))

        await self._tell("draining")
        await status("starting")
        if running():
            await status("in_progress")
        while running():
            await asyncio.sleep(self._look_s)
        await status("complete")

    # --- speaking

    async def _send(self, message: Message) -> None:
        await self._socket.send(message.frame())

    async def _quietly(self, sending: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(ConnectionClosed):  # a coordinator that is gone needs no goodbye
            await sending

    async def _tell(self, state: State) -> None:
        if state != self._told:
            self._told = state
            await self._send(StateUpdate(state=state))

    def _state(self) -> State:
        return "draining" if self._draining else self._provider.load().state

    async def _follow_state(self) -> None:
        while True:
            await self._tell(self._state())
            await asyncio.sleep(self._look_s)

    async def _beat(self, interval_s: float) -> None:
        while True:
            load = self._provider.load()
            beat = Heartbeat(
                state=self._state(), requests_in_flight=load.in_flight, requests_queued=load.queued, throughput_tps_estimate=load.tps
            )
            await self._send(beat)
            await asyncio.sleep(interval_s)

    # --- hearing

    async def _hear(self, message: FromCoordinator | Nak) -> None:
        match message:
            case Nak():
                await self._send(message)
            case Preflight():
                reason = "This provider is draining." if self._draining else self._provider.refusal(message.model, message.context_tokens)
                await self._send(PreflightAck(request_id=message.request_id, accepted=not reason, reason=reason))
            case Drain():
                if not self._draining:
                    _log.info("the coordinator asked this provider to leave the pool for a while: %s", message.reason[:200] or "no reason")
                    self._draining = True
                    self._begin(self._drain())
            case WarmUp():
                self._begin(self._provider.warm_up())
            case InferenceRequest():
                await self._take(message)
            case CancelRequest():
                task = self._answering.get(message.request_id)
                if task is not None:
                    task.cancel()
            case HelloAck():
                await self._send(Nak(received="hello_ack", reason="found a second hello_ack; allowed: one."))

    async def _take(self, request: InferenceRequest) -> None:
        if request.request_id in self._answering:
            reason = "found a request_id that is being answered; allowed: a new one for each request."
            await self._send(Nak(received=request.type, request_id=request.request_id, reason=reason))
            return
        if self._draining:
            error = {"message": "This provider is draining.", "type": "server_error", "param": None, "code": "model_not_loaded"}
            await self._send(InferenceResponseEnd(request_id=request.request_id, status="error", chunks=0, error=error))
            return
        self._answering[request.request_id] = self._begin(self._answer(request))
        await asyncio.sleep(0)  # let it begin: a task that is cancelled before that could not say so

    async def _answer(self, request: InferenceRequest) -> None:
        """Stream one answer; its end is told whatever happens, but for a broken connection."""
        chunks = 0
        status: Literal["ok", "error", "cancelled"] = "error"
        error: dict[str, Any] | None = dict(_DEFECT)
        try:
            async with aclosing(self._provider.answer(request.endpoint, request.body)) as events:
                async for data in events:
                    await self._send(InferenceResponseChunk(request_id=request.request_id, index=chunks, data=data))
                    chunks += 1
            status, error = "ok", None
        except RequestRefused as refused:
            error = refused.error
        except asyncio.CancelledError:
            if self._stopping:
                raise
            status, error = "cancelled", None
        finally:
            self._answering.pop(request.request_id, None)
            if not self._stopping:
                await self._send(InferenceResponseEnd(request_id=request.request_id, status=status, chunks=chunks, error=error))

    # --- tasks

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[Any]:
        task = asyncio.create_task(self._quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("defect", exc_info=task.exception())

    async def _stop_tasks(self) -> None:
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
