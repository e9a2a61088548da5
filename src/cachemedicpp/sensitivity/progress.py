"""What a stability measurement has finished, in `metrics/stability_progress.json`: curve points and rows of the map. (specs/medic.md, 8.6)

The file is replaced whole after each unit. It says which inputs its numbers belong to: the repair checkpoint, that of the
counterpart, and the heuristic. Numbers of other inputs are not mixed with new ones. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelwright.errors import DamagedFileError
from modelwright.files import read_json, write_json

PROGRESS, METRICS, LOG = "metrics/stability_progress.json", "metrics/stability_metrics.json", "logs/stability.jsonl"
RESULT_FILES = (PROGRESS, METRICS, LOG)
"""What one measurement leaves, progress first: a phase whose progress is gone starts anew."""
FROM_METRICS, FALLBACK = "task_metrics.json", "default"
"""Where the name of the best heuristic came from."""
_NEEDED = ("config_hash", "settings", "curve_points", "amp_rows", "created_utc", "elapsed_wall_sec", "total_units")


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


def read_progress(folder: Path) -> dict[str, Any] | None:
    """The progress file of a run; None when there is none. Raises DamagedFileError."""
    path = folder / PROGRESS
    if not path.exists():
        return None
    document = read_json(path)
    missing = [name for name in _NEEDED if not isinstance(document, dict) or name not in document]
    if missing:
        lacks = f"it lacks {', '.join(missing)}"
        raise DamagedFileError(path, lacks, "the progress of a stability measurement", "Start anew with --no-resume")
    return dict(document)


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


def write_progress(
    folder: Path, finished: Finished, inputs: Inputs, total_units: int, head: Mapping[str, Any], *, durable: bool = True
) -> Path:
    """Replace the progress file whole. head: run_id, config_hash, status, reason, updated_utc, elapsed_wall_sec, resumed_from.

    durable: also against a power cut, which may otherwise cost the last units; a killed process costs none either way.
    """
    document = {
        "phase": "stability",
        **head,
        "total_units": total_units,
        "completed_units": finished.units,
        "created_utc": finished.created_utc,
        "curve_points": list(finished.points.values()),
        "amp_rows": list(finished.rows.values()),
        "settings": inputs.as_dict(),
    }
    path = folder / PROGRESS
    write_json(path, document, durable=durable)
    return path


def _identity(checkpoint: Any) -> tuple[Any, Any] | None:
    """Step and SHA-256 of a checkpoint as records hold it."""
    return (checkpoint.get("step"), checkpoint.get("sha256")) if isinstance(checkpoint, Mapping) else None
