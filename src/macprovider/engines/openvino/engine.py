"""The OpenVINO engine: OpenVINO GenAI's continuous batching in this process, over our own GGUF export of the model.

One thread owns the pipeline: it hands requests in, makes one step for all of them, and passes on what the step brought. What the
pipeline really has is read back from it: the bytes of its cache tell the precision, since each one has its own size.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from macprovider.engines.base import (
    EngineError,
    EngineFacts,
    EngineMetrics,
    EngineSettings,
    Feature,
    FinishReason,
    GenerationRequest,
    Listener,
    Token,
)
from macprovider.engines.gguf_file import exported
from macprovider.engines.openvino.setup import (
    BLOCK,
    PRECISIONS,
    WEIGHTS,
    configuration,
    confirmed_cache,
    described,
    last_line,
    library,
    properties,
    refuse,
    scheduler,
)
from macprovider.engines.openvino.signal_stack import kept_signal_stack

FEATURES: frozenset[Feature] = frozenset({"logprobs", "seed", "penalties", "top_k"})


@dataclass(eq=False)
class _Answer:
    """A request on its way. made: tokens the listener has heard."""

    request: GenerationRequest
    listener: Listener
    handle: Any = None
    made: int = 0
    cancelled: bool = False
    cached_tokens: int = field(default=0)

    def cancel(self) -> None:
        self.cancelled = True


class OpenVinoEngine:
    """See `macprovider.engines.base.Engine`. fault: why it can answer nothing any more, "" while it can."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.fault = ""
        self._pipeline: Any = None
        self._waiting: deque[_Answer] = deque()
        self._running: list[_Answer] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._numbers = 0
        self._held = False  # a cancelled request keeps its blocks until the next step, and a prompt that needs them would be dropped
        self._prompt_tokens = self._generated = self._steps = 0
        self._vocabulary = self._kv_bytes = self._capacity = 0
        self._facts: EngineFacts | None = None
        self._build: Callable[[], int] = lambda: 0

    def load(self) -> EngineFacts:
        genai = library()
        settings = self.settings
        refuse(settings)
        model = described(settings)
        weights = exported(settings.folder, settings.model, WEIGHTS[settings.dtype])
        blocks = settings.max_batch * -(-settings.max_context // BLOCK)
        asked = PRECISIONS[settings.kv_bits]

        def build() -> int:
            with kept_signal_stack():
                pipeline = genai.ContinuousBatchingPipeline(str(weights), scheduler(settings, blocks), "CPU", properties(settings, asked))
                self._pipeline = pipeline
                return self._first_token()

        try:
            cache_bytes = build()
        except (RuntimeError, IndexError) as error:
            self._pipeline = None
            raise EngineError(f"openvino: the model {settings.model} could not be loaded: {last_line(error)}") from error
        self._build = build
        self._vocabulary = model.shape.vocabulary
        per_token, notes = confirmed_cache(cache_bytes, blocks, model, asked)
        self._facts = EngineFacts(
            engine="openvino",
            version=genai.__version__,
            context=min(settings.max_context, blocks * BLOCK // settings.max_batch),
            slots=settings.max_batch,
            kv_bits=settings.kv_bits,
            kv_bytes_per_token=per_token,
            weight_bytes=weights.stat().st_size,
            dtype="float16" if WEIGHTS[settings.dtype] == "f16" else WEIGHTS[settings.dtype],
            accelerator=None,
            features=FEATURES,
            notes=notes,
        )
        self._kv_bytes = round(per_token * blocks * BLOCK)
        self._capacity = blocks * BLOCK
        self._thread = threading.Thread(target=self._loop, name="openvino engine", daemon=True)
        self._thread.start()
        return self._facts

    def submit(self, request: GenerationRequest, listener: Listener) -> _Answer:
        if self._facts is None:
            raise EngineError("openvino: the engine is not loaded; call load first.")
        if not request.prompt:
            raise EngineError("openvino: found an empty prompt; allowed: at least one token.")
        if len(request.prompt) + request.max_tokens > self._facts.context:
            raise EngineError(
                f"openvino: found {len(request.prompt)} prompt tokens and {request.max_tokens} to answer; "
                f"allowed: {self._facts.context} together. Shorten the prompt or serve with a larger --max-context."
            )
        if not all(0 <= token < self._vocabulary for token in request.prompt):
            raise EngineError(f"openvino: found a token id outside the vocabulary; allowed: 0 to {self._vocabulary - 1}.")
        if request.json_schema is not None:
            raise EngineError("openvino: found a JSON Schema; this engine holds no answer to one. Serve by --engine transformers.")
        if request.top_logprobs:
            raise EngineError("openvino: found top_logprobs above 0; allowed: 0, the log-probabilities of the answer's own tokens.")
        if request.sampling.logit_bias:
            raise EngineError("openvino: found logit_bias; this engine has none. Leave it out or serve by --engine transformers.")
        answer = _Answer(request, listener)
        with self._wake:
            if self._closed or self.fault:
                raise EngineError(self.fault or "The engine is closed; start the server again.")
            self._waiting.append(answer)
            self._wake.notify()
        return answer

    def metrics(self) -> EngineMetrics:
        running = list(self._running)
        return EngineMetrics(
            running=len(running),
            waiting=len(self._waiting),
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=0,
            generated_tokens=self._generated,
            steps=self._steps,
            kv_tokens=sum(len(answer.request.prompt) + answer.made for answer in running),
            kv_capacity=self._capacity,
            kv_bytes=self._kv_bytes,
        )

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._pipeline = None

    def _first_token(self) -> int:
        """Bytes of the cache, which is there after one step only."""
        self._add(_Answer(GenerationRequest([1], 1), _Nobody()))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return int(self._pipeline.get_metrics().cache_size_in_bytes)

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not self._running and not self._waiting:
                    self._wake.wait()
                if self._closed:
                    break
                admitted = []
                while self._waiting and len(self._running) < self.settings.max_batch and not self._held:
                    admitted.append(self._waiting.popleft())
                    self._running.append(admitted[-1])
            for answer in admitted:
                self._guarded(answer, self._admit)
            if self._held or any(answer.handle is not None for answer in self._running):
                self._held = False
                self._step()
            for answer in list(self._running):
                self._guarded(answer, self._pass_on)
        unfinished = [*self._running, *self._waiting]
        for answer in unfinished:
            if answer.handle is not None:
                answer.handle.cancel()
                self._held = True
        self._running.clear()
        self._waiting.clear()
        if self._held:
            self._step()  # the pipeline complains at its end of blocks that a cancelled request still holds
        for answer in unfinished:
            answer.listener.finished("cancelled")

    def _step(self) -> None:
        """One token, or a piece of its prompt, for every running answer. A pipeline that failed is of no more use: a new one is built."""
        try:
            if not self._pipeline.has_non_finished_requests():
                return
            self._pipeline.step()
            self._steps += 1
        except RuntimeError as error:
            for answer in list(self._running):
                answer.handle = None  # nothing more can be asked of the old pipeline
                self._end(answer, "error", f"openvino: a step failed: {last_line(error)}")
            self._rebuild()

    def _rebuild(self) -> None:
        self._held = False
        try:
            self._build()
        except (RuntimeError, IndexError) as error:
            with self._wake:
                self.fault = (
                    f"openvino: after a failed step the model could not be loaded again ({last_line(error)}); start the server again."
                )
                waiting, self._waiting = list(self._waiting), deque()
            for answer in waiting:
                answer.listener.finished("error", self.fault)

    def _guarded(self, answer: _Answer, work: Callable[[_Answer], None]) -> None:
        """What fails for one answer is told to its listener and to nobody else."""
        try:
            work(answer)
        except Exception as error:  # noqa: BLE001 - the library raises what it likes; every failure has a reader
            self._end(answer, "error", f"openvino: the request failed: {last_line(error)}")

    def _admit(self, answer: _Answer) -> None:
        if answer.cancelled:
            self._end(answer, "cancelled")
            return
        self._add(answer)
        self._prompt_tokens += len(answer.request.prompt)

    def _add(self, answer: _Answer) -> None:
        import numpy
        import openvino

        prompt = numpy.asarray([list(answer.request.prompt)], dtype=numpy.int64)
        self._numbers += 1
        answer.handle = self._pipeline.add_request(self._numbers, openvino.Tensor(prompt), configuration(answer.request))

    def _pass_on(self, answer: _Answer) -> None:
        """Give the listener what the last step brought; end the answer where it ends."""
        if answer.cancelled:
            self._end(answer, "cancelled")
            return
        found: list[Token] = []
        reason: FinishReason | None = None
        while answer.handle.can_read() and reason is None:
            for output in answer.handle.read().values():
                for number, logprob in zip(output.generated_ids, output.generated_log_probs, strict=True):
                    if number in answer.request.stop_ids:
                        reason = "stop"
                        break
                    found.append(Token(number, logprob if answer.request.top_logprobs is not None else None))
        answer.made += len(found)
        self._generated += len(found)
        if found:
            answer.listener.tokens(found)
        status = answer.handle.get_status().name
        if reason is None and answer.made >= answer.request.max_tokens:
            reason = "length"
        elif reason is None and status == "FINISHED":
            reason = "stop"
        elif reason is None and status != "RUNNING":
            raise EngineError(f"the pipeline dropped it ({status.lower()}).")
        if reason is not None:
            self._end(answer, reason)

    def _end(self, answer: _Answer, reason: FinishReason, error: str = "") -> None:
        if answer in self._running:
            self._running.remove(answer)
            if answer.handle is not None:
                self._held = self._held or answer.handle.get_status().name == "RUNNING"
                answer.handle.cancel()  # harmless for one that has ended
            answer.listener.finished(reason, error)


class _Nobody:
    def tokens(self, tokens: Any) -> None:
        pass

    def finished(self, reason: FinishReason, error: str = "") -> None:
        pass
