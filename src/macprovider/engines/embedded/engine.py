"""The transformers engine: any decoder model of the library, all running answers in one batch, in one thread.

The thread takes turn after turn (`runner`, `schedule`); `submit`, `cancel` and `metrics` come from other threads and only
leave word. Text is not its business, but for the grammar of a JSON schema.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING

from macprovider.engines.base import EngineError, EngineFacts, EngineMetrics, EngineSettings, GenerationRequest, Listener

if TYPE_CHECKING:
    from macprovider.engines.embedded.loading import Loaded
    from macprovider.engines.embedded.rows import Answer
    from macprovider.engines.embedded.runner import Runner

PIECE = 256
"""Tokens of a prompt that are computed in one turn, so that the running answers wait no longer than for them."""


class TransformersEngine:
    """See `macprovider.engines.base.Engine`. piece: tokens of a prompt in one turn."""

    def __init__(self, settings: EngineSettings, *, piece: int = PIECE) -> None:
        self.settings, self.piece = settings, piece
        self._waiting: deque[Answer] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._loaded: Loaded | None = None
        self._thread: threading.Thread | None = None
        self._runner: Runner | None = None

    def load(self) -> EngineFacts:
        """See `Engine.load`."""
        from macprovider.engines.embedded.loading import load

        if self._thread is not None or self._closed:
            raise EngineError("This engine was loaded before; make a new one.")
        self._loaded = load(self.settings, self.piece)
        self._runner = self._loaded.runner
        begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(begun,), name="engine", daemon=True)
        self._thread.start()
        begun.result()
        return self._loaded.facts

    def submit(self, request: GenerationRequest, listener: Listener) -> Answer:
        """See `Engine.submit`."""
        from macprovider.engines.embedded.requests import answer_to

        loaded = self._loaded
        if loaded is None:
            raise EngineError("The engine is not running; start the server again.")
        answer = answer_to(request, listener, loaded, self._nudge)
        with self._wake:
            if self._closed:
                raise EngineError("The engine is closed; start the server again.")
            self._waiting.append(answer)
            self._wake.notify()
        return answer

    def metrics(self) -> EngineMetrics:
        """See `Engine.metrics`."""
        runner = self._runner
        if runner is None:
            return EngineMetrics(0, 0, 0, 0, 0, 0, 0, 0, 0)
        running = [slot for slot in list(runner.slots) if slot.answer is not None]
        counts, sizes = runner.counts, runner.cache.sizes
        return EngineMetrics(
            running=len(running),
            waiting=len(self._waiting),
            prompt_tokens=counts.prompt,
            cached_prompt_tokens=counts.cached,
            generated_tokens=counts.generated,
            steps=counts.steps,
            kv_tokens=sum(len(slot.tokens) for slot in running),
            kv_capacity=sizes.slots * sizes.context,
            kv_bytes=runner.cache.nbytes,
        )

    def close(self) -> None:
        """See `Engine.close`."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._loaded = self._runner = None

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify()

    def _run(self, begun: Future[None]) -> None:
        """The thread. begun: hears that the blocks around its turns are entered, or why they are not."""
        import torch

        from macprovider.engines.embedded.runner import tell_end

        loaded = self._loaded
        assert loaded is not None
        runner = loaded.runner
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            try:
                for block in loaded.blocks:
                    stack.enter_context(block())
            except BaseException as error:  # noqa: BLE001 - raised again where the engine is loaded
                begun.set_exception(error)
                return
            begun.set_result(None)
            while True:
                with self._wake:
                    while not (self._closed or self._waiting or runner.busy):
                        self._wake.wait()
                    closed, gone = self._closed, self._withdrawn()
                for answer in gone:
                    tell_end(answer, "cancelled")
                if closed:
                    runner.cancel_all()
                    return
                try:
                    runner.turn(len(self._waiting), self._next)
                except Exception as error:  # noqa: BLE001 - told to every reader, and the engine lives on
                    runner.fail_all(error)

    def _withdrawn(self) -> list[Answer]:
        """Take the cancelled requests out of the queue, all of them when the engine is closed."""
        gone = [answer for answer in self._waiting if self._closed or answer.cancelled.is_set()]
        if gone:
            self._waiting = deque(answer for answer in self._waiting if answer not in gone)
        return gone

    def _next(self) -> Answer | None:
        with self._wake:
            return self._waiting.popleft() if self._waiting else None
