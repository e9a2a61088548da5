"""The interface between a server and whatever computes its answers.

An engine takes token ids and gives token ids: text, chat templates, stop strings and HTTP are the server's. It works in
threads or processes of its own; `submit` returns at once and a `Listener` hears the rest. What an engine cannot do stands in
none of its `EngineFacts.features`, and the server refuses it by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from modelwright.errors import ModelwrightError

EngineName = Literal["transformers", "openvino", "llamacpp", "vllm", "mlx"]
KvBits = Literal[4, 8]
Feature = Literal["logprobs", "top_logprobs", "json_schema", "seed", "penalties", "logit_bias", "top_k", "repair", "prefix_reuse"]
FinishReason = Literal["stop", "length", "cancelled", "error", "refused"]
"""`refused`: the request itself asks for what cannot be computed, found out only when it was tried."""


class EngineError(ModelwrightError):
    """The engine could not load, or cannot do what was asked; one sentence."""

    exit_code = 1


@dataclass(frozen=True)
class EngineSettings:
    """What `serve` asks of an engine.

    model: the id as given. folder: its local files. kv_bits: None leaves the cache as the engine keeps it without
    quantisation. max_context: tokens of prompt and answer of one request. max_batch: requests at the same time. threads: of
    the processor, None for the engine's choice. repair: a CacheMedic checkpoint.
    """

    model: str
    folder: Path
    kv_bits: KvBits | None = None
    max_context: int = 2048
    max_batch: int = 1
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    repair: Path | None = None
    prefix_reuse: bool = True


@dataclass(frozen=True)
class EngineFacts:
    """What the engine really has, read back after loading, never copied from the settings.

    context: tokens of one request. slots: requests at the same time. kv_bits: 4, 8, or None for an unquantised cache.
    kv_bytes_per_token: of all layers, at the full context. weight_bytes: of the weights in memory. accelerator: None on a
    processor. repair: the file of the operator that every step runs with, None without one.
    """

    engine: EngineName
    version: str
    context: int
    slots: int
    kv_bits: KvBits | None
    kv_bytes_per_token: float
    weight_bytes: int
    dtype: str
    accelerator: str | None
    features: frozenset[Feature]
    notes: tuple[str, ...] = ()
    repair: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the most likely one. seed: of this request alone; None for chance.

    top_k: 0 for all. The penalties are those of the OpenAI interface, over the tokens answered so far. logit_bias: token id to
    what is added to its logit.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """One answer. stop_ids end it and are not part of it. top_logprobs: None for no log-probabilities, 0 for those of the
    tokens alone. json_schema: the answer is text of this JSON Schema, as JSON text.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop_ids: frozenset[int] = frozenset()
    top_logprobs: int | None = None
    json_schema: str | None = None


class Token(NamedTuple):
    """A token of an answer. logprob: natural, of the model's distribution before temperature and truncation. top: the most
    likely ids with theirs, best first.
    """

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Listener(Protocol):
    """Hears one answer, from a thread of the engine; must return at once and never raise."""

    def tokens(self, tokens: Sequence[Token]) -> None:
        """The next tokens, at least one."""

    def finished(self, reason: FinishReason, error: str = "") -> None:
        """The last call. error: one sentence, with the reasons "error" and "refused"."""


class Ticket(Protocol):
    """A submitted request."""

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that came from an earlier request's cache; known when the first token is."""

    def cancel(self) -> None:
        """Give its slot back soon; the listener hears "cancelled" unless it has heard another end."""


@dataclass(frozen=True)
class EngineMetrics:
    """Counters since loading, and what holds now. kv_tokens: cached tokens of running requests; kv_bytes: what the cache holds
    in memory. kv_capacity: tokens that fit.
    """

    running: int
    waiting: int
    prompt_tokens: int
    cached_prompt_tokens: int
    generated_tokens: int
    steps: int
    kv_tokens: int
    kv_capacity: int
    kv_bytes: int


class Engine(Protocol):
    """One loaded model. `submit` beyond `EngineFacts.slots` waits inside the engine, first come first served."""

    def load(self) -> EngineFacts:
        """Load the model and allocate the cache. Raises EngineError or another ModelwrightError; leaves nothing running."""

    def submit(self, request: GenerationRequest, listener: Listener) -> Ticket:
        """Start one answer. Raises EngineError for a prompt that does not fit and for a feature the engine lacks."""

    def metrics(self) -> EngineMetrics:
        """Cheap, from any thread."""

    def close(self) -> None:
        """Cancel everything and free what is held; harmless when called twice."""


def fault_of(engine: Engine) -> str:
    """Why the engine can answer nothing any more, one sentence, "" while it can. Only an engine whose work another process does has
    such a state: its attribute `fault`.
    """
    return str(getattr(engine, "fault", ""))
