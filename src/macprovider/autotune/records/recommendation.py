"""The recommendation and the JSON document of a run, made from what the run measured or from what the database keeps.
(specs/autotune.md, 9.2)"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from macprovider.autotune.engine import goes_without_saying
from macprovider.autotune.plan import Knobs, serve_command
from macprovider.autotune.records.database import STALE_NOTE, STARTED, Row, knobs_of_row
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.records.recipe import recipe, recipe_hash
from macprovider.autotune.session import Session
from macprovider.autotune.stages import NO_RATE, Progress
from macprovider.autotune.trial import DEFECT_NOTE, INTERRUPTED_NOTE, Result
from macprovider.weights.candidates import smaller_than


def recommendation(session: Session, progress: Progress, *, partial: bool) -> dict[str, Any] | None:
    """What to serve: the winning cell, or, before any cell was feasible, the chosen model as Stage 1 measured it (D15); None
    while no model is chosen. A whole result needs a winner.
    """
    if progress.chosen is None or (progress.winner is None and not partial):
        return None
    if progress.winner is not None:
        return _object(session, progress.winner, progress.winner.trial.knobs, partial)
    knobs = Knobs(max_context=session.options.target_context)
    return _object(session, progress.chosen, knobs, partial)


def hash_of(recommended: dict[str, Any] | None, candidate_models: Sequence[str], machine: Machine) -> str | None:
    """The recipe hash of a recommendation, None without one."""
    if recommended is None:
        return None
    members = recipe(
        binary_version=machine.binary_version,
        candidate_models=candidate_models,
        chip=machine.chip,
        knobs=knobs_of(recommended),
        operator=_digest(knobs_of(recommended).repair),
        model=recommended["model"],
        ram_gb=machine.ram_gb,
        target_context=recommended["target_context"],
    )
    return recipe_hash(members)


def _digest(operator: str | None) -> str | None:
    """What an operator is, wherever its file lies; None without one, and of a file that has gone."""
    if operator is None:
        return None
    try:
        with open(operator, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def knobs_of(recommended: dict[str, Any]) -> Knobs:
    """The knobs of a stored recommendation."""
    knobs = recommended["knobs"]
    return Knobs(knobs["kv_bits"], knobs["max_concurrency_override"], knobs["max_context_override"], knobs.get("repair"))


def document(run: Row, trials: Sequence[Row], db_path: Path) -> dict[str, Any]:
    """The JSON document of a stored run; the run's row must carry its end. Additions to the frozen fields: exit_reason, applied,
    engine, experiment, cells.
    """
    candidates = orjson.loads(run["candidate_models_json"])
    recommended = None if run["recommendation_json"] is None else orjson.loads(run["recommendation_json"])
    return {
        "spec_version": run["spec_version"],
        "run_id": run["run_id"],
        "started_at": run["started_at_utc"],
        "ended_at": run["ended_at_utc"] or max([run["started_at_utc"], *(trial["ts_utc"] for trial in trials)]),
        "machine": {
            "ram_gb": run["machine_ram_gb"],
            "chip": run["machine_chip"],
            "os_version": run["machine_os_version"],
            "binary_version": run["binary_version"],
        },
        "inputs": {
            "target_context": run["target_context"],
            "candidate_models": candidates,
            "stage1_replicates": run["stage1_replicates"],
            "stage2_replicates": run["stage2_replicates"],
            "gate_ttft_ms": run["gate_ttft_ms"],
            "tps_tie_epsilon": run["tps_tie_epsilon"],
        },
        "recommendation": recommended,
        "alternates": alternates(candidates, None if recommended is None else recommended["model"]),
        "infeasible": infeasible(run, trials, candidates, recommended),
        "recipe_hash": run["recipe_hash"],
        "db_path": str(db_path.absolute()),
        "exit_reason": run["exit_reason"],
        "applied": bool(run["applied"]),
        "engine": run["engine"],
        "experiment": run["experiment"],
        "cells": [_cell(trial) for trial in trials if trial["stage"] == 2],
    }


def alternates(candidates: Sequence[str], chosen: str | None) -> list[str]:
    """Listed models that are smaller than the chosen one and were not probed, in the order of the list."""
    if chosen is None or chosen not in candidates:
        return []
    return [candidates[place] for place in smaller_than(candidates, list(candidates).index(chosen))]


def infeasible(run: Row, trials: Sequence[Row], candidates: Sequence[str], recommended: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Candidates that failed, in the order they were probed; also a chosen one none of whose cells was feasible (6.3)."""
    if run["experiment"] is not None:
        return []
    failed = {
        trial["model"]: trial["notes"]
        for trial in trials
        if trial["stage"] == 1 and not trial["fits"] and trial["notes"] and not unfinished(trial["notes"])
    }
    cells = [trial for trial in trials if trial["stage"] == 2]
    if recommended is None and run["exit_reason"] == "no_feasible" and cells:
        failed[cells[-1]["model"]] = cells[-1]["notes"] or NO_RATE
    return [
        {"model": model, "rank": candidates.index(model) + 1 if model in candidates else 0, "reason": reason}
        for model, reason in failed.items()
    ]


def unfinished(notes: str) -> bool:
    """Whether the note is that of a trial that says nothing about its candidate."""
    return notes in (STARTED, STALE_NOTE) or notes.startswith((INTERRUPTED_NOTE, DEFECT_NOTE))


def _object(session: Session, result: Result, knobs: Knobs, partial: bool) -> dict[str, Any]:
    measured = result.measured
    return {
        "model": result.trial.model,
        "target_context": session.options.target_context,
        "knobs": knobs.as_yaml(),
        "tps_median": measured.tps or 0.0,
        "ttft_p95_ms": measured.ttft_p95_ms or 0.0,
        "replicates": len(result.replicates),
        "engine": session.options.engine,
        "serve_command": serve_command(result.trial.model, knobs, _engine_named(session, result.trial.model, knobs)),
        "partial": partial,
        "tps_min": measured.tps_min,
        "tps_max": measured.tps_max,
        "kv_bytes_per_token": result.kv_bytes_per_token,
        "memory_predicted_bytes": result.predicted.predicted_bytes,
        "memory_peak_bytes": result.peak_bytes,
        "quality": None if result.quality is None else result.quality.as_dict() | {"words": result.quality.words()},
    }


def _engine_named(session: Session, model: str, knobs: Knobs) -> str:
    """The engine of the run, "auto" where `serve` takes it without being told."""
    engine = session.options.engine
    return "auto" if goes_without_saying(engine, model, knobs, session.options.config) else engine


def _cell(trial: Row) -> dict[str, Any]:
    measured = orjson.loads(trial["measured_json"]) if trial["measured_json"] else {}
    return {
        "knobs": knobs_of_row(trial).as_yaml(),
        "fits": bool(trial["fits"]),
        "tps_median": trial["agg_throughput_tps"],
        "ttft_p95_ms": trial["ttft_p95_ms"],
        "replicates": trial["replicates_n"],
        "kept": bool(trial["kept"]),
        "notes": trial["notes"],
        "quality": measured.get("quality"),
        "memory": measured.get("memory"),
    }
