"""Parameter stability: weights that explode, vanish or jump, by the norm of each tensor. (specs/guild.md 2.9, 10.2 no. 22)

| Found | Rule | Severity |
|---|---|---|
| `not_finite` | a NaN or an infinity | critical |
| `exploding` | norm > 1000 | critical |
| `spike` | norm > 3 times that of the measurement before, which was not vanishing | warning |
| `large_value` | largest absolute value > 100 | warning |
| `vanishing` | norm < 0.001 | warning |

The thresholds stand here and in every document; there are no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from guild.analytics.documents import document
from guild.analytics.drift import extended
from guild.analytics.weights import layer_of, opened, sum_of_squares, tensors_of
from modelwright.clock import Clock, parse_stamp

NAME = "parameter_stability.json"
HISTORY = 200
EVERY_S = 600.0
"""Seconds between measurements."""
EXPLODING_NORM, LARGE_VALUE, VANISHING_NORM, SPIKE = 1000.0, 100.0, 0.001, 3.0
THRESHOLDS = {
    "exploding_norm": EXPLODING_NORM,
    "large_value": LARGE_VALUE,
    "vanishing_norm": VANISHING_NORM,
    "spike_ratio": SPIKE,
}
Severity = Literal["warning", "critical"]
Kind = Literal["not_finite", "exploding", "spike", "large_value", "vanishing"]


@dataclass(frozen=True)
class Parameter:
    """One tensor. norm: Frobenius. max_abs: largest absolute value. Both are NaN or infinite when one of its numbers is."""

    name: str
    norm: float
    max_abs: float
    size: int


@dataclass(frozen=True)
class Alert:
    """value: what broke the rule, `limit` what the rule allows."""

    name: str
    kind: Kind
    severity: Severity
    value: float
    limit: float | None

    def as_dict(self) -> dict[str, Any]:
        return {"parameter": self.name, "kind": self.kind, "severity": self.severity, "value": self.value, "limit": self.limit}


def measure(checkpoint: Path) -> list[Parameter]:
    """Every weight of a checkpoint folder. Raises what `tensors_of` raises."""
    import numpy as np

    tensors = {name: tensor for name, tensor in tensors_of(checkpoint).items() if tensor.trained and tensor.size}
    found = []
    with opened(tensors) as reader:
        for tensor in tensors.values():
            squares, largest = 0.0, 0.0
            for numbers in reader.chunks(tensor):
                squares += sum_of_squares(numbers)
                largest = float(np.maximum(largest, np.maximum(numbers.max(), -numbers.min())))  # np.maximum hands NaN on
            found.append(Parameter(tensor.name, math.sqrt(squares), largest, tensor.size))
    return found


def alerts_of(parameters: list[Parameter], former: Mapping[str, Any] | None = None) -> list[Alert]:
    """What breaks a rule, critical first. former: name → `{norm, …}` of the measurement before, at another step."""
    found: list[Alert] = []
    for one in parameters:
        if not (math.isfinite(one.norm) and math.isfinite(one.max_abs)):
            found.append(Alert(one.name, "not_finite", "critical", one.max_abs, None))
            continue
        if one.norm > EXPLODING_NORM:
            found.append(Alert(one.name, "exploding", "critical", one.norm, EXPLODING_NORM))
        if one.norm < VANISHING_NORM:
            found.append(Alert(one.name, "vanishing", "warning", one.norm, VANISHING_NORM))
        if one.max_abs > LARGE_VALUE:
            found.append(Alert(one.name, "large_value", "warning", one.max_abs, LARGE_VALUE))
        before = _norm(former, one.name)
        if before is not None and before >= VANISHING_NORM and one.norm > SPIKE * before:
            found.append(Alert(one.name, "spike", "warning", one.norm, SPIKE * before))
    return sorted(found, key=lambda alert: (alert.severity != "critical", alert.name, alert.kind))


def stability_document(
    parameters: list[Parameter], former: Mapping[str, Any] | None, *, step: int, checkpoint: str, clock: Clock
) -> dict[str, Any]:
    """`parameter_stability.json`: this measurement, what it found, and the history, oldest first, at most 200.

    A spike is one against the last measurement of another step, which the document keeps as `previous`.
    """
    told = former or {}
    same = told.get("step") == step
    previous_step, previous = (told.get("previous_step"), told.get("previous")) if same else (told.get("step"), told.get("parameters"))
    known = previous if isinstance(previous, Mapping) else None
    alerts = alerts_of(parameters, known)
    kinds = [alert.kind for alert in alerts]
    status = "no data" if not parameters else alerts[0].severity if alerts else "healthy"
    total = math.sqrt(sum(one.norm**2 for one in parameters))
    largest = max(parameters, key=lambda one: math.inf if math.isnan(one.max_abs) else one.max_abs, default=None)
    made = document(
        status, clock, step=step, checkpoint=checkpoint, thresholds=THRESHOLDS, total_norm=total,
        max_abs=None if largest is None else largest.max_abs, max_abs_parameter=None if largest is None else largest.name,
        counts={kind: kinds.count(kind) for kind in ("not_finite", "exploding", "spike", "large_value", "vanishing")},
        alerts=[alert.as_dict() for alert in alerts],
        parameters={one.name: {"norm": one.norm, "max_abs": one.max_abs, "layer": layer_of(one.name)} for one in parameters},
        previous_step=previous_step, previous=known,
    )  # fmt: skip
    entry = {name: made[name] for name in ("step", "status", "total_norm", "max_abs")} | {
        "timestamp": made["generated_at"], "counts": made["counts"]
    }  # fmt: skip
    return {**made, "history": extended(told.get("history"), entry, HISTORY)}


def due(former: Mapping[str, Any] | None, step: int, now: datetime) -> bool:
    """Whether to measure: a step that was not measured, 600 s after the last measurement. former: the document as it stands."""
    if not former or former.get("step") is None:
        return True
    if former["step"] == step:
        return False  # the weights of a step do not change
    try:
        return (now - parse_stamp(str(former.get("generated_at")))).total_seconds() >= EVERY_S
    except ValueError:
        return True


def _norm(former: Mapping[str, Any] | None, name: str) -> float | None:
    told = (former or {}).get(name)
    value = told.get("norm") if isinstance(told, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None
