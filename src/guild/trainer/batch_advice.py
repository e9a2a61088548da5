"""The batch-size advisor: which micro-batch would use the GPU's memory, by what files have used so far. (specs/guild.md 2.1.1)

It aims at a peak of 21 GB, the larger part of a 24 GB card, and only advises: nothing sets a batch size by itself. The effective batch
stays as it is, since another one would be another training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TARGET_GB = 21.0
LARGEST_BATCH = 128
"""The range of `batch_size`. (2.1.1)"""


@dataclass(frozen=True)
class BatchAdvice:
    """batch_size, gradient_accumulation: to be set. expected_gb: its peak in 10^9 bytes at the most, None when it can only be said that
    the present one is too large."""

    batch_size: int
    gradient_accumulation: int
    expected_gb: float | None
    sentence: str


def batch_advice(
    history: Sequence[Mapping[str, Any]], batch_size: int, gradient_accumulation: int, *, target_gb: float = TARGET_GB
) -> BatchAdvice | None:
    """The largest micro-batch of the same effective batch whose peak stays below `target_gb`; None when it is the present one, or when
    nobody measured the present one.

    history: lines of `logs/run_history.jsonl` of one campaign on one machine, of the same `max_length_config`.
    """
    peaks = _peaks(history)
    too_large = min((int(line["batch_size"]) for line in history if line.get("error_type") == "out_of_memory"), default=LARGEST_BATCH + 1)
    if batch_size not in peaks and batch_size < too_large:
        return None
    effective = batch_size * gradient_accumulation
    sizes = [size for size in range(1, min(effective, LARGEST_BATCH) + 1) if effective % size == 0 and size < too_large]
    expected = {size: _expected(peaks, size) for size in sizes}
    fitting = [size for size, peak in expected.items() if peak is not None and peak <= target_gb]
    smaller = [size for size in sizes if size < batch_size]
    if fitting:
        chosen = max(fitting)
    elif smaller:
        chosen = max(smaller)  # too large as it is; how much smaller it must be shows with the next file
    else:
        return None
    if chosen == batch_size:
        return None
    return BatchAdvice(
        chosen, effective // chosen, expected[chosen], _sentence(chosen, effective, expected[chosen], batch_size, peaks, target_gb)
    )


def _peaks(history: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Micro-batch → the highest peak that a file had with it."""
    peaks: dict[int, float] = {}
    for line in history:
        peak = line.get("gpu_peak_alloc_gb")
        if isinstance(peak, int | float) and peak > 0 and line.get("error_type") != "out_of_memory":
            size = int(line["batch_size"])
            peaks[size] = max(peaks.get(size, 0.0), float(peak))
    return peaks


def _expected(peaks: Mapping[int, float], size: int) -> float | None:
    """An upper bound of the peak with a micro-batch of `size`; None below all that was measured.

    A peak is a part that stays (weights, optimizer) and one that grows with the micro-batch. The two largest sizes measured tell both; one
    alone bounds what is larger, as if all of it grew.
    """
    if size in peaks:
        return peaks[size]
    measured = sorted(peaks)
    if not measured or size < measured[0]:
        return None
    below = [one for one in measured if one < size]
    if len(below) < 2:
        return peaks[below[-1]] * size / below[-1]
    small, large = below[-2:]
    grows = max(0.0, (peaks[large] - peaks[small]) / (large - small))
    return peaks[large] + grows * (size - large)


def _sentence(chosen: int, effective: int, expected: float | None, now: int, peaks: Mapping[int, float], target_gb: float) -> str:
    used = f"Micro-batches of {now} used up to {peaks[now]:.1f} GB of GPU memory" if now in peaks else f"Micro-batches of {now} did not fit"
    then = "would use less" if expected is None else f"would use about {expected:.1f} GB at the most"
    setting = f"batch_size={chosen} gradient_accumulation={effective // chosen}"
    return f"{used}; the aim is {target_gb:g} GB. {setting} {then} and keeps the effective batch of {effective}."
