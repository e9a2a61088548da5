"""Layer drift: how far each layer went from the base model. (specs/guild.md 2.9)

    drift of a layer = ‖W − W_base‖ / ‖W_base‖, Frobenius norms over all its tensors

Layer -1 is the embeddings; what lies behind the last layer (final norm, output head) is `other`. The pattern compares the mean drift of
the first quarter of the layers, next to the embeddings (bottom), with that of the last quarter (top): heavy where one is more than twice
the other. A layer whose drift is above `FAR` is a warning: one that vanished has 1, one that is nine times what it was has 8, and
fine-tuning moves a trained model's layers by a few hundredths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guild.analytics.documents import Status, document
from guild.analytics.weights import EMBEDDINGS, Tensor, layer_of, opened, sum_of_squares, tensors_of
from modelwright.clock import Clock
from modelwright.errors import ConfigError, Fault

NAME = "layer_drift.json"
HISTORY = 100
HEAVY = 2.0
"""How many times the other quarter makes a pattern."""
FAR = 0.9
"""Drift of a layer above which the document warns."""
Pattern = Literal["top_heavy", "bottom_heavy", "even", "unknown"]


@dataclass
class Group:
    """Sums over the tensors of one layer. delta, reference: of squares."""

    delta: float = 0.0
    reference: float = 0.0
    tensors: int = 0
    parameters: int = 0

    @property
    def drift(self) -> float | None:
        """None when a norm is no number, or when the reference is zero and the layer is not: there is no ratio to a zero."""
        if not (math.isfinite(self.delta) and math.isfinite(self.reference)):
            return None
        if self.reference:
            return math.sqrt(self.delta / self.reference)
        return None if self.delta else 0.0

    def add(self, other: Group) -> None:
        self.delta += other.delta
        self.reference += other.reference
        self.tensors += other.tensors
        self.parameters += other.parameters

    def as_dict(self) -> dict[str, Any]:
        norms = {"delta_norm": math.sqrt(self.delta), "reference_norm": math.sqrt(self.reference)}  # sqrt(nan) is nan, sqrt(inf) inf
        return {"drift": self.drift, **norms, "tensors": self.tensors, "parameters": self.parameters}


@dataclass
class Drift:
    """layers: number → sums, -1 the embeddings. missing: tensors that only the base has. added: those that only the checkpoint has.
    skipped: those whose numbers are no weights."""

    layers: dict[int, Group] = field(default_factory=dict)
    other: Group = field(default_factory=Group)
    total: Group = field(default_factory=Group)
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def pattern(self) -> Pattern:
        return pattern_of([self.layers[number].drift for number in sorted(self.layers) if number != EMBEDDINGS])


def layer_drift(base: Path, checkpoint: Path) -> Drift:
    """Compare two checkpoint folders. Raises what `tensors_of` raises, and ConfigError naming every tensor of another shape."""
    import numpy as np

    before, after = tensors_of(base), tensors_of(checkpoint)
    shared = [name for name in before if name in after]
    _same_shapes(shared, before, after)
    measured = [name for name in shared if before[name].trained and after[name].trained]
    drift = Drift(
        missing=tuple(sorted(set(before) - set(after))),
        added=tuple(sorted(set(after) - set(before))),
        skipped=tuple(sorted(set(shared) - set(measured))),
    )
    with opened(before) as old, opened(after) as new:
        for name in measured:
            found = Group(tensors=1, parameters=before[name].size)
            for reference, now in zip(old.chunks(before[name]), new.chunks(after[name]), strict=True):
                found.reference += sum_of_squares(reference)
                found.delta += sum_of_squares(np.subtract(now, reference, out=now))  # taken in the wider type, kept in the reader's buffer
            layer = layer_of(name)
            (drift.other if layer is None else drift.layers.setdefault(layer, Group())).add(found)
            drift.total.add(found)
    return drift


def pattern_of(drifts: Sequence[float | None]) -> Pattern:
    """The pattern of the layers' drifts, bottom first; `unknown` for fewer than two layers or a drift that is not known."""
    known = [drift for drift in drifts if drift is not None]
    if len(known) < 2 or len(known) != len(drifts):
        return "unknown"
    size = max(1, len(known) // 4)
    bottom, top = sum(known[:size]) / size, sum(known[-size:]) / size
    if top > HEAVY * bottom:
        return "top_heavy"
    return "bottom_heavy" if bottom > HEAVY * top else "even"


def drift_document(
    drift: Drift, former: Mapping[str, Any] | None, *, step: int, base: str, checkpoint: str, clock: Clock
) -> dict[str, Any]:
    """`layer_drift.json`: this measurement, and the history, oldest first, one entry for each step, at most 100.

    status: `warning` when the drift of a layer, or of what lies behind the last one, is above `FAR` or no number; `no data` when the two
    have no tensor in common. far: these layers, -1 the embeddings, and `other`.
    """
    groups: dict[int | str, Group] = {**{number: drift.layers[number] for number in sorted(drift.layers)}, "other": drift.other}
    far = [name for name, group in groups.items() if group.drift is None or group.drift > FAR]
    status: Status = "no data" if not drift.total.tensors else "warning" if far else "ok"
    layers = [{"layer": number, **drift.layers[number].as_dict()} for number in sorted(drift.layers)]
    made = document(
        status, clock, step=step, base_model=base, checkpoint=checkpoint, pattern=drift.pattern, overall=drift.total.drift,
        overall_delta_norm=math.sqrt(drift.total.delta), overall_reference_norm=math.sqrt(drift.total.reference),
        layers=layers, other=drift.other.as_dict() if drift.other.tensors else None, heavy_ratio=HEAVY,
        far=far, far_drift=FAR,
        missing=drift.missing, added=drift.added, skipped=drift.skipped,
    )  # fmt: skip
    entry = {"step": step, "timestamp": made["generated_at"], "overall": made["overall"], "pattern": drift.pattern}
    entry["layers"] = {str(layer["layer"]): layer["drift"] for layer in made["layers"]}
    return {**made, "history": extended((former or {}).get("history"), entry, HISTORY)}


def extended(former: Any, entry: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """A history with `entry` at its end, in place of one of the same step, cut to the newest `limit`."""
    kept = [old for old in former if isinstance(old, dict) and old.get("step") != entry["step"]] if isinstance(former, list) else []
    return [*kept, entry][-limit:]


def _same_shapes(shared: Sequence[str], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    faults = [
        Fault(name, str(list(after[name].shape)), str(list(before[name].shape)), "Compare with the base model that it was trained from.")
        for name in shared
        if before[name].shape != after[name].shape
    ]
    if faults:
        raise ConfigError(faults)
