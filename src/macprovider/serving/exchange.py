"""One request while it is answered: its answers wait for slots, run in the engine, and give their deltas to one reader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from macprovider.engines.base import EngineError, FinishReason, Ticket, Token
from macprovider.serving.admission import closing
from macprovider.serving.answer import Answer, Delta
from macprovider.serving.errors import ApiError, defect, invalid

if TYPE_CHECKING:
    from macprovider.serving.plan import Plan
    from macprovider.serving.service import Service

log = logging.getLogger("macprovider")
Step = list[tuple[Answer, Delta]]


class ClientGone(Exception):
    """Nobody waits for this answer any more."""


class Exchange:
    """Made by `Service.open`. Lives on the event loop; `close` must be called whatever happens.

    Memory: tokens that the reader has not taken yet are kept as tokens, at most the answer's own length, so a slow reader costs
    no more than the answer it asked for.
    """

    def __init__(self, service: Service, plan: Plan) -> None:
        self.plan = plan
        self._service = service
        self._clock = service.clock
        self.arrived = self._clock.monotonic()
        self.first_started = 0.0
        self.first_token = 0.0
        self.cached_tokens = 0
        self.answers = [plan.answer(index, service.codec) for index in range(plan.choices)]
        self._tickets: dict[int, Ticket] = {}
        self._started_at: dict[int, float] = {}
        self._heard: list[tuple[Answer, Sequence[Token], FinishReason | None]] = []
        self._open = len(self.answers)
        self._started = 0
        self._failure: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.sink: Callable[[], None] | None = None  # called instead of waking a task; must not raise
        self.closed = False

    # ------------------------------------------------------------------ what admission asks

    @property
    def to_start(self) -> int:
        return 0 if self.closed or self._failure else len(self.answers) - self._started

    def start_one(self) -> None:
        index = self._started
        self._started += 1
        now = self._started_at[index] = self._clock.monotonic()
        self.first_started = self.first_started or now
        listener = self._service.handover.listener(partial(self._hear, index))
        try:
            self._tickets[index] = self._service.engine.submit(self.plan.generation(index), listener)
        except Exception as error:
            self._started_at.pop(index)
            if not isinstance(error, EngineError):
                log.error("defect", exc_info=error)
            self.fail(invalid(str(error)) if isinstance(error, EngineError) else defect())
            # not at once: admission is in the middle of filling its slots
            asyncio.get_running_loop().call_soon(self._service.admission.release, None)
        self.wake()

    # ------------------------------------------------------------------ what the engine says

    def _hear(self, index: int, tokens: Sequence[Token], reason: FinishReason | None, error: str) -> Exchange | None:
        answer = self.answers[index]
        if reason is not None:
            self._service.admission.release(self._clock.monotonic() - self._started_at.pop(index))
        if self.closed or answer.finish is not None:
            return None
        if reason == "error":
            self._service.count_engine_error(error)
            self.fail(ApiError(503, "engine_error", f"The engine could not finish this answer: {error or 'it gave no reason'}"))
            return None
        if reason == "refused":
            tools = self.plan.tools
            field = "tool_choice" if tools is not None and tools.schema is not None else "response_format"
            self.fail(invalid(f"{field}: the engine cannot hold an answer to this schema ({error.rstrip('.')}).", field))
            return None
        if reason == "cancelled":
            self.fail(closing())
            return None
        if not self.first_token and tokens:
            self.first_token = self._clock.monotonic()
            self.cached_tokens = self._tickets[index].cached_tokens
        self._heard.append((answer, tokens, reason))
        return self

    def fail(self, error: ApiError) -> None:
        """End it with an error; the reader hears it next."""
        if self._failure is None:
            self._failure = error
        self.wake()

    def wake(self) -> None:
        """Let the reader look."""
        if self.sink is not None:
            self.sink()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ------------------------------------------------------------------ what the reader does

    async def started(self) -> None:
        """Wait for the first slot. Raises as `step` does."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self.closed:
                raise ClientGone
            if self._started:
                return
            await self.wait()

    async def step(self) -> Step:
        """The next deltas; empty once every answer has ended. Raises as `take` does."""
        while True:
            step = self.take()
            if step or self.finished:
                return step
            await self.wait()

    def take(self) -> Step:
        """The deltas that are there by now, tokens that arrived together in one; possibly none.

        Raises ApiError when the exchange failed, ClientGone when it was closed.
        """
        if self._failure is not None:
            raise self._failure
        if self.closed:
            raise ClientGone
        return self._deltas() if self._heard else []

    async def wait(self) -> None:
        """Until something has been heard."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _deltas(self) -> Step:
        heard, self._heard = self._heard, []
        out: Step = []
        for answer, tokens, reason in _merged(heard):
            if answer.finish is not None:
                continue
            delta = answer.push(tokens) if tokens else Delta("")
            if answer.finish is None and reason is not None:
                out.append((answer, delta))
                delta = answer.end(reason)
            elif answer.finish is not None and reason is None:
                self._cancel(answer.index)  # a stop text ended it: what the engine still computes is for nobody
            out.append((answer, delta))
            if answer.finish is not None:
                self._open -= 1
        return [(answer, delta) for answer, delta in out if delta.text or delta.finish or delta.calls or delta.tokens]

    def _cancel(self, index: int) -> None:
        ticket = self._tickets.get(index)
        if ticket is not None:
            ticket.cancel()

    def close(self) -> None:
        """Nobody reads any more: give back the queue's place and the slots. Harmless when called twice."""
        if self.closed:
            return
        self.closed = True
        for index in list(self._started_at):
            self._cancel(index)
        self._service.admission.withdraw(self)
        self._service.left(self)
        self.wake()

    @property
    def queued(self) -> bool:
        """Whether none of its answers has been started."""
        return self._started == 0

    @property
    def finished(self) -> bool:
        """Whether every answer has ended and all of it was read."""
        return not self._open and not self._heard

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return self._failure is not None

    @property
    def completion_tokens(self) -> int:
        return sum(answer.completion_tokens for answer in self.answers)


def _merged(
    heard: list[tuple[Answer, Sequence[Token], FinishReason | None]],
) -> list[tuple[Answer, Sequence[Token], FinishReason | None]]:
    """One entry for each answer; the usual case, one entry for each already, costs nothing."""
    if len(heard) == 1 or len({entry[0].index for entry in heard}) == len(heard):
        return heard
    tokens: dict[int, list[Token]] = {}
    reasons: dict[int, FinishReason | None] = {}
    answers: dict[int, Answer] = {}
    for answer, new, reason in heard:
        answers[answer.index] = answer
        tokens.setdefault(answer.index, []).extend(new)
        reasons[answer.index] = reason or reasons.get(answer.index)
    return [(answer, tokens[index], reasons[index]) for index, answer in answers.items()]
