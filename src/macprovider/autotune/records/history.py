"""Questions about runs that the database keeps: the newest report, the previous recommendation, what an unfinished run had shown,
what has become stale, what stands side by side. Pure over rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from macprovider.autotune.options import Options
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.database import STARTED, Row, knobs_of_row
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.trial import DEFECT_NOTE, INTERRUPTED_NOTE
from macprovider.weights.candidates import weight_footprint

UNFINISHED = ("internal_error", "interrupted", "budget_exhausted_no_model_selected", "budget_exhausted_with_partial_recommendation")

_TIMED_OUT = re.compile(r"(ready timeout after|request error: no whole answer within) (\d+)s")


def newest(runs: Sequence[Row]) -> Row | None:
    """The newest run that tuned something: experiments and runs that never got past their settings have no report."""
    return next((run for run in runs if run["experiment"] is None and run["exit_reason"] != "config_error"), None)


def previous_recommendation(runs: Sequence[Row], but: str = "") -> dict[str, Any] | None:
    """The newest stored recommendation of another run."""
    told = next((run["recommendation_json"] for run in runs if run["recommendation_json"] is not None and run["run_id"] != but), None)
    return None if told is None else dict(orjson.loads(told))


def proved_infeasible(runs: Sequence[Row], trials: Sequence[Row], options: Options, machine: Machine) -> dict[str, str]:
    """Model → reason, from the newest unfinished run that asked the same of the same machine; {} when the newest such run ended.

    Only what the candidate itself showed counts: a fetch that failed may succeed today, a broken-off trial showed nothing, and who
    was too slow for a short timeout may keep a longer one.
    """
    same = next((run for run in runs if _asked_the_same(run, options, machine)), None)
    if same is None or same["exit_reason"] not in UNFINISHED:
        return {}
    return {
        trial["model"]: trial["notes"]
        for trial in trials
        if trial["run_id"] == same["run_id"] and trial["stage"] == 1 and not trial["fits"] and _is_proof(trial, options)
    }


def as_before(options: Options, runs: Sequence[Row]) -> Options:
    """With `--resume` and `--engine auto`: the engine of the unfinished run that asked the same. Files that it fetched may be reason for
    another one now, whose trials would prove nothing about the engine before.
    """
    if not options.resume or not options.engine_reason or options.repair is not None or options.quality_gate:
        return options
    same = next((run for run in runs if _asked_alike(run, options)), None)
    if same is None or same["exit_reason"] not in UNFINISHED or same["engine"] in (None, options.engine):
        return options
    return replace(options, engine=same["engine"], engine_reason=f"engine {same['engine']}, as in the run that is resumed")


def changes(run: Row, machine: Machine) -> list[str]:
    """What differs between the machine of a run and this one, one sentence each."""
    pairs = (
        ("program version", run["binary_version"], machine.binary_version),
        ("operating system", run["machine_os_version"], machine.os_version),
        ("processor or accelerator", run["machine_chip"], machine.chip),
        ("memory in GiB", run["machine_ram_gb"], machine.ram_gb),
    )
    return [f"{name}: was {before}, is {now}" for name, before, now in pairs if before != now]


@dataclass(frozen=True)
class Standing:
    """A feasible cell or probe on record. footprint: bytes of weights as the model's name has them, 0 when it has none. engine: "" for
    runs that did not keep it.
    """

    model: str
    knobs: Knobs
    tps: float
    ttft_ms: float
    footprint: float
    engine: str = ""


def side_by_side(runs: Sequence[Row], trials: Sequence[Row], target_context: int, machine: Machine) -> dict[str, Standing]:
    """`biggest`, `fastest` and `balanced` of everything feasible that was measured here at this target context; {} for nothing.

    Of several on record, a model stands with its fastest knobs. balanced: the greatest product of weights and tokens/s, both
    as a share of the greatest.
    """
    here = {run["run_id"]: run["engine"] or "" for run in runs if not changes(run, machine)}
    best: dict[str, Standing] = {}
    for trial in trials:
        if trial["run_id"] in here and trial["target_context"] == target_context and trial["fits"] and trial["agg_throughput_tps"]:
            standing = _standing(trial, here[trial["run_id"]])
            if standing.model not in best or standing.tps > best[standing.model].tps:
                best[standing.model] = standing
    if not best:
        return {}
    everyone = list(best.values())
    return {
        "biggest": max(everyone, key=lambda standing: (standing.footprint, standing.tps)),
        "fastest": max(everyone, key=lambda standing: standing.tps),
        "balanced": max(everyone, key=lambda standing: (standing.footprint * standing.tps, standing.tps)),
    }


def table(standings: dict[str, Standing]) -> str:
    """The three beside each other."""
    if not standings:
        return "SIDE BY SIDE: nothing feasible is on record for this target context on this machine."
    lines = [f"{'SIDE BY SIDE':<14}{'tok/s':>9}{'TTFT':>9}   model and knobs"]
    for name, standing in standings.items():
        what = f"{standing.model}: {standing.knobs.words()}{_by(standing)}"
        lines.append(f"{name:<14}{standing.tps:>9.3g}{standing.ttft_ms / 1000:>8.3g}s   {what}")
    return "\n".join([*lines, "The recommendation is the biggest that fits, whatever stands here."])


def _by(standing: Standing) -> str:
    return f", engine {standing.engine}" if standing.engine else ""


def _asked_the_same(run: Row, options: Options, machine: Machine) -> bool:
    return _asked_alike(run, options) and run["engine"] == options.engine and not changes(run, machine)


def _asked_alike(run: Row, options: Options) -> bool:
    return (
        run["experiment"] is None
        and orjson.loads(run["candidate_models_json"]) == list(options.candidate_models)
        and run["target_context"] == options.target_context
        and run["gate_ttft_ms"] == options.gate_ttft_ms
        and run["stage1_replicates"] == options.stage1_replicates
    )


def _is_proof(trial: Row, options: Options) -> bool:
    notes = trial["notes"] or ""
    if not notes or notes.startswith(("pre-warm ", INTERRUPTED_NOTE, DEFECT_NOTE, STARTED)) or trial["max_tokens"] != options.max_tokens:
        return False
    waited = _TIMED_OUT.match(notes)
    if waited is None:
        return True
    return float(waited[2]) >= round(options.ready_timeout if waited[1].startswith("ready") else options.request_timeout)


def _standing(trial: Row, engine: str) -> Standing:
    return Standing(
        trial["model"],
        knobs_of_row(trial),
        trial["agg_throughput_tps"],
        trial["ttft_p95_ms"] or 0.0,
        weight_footprint(trial["model"]) or 0.0,
        engine,
    )
