"""What a stability measurement has finished, in `metrics/stability_progress.json`: curve points and rows of the map. (specs/medic.md, 8.6)

The file is replaced whole after each unit. It says which inputs its numbers belong to: the repair checkpoint, that of the
counterpart, and the heuristic. Numbers of other inputs are not mixed with new ones. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cachemedicpp.phases.units import ProgressFile

PROGRESS = ProgressFile("stability", "the progress of a stability measurement", own=("settings", "curve_points", "amp_rows"))
METRICS, LOG = "metrics/stability_metrics.json", "logs/stability.jsonl"
RESULT_FILES = (PROGRESS.path, METRICS, LOG)
"""What one measurement leaves, progress first: a phase whose progress is gone starts anew."""
FROM_METRICS, FALLBACK = "task_metrics.json", "default"
"""Where the name of the best heuristic came from."""


@dataclass(frozen=True)
class Inputs:
    """What the numbers of a measurement depend on beside the configuration; field names as in the metrics.

    repair_checkpoint, cachemedic_no_contr_checkpoint: `step` and `sha256`, None where there is none. cachemedic_no_contr_source:
    as `counterpart.Counterpart.source`. best_heuristic_source: `task_metrics.json` or `default`.
    """

    repair_checkpoint: dict[str, Any] | None
    best_heuristic_name: str
    best_heuristic_source: str
    cachemedic_no_contr_source: str
    cachemedic_no_contr_checkpoint: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def allow(self, held: Mapping[str, Any], *, finished: bool) -> bool:
        """Whether numbers with the inputs `held` stand.

        finished: nothing is left to measure; then they also stand when the counterpart or the evaluation has gone since, as in
        a run that was moved. One that has come since makes them void, so that it gets its curve.
        """
        if _identity(held.get("repair_checkpoint")) != _identity(self.repair_checkpoint):
            return False
        pair = self.cachemedic_no_contr_checkpoint
        same_pair = _identity(held.get("cachemedic_no_contr_checkpoint")) == _identity(pair)
        same_heuristic = held.get("best_heuristic_name") == self.best_heuristic_name
        if not finished:
            return same_heuristic and same_pair
        return (same_heuristic or self.best_heuristic_source == FALLBACK) and (same_pair or pair is None)


@dataclass
class Finished:
    """The finished units, as their records. points: by `delta_norm`. rows: by layer."""

    created_utc: str
    elapsed: float = 0.0
    points: dict[float, dict[str, Any]] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.points) + len(self.rows)

    def kept(self, inputs: Inputs) -> dict[str, Any]:
        """What the progress file says of them, as measured with `inputs`."""
        return {
            "completed_units": self.units,
            "created_utc": self.created_utc,
            "curve_points": list(self.points.values()),
            "amp_rows": list(self.rows.values()),
            "settings": inputs.as_dict(),
        }


def read_finished(document: Mapping[str, Any], deltas: Sequence[float], layers: Sequence[int]) -> Finished:
    """The units of a progress file that the configuration has, too."""
    points = {float(point["delta_norm"]): dict(point) for point in document["curve_points"]}
    rows = {int(row["layer"]): dict(row) for row in document["amp_rows"]}
    return Finished(
        document["created_utc"],
        float(document["elapsed_wall_sec"]),
        {delta: points[delta] for delta in deltas if delta in points},
        {layer: rows[layer] for layer in layers if layer in rows},
    )


def _identity(checkpoint: Any) -> tuple[Any, Any] | None:
    """Step and SHA-256 of a checkpoint as records hold it."""
    return (checkpoint.get("step"), checkpoint.get("sha256")) if isinstance(checkpoint, Mapping) else None
