"""The units of an evaluation as its files show them: records, throughput, log lines. (specs/medic.md, 6.6, 6.7, 8.5) Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cachemedicpp.evaluation.aggregation import Cell
from cachemedicpp.evaluation.grid import DEFENCES, Unit

CURVES = ("no_defense", "best_heuristic", "cachemedic")


def places(units: Iterable[Unit], task: str) -> list[list[Unit]]:
    """The units of a task, the six of one place of the grid together, in grid order."""
    found: dict[tuple[str, str, float], list[Unit]] = {}
    for unit in units:
        if unit.task == task:
            found.setdefault((unit.stage, unit.corruption_type, unit.epsilon), []).append(unit)
    return list(found.values())


def shown(unit: Unit) -> dict[str, Any]:
    """A unit as heartbeats and records name it."""
    place = {"unit_key": unit.key, "stage": unit.stage, "task": unit.task, "defense": unit.defence}
    return {**place, "corruption_type": unit.corruption_type, "epsilon": unit.epsilon}


def unit_record(cell: Cell, tokens: int, seconds: float, gpu_mem_gb: float | None) -> dict[str, Any]:
    """The record of a finished unit. tokens: scored; seconds: of the defence and the scored tails; gpu_mem_gb: peak, GiB."""
    result = cell.result
    return {
        **shown(cell.unit),
        "value": result.value if math.isfinite(result.value) else None,
        "score": result.score,
        "standard_error": result.standard_error,
        "tokens": tokens,
        "elapsed_sec": seconds,
        "gpu_mem_gb": gpu_mem_gb,
    }


def throughput(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`tokens_per_sec`, `wall_time_sec` and peak `gpu_mem_gb` over records; null where nothing was timed."""
    held = list(records)
    tokens, seconds = sum(record["tokens"] for record in held), sum(record["elapsed_sec"] for record in held)
    peaks = [record["gpu_mem_gb"] for record in held if record["gpu_mem_gb"] is not None]
    return {"tokens_per_sec": tokens / seconds if seconds else None, "wall_time_sec": seconds, "gpu_mem_gb": max(peaks, default=None)}


def overhead(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The throughput of each defence over its measured cells. (6.6)"""
    return {name: throughput(record for record in records if record["defense"] == name) for name in DEFENCES}


def log_lines(run_id: str, now: str, metrics: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of `logs/eval.jsonl`, one per epsilon; at 0 the throughput is that of the clean cells.

    now: time stamp. metrics: what `comparison.aggregate` returned.
    """
    curves = metrics["score_vs_eps"]
    lines = []
    for place, epsilon in enumerate(curves["eps"]):
        total = throughput(record for record in records if record["epsilon"] == epsilon)
        lines.append(
            {
                "run_id": run_id,
                "phase": "eval",
                "timestamp_utc": now,
                "step": round(1000 * epsilon),
                "epsilon": epsilon,
                "best_heuristic": metrics["best_heuristic_name"],
                **{f"score_{name}": curves[name][place] for name in CURVES},
                "tokens_per_sec": total["tokens_per_sec"],
                "gpu_mem_gb": total["gpu_mem_gb"],
            }
        )
    return lines
