"""Telemetry: metric events to the local file and, when asked, to other places that must never slow training down.

The file is written by the kernel's `MetricWriter`, the one way to write metric events; this module adds the metric
catalogue, the telemetry profiles and the sinks beside the file. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.metrics import MetricWriter

CATALOGUE: dict[str, str] = {
    "train/loss": "training loss of an optimizer step, nats per token",
    "train/grad_norm": "gradient norm before clipping",
    "train/learning_rate": "learning rate of the step",
    "train/tokens": "tokens trained so far",
    "eval/perplexity": "evaluation perplexity; the only perplexity the breaker sees",
    "eval/accuracy": "mean probe accuracy of a rung, 0 to 1",
    "eval/bpb": "bits per byte of held-out text",
    "probe/<name>/<length>": "score of a probe at a length, 0 to 1",
    "throughput/tokens_per_s": "trained tokens per second",
    "hw/*": "memory, temperature and load of the machine",
    "safety/*": "breaker verdicts, schema violations, rollbacks",
    "human/*": "approvals, aborts, overrides",
    "context/*": "rungs and their RoPE parameters",
    "run/resumed": "a resumed attempt goes on behind this step",
}
LOG_EVERY: dict[str, int] = {"standard": 10, "high_resolution": 1, "detailed": 1, "exploratory": 1}


@dataclass(frozen=True)
class ProfileMeaning:
    """What a telemetry profile records beside the plain metrics. `log_every` is in optimizer steps."""

    log_every: int
    length_curve: bool = False  # perplexity by length
    norms: bool = False  # norms of gradients and adapters
    generations: bool = False  # sampled text; local sink only


PROFILES: dict[str, ProfileMeaning] = {
    "standard": ProfileMeaning(LOG_EVERY["standard"]),
    "high_resolution": ProfileMeaning(LOG_EVERY["high_resolution"], length_curve=True),
    "detailed": ProfileMeaning(LOG_EVERY["detailed"], length_curve=True, norms=True),
    "exploratory": ProfileMeaning(LOG_EVERY["exploratory"], length_curve=True, norms=True, generations=True),
}


@dataclass(frozen=True)
class TelemetryConfig:
    """Where events go. `flush_every` events are written together; 1 loses nothing to a kill."""

    metrics_path: str | Path
    flush_every: int = 1


@dataclass(frozen=True)
class TelemetryEnvelope:
    """What a dashboard or a learner needs beside the events (the seed's data contract)."""

    config: dict[str, Any]
    hardware: dict[str, Any]
    metrics_path: str
    telegram_path: str


class Sink(Protocol):
    """A further destination of events. `emit` must return at once; `flush` and `close` may wait a bounded time."""

    def emit(self, event: dict[str, Any]) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class MetricsLogger:
    """Writes every event to the local file and hands it to the sinks; remembers the newest value of each metric.

    `writer` is given when the run directory already opened one. Use as a context manager, or close it.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        writer: MetricWriter | None = None,
        sinks: Iterable[Sink] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.config = config
        self.writer = writer or MetricWriter(Path(config.metrics_path), flush_every=config.flush_every, clock=clock)
        self.sinks = list(sinks)
        self._clock = clock
        self._newest: dict[str, dict[str, Any]] = {}

    def log(self, metric: str, value: float | None, step: int | None = None, extra: dict[str, Any] | None = None) -> None:
        """Record one event. Raises ValueError when `extra` bears the name of a core field."""
        extra = extra or {}
        self.writer.log(metric, value, step, **extra)
        event = event_of(metric, value, step, extra, stamp(self._clock.now()))
        self._newest[metric] = event
        for sink in self.sinks:
            sink.emit(event)

    def flush(self) -> None:
        """Write what is buffered and give the sinks a chance to send."""
        self.writer.flush()
        for sink in self.sinks:
            sink.flush()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """The newest event of every metric."""
        return {metric: dict(event) for metric, event in self._newest.items()}

    def close(self) -> None:
        """Flush and close the file and every sink."""
        self.writer.close()
        for sink in self.sinks:
            sink.close()

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def event_of(metric: str, value: float | None, step: int | None, extra: dict[str, Any], timestamp: str) -> dict[str, Any]:
    """A MetricEvent as sinks get it: NaN and infinities as null beside `nonfinite`, so that it is valid JSON."""
    event: dict[str, Any] = {"timestamp": timestamp, "metric": metric, "value": value}
    if value is not None and not math.isfinite(value):
        event["value"] = None
        event["nonfinite"] = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if step is not None:
        event["step"] = step
    return {**event, **extra}


def open_sinks(destination: str, endpoint: str | None) -> list[Sink]:
    """The sinks beside the local file for a telemetry destination: none for `local`, one for `http`.

    Raises UsageError for a destination that this version does not have.
    """
    from modelwright.errors import UsageError

    if destination == "local":
        return []
    if destination == "http" and endpoint:
        from scaler_wizard.http_sink import HttpSink

        return [HttpSink(endpoint)]
    raise UsageError(
        f"The telemetry destination {destination!r} (endpoint {endpoint!r}) cannot be used; allowed are local, and http with an "
        "endpoint. A WebSocket client is not part of this version."
    )
