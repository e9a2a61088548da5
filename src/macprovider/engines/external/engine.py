"""An engine whose work a child does. Our thread runs an event loop with one connection for each running answer; the child's slots are
counted here, so that what waits costs the child nothing and is given up at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from macprovider.engines.base import EngineError, EngineFacts, EngineMetrics, EngineSettings, FinishReason, GenerationRequest, Listener
from macprovider.engines.external.answers import Answer
from macprovider.engines.external.child import Child, ChildEnded, free_port, log_file, start_child
from macprovider.engines.external.dialect import Dialect, Prepared
from macprovider.engines.external.event_stream import EventStream, open_stream, request_bytes
from macprovider.engines.external.refusals import refuse_request

PORT_TRIES = 3
END_SEEN_S = 0.5
"""Within this time the end of a child is known."""


class ExternalEngine:
    """See `macprovider.engines.base.Engine`. fault: why it can answer nothing any more, "" while it can."""

    def __init__(self, settings: EngineSettings, dialect: Dialect) -> None:
        self.settings, self.dialect = settings, dialect
        self.fault = ""
        self._waiting: deque[Answer] = deque()
        self._running: dict[Answer, None] = {}
        self._round: set[Answer] = set()
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None
        self._child: Child | None = None
        self._prepared: Prepared | None = None
        self._facts: EngineFacts | None = None
        self._vocabulary = self._capacity = 0
        self._prompt_tokens = self._cached = self._generated = self._steps = 0
        self._closed = False

    def load(self) -> EngineFacts:
        """See `Engine.load`."""
        from modelwright.files import read_json
        from modelwright.model_shape import ModelShape

        if self._facts is not None or self._closed:
            raise EngineError("This engine was loaded before; make a new one.")
        self._vocabulary = ModelShape.from_config(read_json(self.settings.folder / "config.json")).vocabulary
        child, prepared = self._start()
        try:
            self._facts, self._capacity = self.dialect.read_back(self.settings, child, prepared)
        except BaseException:
            child.stop()
            raise
        self._child, self._prepared = child, prepared
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"{self.dialect.name} engine", daemon=True)
        self._thread.start()
        child.watch(self._child_ended)
        return self._facts

    def submit(self, request: GenerationRequest, listener: Listener) -> Answer:
        """See `Engine.submit`. After the child's end every answer is an error that its listener hears."""
        facts = self._facts
        if facts is None:
            raise EngineError(f"{self.dialect.name}: the engine is not loaded; call load first.")
        refuse_request(request, facts, self._vocabulary)
        answer = Answer(request, listener, self.dialect, self)
        if not self._call(self._admit, answer):
            raise EngineError("The engine is closed; start the server again.")
        return answer

    def metrics(self) -> EngineMetrics:
        """See `Engine.metrics`. All of it is counted here: a child answers such questions between two of its steps only."""
        running = list(self._running)
        facts = self._facts
        return EngineMetrics(
            running=len(running),
            waiting=len(self._waiting),
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached,
            generated_tokens=self._generated + sum(len(answer.ids) for answer in running),
            steps=self._steps,
            kv_tokens=sum(len(answer.request.prompt) + len(answer.ids) for answer in running),
            kv_capacity=self._capacity,
            kv_bytes=round(self._capacity * facts.kv_bytes_per_token) if facts else 0,
        )

    def close(self) -> None:
        """See `Engine.close`."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._cancel_all)
        if self._child is not None:
            self._child.stop()
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # ------------------------------------------------------------------ the child

    def _start(self) -> tuple[Child, Prepared]:
        """A child that can be asked. Another process may take its port between our look and its start: then once more."""
        log = log_file(self.dialect.name)
        for attempt in range(1, PORT_TRIES + 1):
            port = free_port()
            prepared = self.dialect.prepare(self.settings, port)
            child = start_child(prepared.command, port, log, prepared.environment)
            try:
                child.wait_ready(lambda port=port: self.dialect.ready(port), self.dialect.ready_s)  # type: ignore[misc]
                return child, prepared
            except ChildEnded as error:
                child.stop()
                if not error.busy or attempt == PORT_TRIES:
                    raise
            except BaseException:
                child.stop()
                raise
        raise AssertionError("the loop above returns or raises")

    def _child_ended(self, error: ChildEnded) -> None:
        self.fault = str(error)
        self._call(self._fail_all)

    # ------------------------------------------------------------------ answers.Owner

    def cancel(self, answer: Answer) -> None:
        """See `Owner.cancel`."""
        self._call(self._cancel, answer)

    def over(self, answer: Answer, reason: FinishReason, error: str = "") -> None:
        """See `Owner.over`."""
        if answer not in self._running:
            return
        del self._running[answer]
        self._round.discard(answer)
        if answer.stream is not None:
            answer.stream.close()
        self._generated += len(answer.ids)
        self._cached += answer.cached_tokens
        if reason == "error" and self.fault:
            error = self.fault
        answer.listener.finished(reason, error)
        self._fill()

    def again(self, answer: Answer) -> None:
        """See `Owner.again`."""
        if answer in self._running:
            if answer.stream is not None:
                answer.stream.close()
            answer.begin_part(self._open)

    def lost(self, answer: Answer, error: str) -> None:
        """See `Owner.lost`. A child that ends loses its connections first, and its log says more than they do."""
        self._loop.call_later(END_SEEN_S, self.over, answer, "error", error)

    def stepped(self, answer: Answer) -> None:
        """See `Owner.stepped`. An answer that is heard again has begun a new step of the batch."""
        if answer in self._round:
            self._round.clear()
        if not self._round:
            self._steps += 1
        self._round.add(answer)

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, function: Callable[..., None], *arguments: Any) -> bool:
        """Run it on the loop; False when the engine is closed."""
        if self._closed:
            return False
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # closed in between
            return False
        return True

    def _admit(self, answer: Answer) -> None:
        if self.fault:
            answer.listener.finished("error", self.fault)
        elif self._closed:
            answer.listener.finished("cancelled")
        else:
            self._waiting.append(answer)
            self._fill()

    def _fill(self) -> None:
        assert self._facts is not None
        while self._waiting and len(self._running) < self._facts.slots and not self.fault and not self._closed:
            answer = self._waiting.popleft()
            self._running[answer] = None
            self._prompt_tokens += len(answer.request.prompt)
            answer.begin_part(self._open)

    def _open(self, answer: Answer) -> EventStream:
        assert self._prepared is not None and self._child is not None
        body = orjson.dumps(self.dialect.body(self.settings, answer.request, answer.ids), option=orjson.OPT_NON_STR_KEYS)
        request = request_bytes(self._child.port, self._prepared.path, self._prepared.key, body)
        return open_stream(self._loop, self._child.port, request, answer)

    def _cancel(self, answer: Answer) -> None:
        if answer in self._waiting:
            self._waiting.remove(answer)
            answer.listener.finished("cancelled")
        else:
            self.over(answer, "cancelled")

    def _cancel_all(self) -> None:
        self._end_all("cancelled", "")

    def _fail_all(self) -> None:
        self._end_all("error", self.fault)

    def _end_all(self, reason: FinishReason, error: str) -> None:
        waiting = list(self._waiting)
        self._waiting.clear()
        for answer in list(self._running):
            self.over(answer, reason, error)
        for answer in waiting:
            answer.listener.finished(reason, error)
