"""A trial's row as a report reads it: what was asked, every request, what the engine said of itself. Pure over rows.

Rows may be old, unfinished or damaged: whatever a row does not hold is None or empty, never a fault of the reader.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import orjson

from macprovider.autotune.plan import Knobs, kv_word
from macprovider.autotune.records.database import STARTED, Row, knobs_of_row
from macprovider.autotune.records.recommendation import unfinished


@dataclass(frozen=True)
class Measured:
    """One trial. number: its place among those of its stage, from 1. rates, times: tokens/s and ms to the first token of every
    request that has them, in their order. tps, ttft_ms: their median and p95. kv_bytes_per_token, weight_bytes: as the engine
    says. memory: predicted and peak bytes where they were taken. quality, limits: of the quality gate.
    """

    number: int
    stage: int
    model: str
    knobs: Knobs
    fits: bool
    kept: bool
    notes: str
    requests: int
    failed: int
    tps: float | None
    ttft_ms: float | None
    rates: tuple[float, ...]
    times: tuple[float, ...]
    load_s: float | None
    facts: Mapping[str, Any]
    memory: Mapping[str, Any]
    quality: Mapping[str, Any]
    limits: Mapping[str, Any]

    @property
    def kv_bytes_per_token(self) -> float | None:
        return finite(self.facts.get("kv_bytes_per_token"))

    @property
    def verdict(self) -> str:
        """`fits`, or in two words why not."""
        if self.fits:
            return "fits"
        if self.notes == STARTED or unfinished(self.notes):
            return "not finished"
        if self.notes.startswith("pre-warm transient"):
            return "not fetched"
        if self.notes.startswith("pre-warm integrity"):
            return "wrong weights"
        return "does not fit"

    @property
    def reason(self) -> str:
        """Why it does not fit, "" when it does."""
        return "" if self.fits else self.notes if self.notes != STARTED else "started, and no end was written"

    def label(self) -> str:
        """`kv 8, batch 2`"""
        return f"kv {kv_word(self.knobs.kv_bits)}, batch {self.knobs.max_batch}"

    def repair(self) -> str:
        """The file name of the operator, "" without one."""
        return "" if self.knobs.repair is None else PurePath(self.knobs.repair).name


def measured(trials: Sequence[Row], stage: int) -> list[Measured]:
    """The trials of a stage in the order they began."""
    return [_one(number, trial) for number, trial in enumerate((trial for trial in trials if trial["stage"] == stage), start=1)]


def finite(value: object) -> float | None:
    """A number, None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _one(number: int, trial: Row) -> Measured:
    held = _object(trial["measured_json"])
    replicates = held.get("replicates")
    asked = [one for one in replicates if isinstance(one, dict)] if isinstance(replicates, list) else []
    return Measured(
        number=number,
        stage=trial["stage"],
        model=trial["model"],
        knobs=knobs_of_row(trial),
        fits=bool(trial["fits"]),
        kept=bool(trial["kept"]),
        notes=trial["notes"] or "",
        requests=trial["replicates_n"] or 0,
        failed=trial["n_err"] or 0,
        tps=finite(trial["agg_throughput_tps"]),
        ttft_ms=finite(trial["ttft_p95_ms"]),
        rates=_all(asked, "tps"),
        times=_all(asked, "ttft_ms"),
        load_s=finite(held.get("load_s")),
        facts=_mapping(held, "engine"),
        memory=_mapping(held, "memory"),
        quality=_mapping(held, "quality"),
        limits=_mapping(held, "quality_limits"),
    )


def _object(text: str | None) -> dict[str, Any]:
    try:
        held = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}
    return held if isinstance(held, dict) else {}


def _mapping(held: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = held.get(name)
    return value if isinstance(value, dict) else {}


def _all(replicates: Sequence[Mapping[str, Any]], name: str) -> tuple[float, ...]:
    found = (finite(replicate.get(name)) for replicate in replicates)
    return tuple(value for value in found if value is not None)
