"""Counters of the server, and Prometheus text: vLLM's names where the meaning is the same, `macprovider:` for the rest.

Source of the names: vLLM, docs/design/metrics. Text format: Prometheus exposition format 0.0.4.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, dict[str, str], float]


class Histogram:
    """Counts by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total, self.count = 0.0, 0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value
        self.count += 1

    def samples(self, name: str) -> Iterable[Sample]:
        below = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            yield f"{name}_bucket", {"le": "+Inf" if bound == float("inf") else f"{bound:g}"}, below
        yield f"{name}_sum", {}, self.total
        yield f"{name}_count", {}, self.count


@dataclass
class Counters:
    """What the server has done since its start. finished: requests by finish reason ("stop", "length", "tool_calls", "abort",
    "error"); refused: by error code."""

    requests: int = 0
    errors: int = 0
    disconnects: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    first_token: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    whole: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    queued: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    per_token: Histogram = field(default_factory=lambda: Histogram(PER_TOKEN))
    prompt_tokens: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    generation_tokens: Histogram = field(default_factory=lambda: Histogram(TOKENS))


@dataclass(frozen=True)
class Family:
    """One metric with all its samples."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


def gauge(name: str, text: str, value: float, **labels: str) -> Family:
    return Family(name, "gauge", text, ((name, labels, value),))


def counter(name: str, text: str, value: float) -> Family:
    return Family(name, "counter", text, ((name, {}, value),))


def counters(name: str, text: str, label: str, values: dict[str, int]) -> Family:
    """One counter with a label; the empty one still stands in the text, so that a dashboard finds it."""
    return Family(name, "counter", text, tuple((name, {label: key}, value) for key, value in sorted(values.items())))


def histogram(name: str, text: str, values: Histogram) -> Family:
    return Family(name, "histogram", text, tuple(values.samples(name)))


def exposition(families: Iterable[Family], common: dict[str, str]) -> str:
    """The text that Prometheus reads; `common` labels stand on every sample."""
    lines = []
    for family in families:
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{name}{_labels({**common, **labels})} {_value(value)}" for name, labels, value in family.samples]
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}" if labels else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
