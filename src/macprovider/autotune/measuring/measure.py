"""One measured request, and what several of them say together. Pure. (specs/autotune.md, 5.3)"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Replicate:
    """One request against a running candidate.

    ttft_ms: until the first non-empty content, None when there was none. seconds: of the whole request, prefill included.
    The token counts are the server's own `usage`. error: one sentence, "" for an answer that came whole. leak: the first
    stop token found in the text.
    """

    ttft_ms: float | None
    seconds: float
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str = ""
    leak: str = ""

    @property
    def tps(self) -> float | None:
        """Answered tokens per second; None without a count, and for a failed request."""
        if self.error or not self.completion_tokens or self.completion_tokens < 0 or self.seconds <= 0:
            return None
        return self.completion_tokens / self.seconds


@dataclass(frozen=True)
class Aggregate:
    """tps: median, with the least and the greatest beside it. ttft_p95_ms: see `p95`. n_err: failed requests."""

    tps: float | None
    tps_min: float | None
    tps_max: float | None
    ttft_p95_ms: float | None
    prompt_tokens: int | None
    n_err: int


def aggregate(replicates: Sequence[Replicate]) -> Aggregate:
    """What a cell's requests say together; None where no request said anything."""
    rates = [r.tps for r in replicates if r.tps is not None]
    times = [r.ttft_ms for r in replicates if r.ttft_ms is not None]
    prompts = [r.prompt_tokens for r in replicates if r.prompt_tokens is not None]
    return Aggregate(
        tps=statistics.median(rates) if rates else None,
        tps_min=min(rates, default=None),
        tps_max=max(rates, default=None),
        ttft_p95_ms=p95(times) if times else None,
        prompt_tokens=int(statistics.median(prompts)) if prompts else None,
        n_err=sum(bool(r.error) for r in replicates),
    )


def p95(values: Sequence[float]) -> float:
    """The maximum of fewer than 20 values, else the one at place `int(0.95 n) − 1` in order."""
    ordered = sorted(values)
    if len(ordered) < 20:
        return ordered[-1]
    return ordered[max(0, math.floor(0.95 * len(ordered)) - 1)]
