"""The numbers of a stability measurement as its files show them: points with their spread, rows, log lines. (specs/medic.md, 5.3)

A value that is not finite stands as null. Needs no torch to be imported by readers of these records.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachemedicpp.sensitivity.measure import AmplificationRow, CurvePoint, Drifts


def point_record(point: CurvePoint, items: Sequence[int], curves: Sequence[str]) -> dict[str, Any]:
    """One point of the sensitivity curves. items: the line of every prompt; prompts of the same line count as one in the spread.

    curves: every name the record has; one that was not measured is null.
    """
    measured = {name: sensitivity(drifts, items) for name, drifts in point.variants.items()}
    return {"delta_norm": point.delta, **{name: measured.get(name) for name in curves}, **point.norms}


def sensitivity(drifts: Drifts, items: Sequence[int]) -> dict[str, Any]:
    """`value`, `value_at_zero`, `excess`, `response` with standard errors over prompts, and `per_prompt`. [C18]"""
    excess = [value - zero for value, zero in zip(drifts.value, drifts.at_zero, strict=True)]
    value, zero = _mean(drifts.value), _mean(drifts.at_zero)
    return {
        "value": _finite(value),
        "value_at_zero": _finite(zero),
        "excess": _finite(value - zero),
        "response": _finite(_mean(drifts.response)),
        "standard_error": standard_error(drifts.value, items),
        "excess_standard_error": standard_error(excess, items),
        "response_standard_error": standard_error(drifts.response, items),
        "per_prompt": [_finite(one) for one in drifts.value],
    }


def standard_error(values: Sequence[float], items: Sequence[int]) -> float | None:
    """Standard error of the mean of `values`, those of the same item counted as one draw.

    `sqrt(n/(n-1) * sum_i (s_i - c_i m)^2) / N` over n items with sums `s_i` and counts `c_i`, N values of mean m (Cochran 1977,
    6.4); the usual one where every item stands once. None for fewer than two items or a value that is not finite.
    """
    sums: dict[int, tuple[float, int]] = {}
    for value, item in zip(values, items, strict=True):
        total, count = sums.get(item, (0.0, 0))
        sums[item] = (total + value, count + 1)
    n, mean = len(sums), _mean(values)
    if n < 2 or not math.isfinite(mean):
        return None
    spread = sum((total - count * mean) ** 2 for total, count in sums.values())
    return math.sqrt(n / (n - 1) * spread) / len(values)


def row_record(row: AmplificationRow) -> dict[str, Any]:
    """One layer of the amplification map."""
    return {
        "layer": row.layer,
        "baseline": [_finite(value) for value in row.baseline],
        "cachemedic": [_finite(value) for value in row.repaired],
        "cachemedic_response": [_finite(value) for value in row.response],
    }


def map_record(heads: Sequence[int], rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The amplification map, `[layers][heads]`, from the records of its rows."""
    held = list(rows)
    columns = ("baseline", "cachemedic", "cachemedic_response")
    return {"layers": [row["layer"] for row in held], "heads": list(heads), **{name: [row[name] for row in held] for name in columns}}


def log_lines(run_id: str, now: str, points: Sequence[Mapping[str, Any]], curves: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of `logs/stability.jsonl`, one per curve point; `step` is its number, from 1. now: time stamp."""
    lines = []
    for number, point in enumerate(points, start=1):
        values = {name: None if point[name] is None else point[name]["value"] for name in curves}
        head = {"run_id": run_id, "phase": "stability", "timestamp_utc": now, "step": number}
        lines.append({**head, "delta_norm": point["delta_norm"], **values})
    return lines


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
