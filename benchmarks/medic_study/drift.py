"""How far a small disturbance of the cache moves the next token, with the repair and without: the drift that the gates read, and the
response alone.

The drift is taken from the clean, undefended logits, so it holds what the repair does to an undamaged cache. The response is
taken from the same curve's own undisturbed logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.medic_study.collect import ARMS, arm_of

from cachemedicpp.evaluation.bootstrap import paired_difference
from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.paper.data import BEST
from cachemedicpp.paper.gate_readings import Reading, read_runs
from cachemedicpp.paper.gate_rules import MIN_SEEDS
from modelwright.errors import MissingFileError

CURVES = (NO_DEFENCE, BEST, REPAIR)


def read_measured(folders: Iterable[Path]) -> dict[str, list[Reading]]:
    """The runs whose stability was measured, by arm; arms with fewer than `MIN_SEEDS` of them are left out."""
    found: dict[str, list[Reading]] = {}
    for folder in sorted(folders):
        arm = arm_of(folder.name)
        if arm is None:
            continue
        try:
            found.setdefault(arm, []).extend(read_runs([folder]))
        except MissingFileError:
            continue
    return {arm: runs for arm, runs in found.items() if len(runs) >= MIN_SEEDS}


def drift_rows(arm: str, runs: Sequence[Reading]) -> list[dict[str, Any]]:
    """Per norm: mean drift and response of each curve over seeds, and repaired response minus undefended with its interval."""
    rows = []
    for delta in sorted(set.intersection(*(set(run.drift[NO_DEFENCE]) & set(run.drift[REPAIR]) for run in runs)) - {0.0}):
        held = {curve: [run.drift[curve][delta] for run in runs if delta in run.drift[curve]] for curve in CURVES}
        responses = {curve: [drift.response for drift in drifts] for curve, drifts in held.items()}
        if any(value is None for curve in (NO_DEFENCE, REPAIR) for value in responses[curve]):
            continue
        effect = paired_difference(responses[REPAIR], responses[NO_DEFENCE])
        rows.append(
            {
                "model": runs[0].model,
                "arm": arm,
                "repair": ARMS[arm],
                "seeds": [run.seed for run in runs],
                "delta": delta,
                "drift": {curve: _mean([drift.value for drift in drifts]) for curve, drifts in held.items()},
                "response": {curve: _mean(values) for curve, values in responses.items()},
                "repaired_minus_undefended": effect.as_dict(),
            }
        )
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found and len(found) == len(values) else None
