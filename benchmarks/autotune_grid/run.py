"""`autotune` beside the exhaustive grid: every candidate at every cell of knobs, all replicates, nothing left out.

    python -m benchmarks.autotune_grid.run [--quick] [--families tiny limited] [--repeats 10] [--grids 2] [--limit-mb N] [--out result.json]

Two families: `tiny`, the three models that come with the project, and `limited`, three models of random weights whose servers may take
no more than a given memory, so that the largest is no choice. For each, the grid is measured `--grids` times and `autotune --prune`
`--repeats` times; the grid's decision is the best cell of the first candidate, in the list's order, that has a feasible one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.serve_common.model import make_model

from macprovider.autotune.arguments import parse as parse_autotune
from macprovider.autotune.options import Options
from macprovider.autotune.outcome import ExitReason
from macprovider.autotune.plan import Knobs, cells
from macprovider.autotune.records.database import TuningDatabase
from macprovider.autotune.run import execute, tune
from macprovider.autotune.session import Session, World, serve_argv
from macprovider.autotune.stages import Progress, measure_cell, winner
from modelwright.clock import SYSTEM_CLOCK

TINY = ("modelwright/tiny-5m", "modelwright/tiny-1.5m", "modelwright/tiny-0.4m")
LIMITED = ("110m", "60m", "29m")
COLUMNS = ["family", "method", "runs", "decision", "agreement", "seconds"]
SHARE = 1 / 3
"""Of the grid's time: the target."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one grid and two runs of the tiny family at two cells")
    parser.add_argument("--families", nargs="+", choices=("tiny", "limited"))
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--grids", type=int)
    parser.add_argument("--limit-mb", type=int, default=700, help="private memory of a server of the family `limited`")
    parser.add_argument("--target-context", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--kv-bits-axis")
    parser.add_argument("--folder", type=Path, help="where models are made, and stay; a temporary folder when left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(arguments)
    given.families = given.families or (["tiny"] if given.quick else ["tiny", "limited"])
    given.repeats = given.repeats or (2 if given.quick else 10)
    given.grids = given.grids or (1 if given.quick else 2)
    given.kv_bits_axis = given.kv_bits_axis or ("unset" if given.quick else "unset,4,8")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when a target is missed."""
    given = parse(arguments)
    families = []
    with tempfile.TemporaryDirectory() as scratch:
        home = given.folder or Path(scratch)
        for name in given.families:
            models = TINY if name == "tiny" else tuple(str(make_model(home / shape, shape)) for shape in LIMITED)
            families.append(measure(name, models, given, Path(scratch)))
    rows = [row for family in families for row in _rows(family)]
    decisions = [decision for family in families for decision in decide(family)]
    print(table(rows, COLUMNS))
    for one in decisions:
        print(f"{one['figure']}: {one['measured']:g}, target {one['target']}: {'met' if one['met'] else 'MISSED'}")
    settings = {name: value for name, value in vars(given).items() if name not in ("out", "folder")}
    write_result(given.out, benchmark="autotune_grid", settings=settings, results=families, decisions=decisions)
    return 0 if all(decision["met"] for decision in decisions) else 1


def measure(name: str, models: Sequence[str], given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """One family: every run's decision and seconds, and what the grids measured of every cell."""
    options, _ = parse_autotune(
        [
            *("--candidate-models", ",".join(models), "--target-context", str(given.target_context), "--max-tokens", str(given.max_tokens)),
            *("--kv-bits-axis", given.kv_bits_axis, "--engine", given.engine, "--retain-runs", "100"),
            *("--db-path", str(scratch / name / "tuning.db")),
        ]
    )
    limit = given.limit_mb * 2**20 if name == "limited" else None
    world = World(serve=_limited(limit)) if limit else World()
    grids = [_timed(name, "grid", number, options, lambda chosen: execute(chosen, world, _grid, "grid")) for number in range(given.grids)]
    pruned = [
        _timed(name, "autotune", number, replace(options, prune=True), lambda chosen: tune(chosen, world))
        for number in range(given.repeats)
    ]
    return {
        "family": name,
        "models": [Path(model).name for model in models],
        "limit_mb": given.limit_mb if limit else None,
        "cells": len(_axis(options)),
        "grid": grids,
        "autotune": pruned,
        "cells_of_grid": _cells(options),
        "tie_epsilon": options.tps_tie_epsilon,
    }


def decide(family: dict[str, Any]) -> list[dict[str, Any]]:
    """Time, the decision, and what it costs where it is another one: the grid's own speed of the chosen cell over that of its best."""
    name, grids, runs = family["family"], family["grid"], family["autotune"]
    share = round(median(run["seconds"] for run in runs) / median(grid["seconds"] for grid in grids), 3)
    models = {grid["decision"].partition(":")[0] for grid in grids}
    same_model = sum(run["decision"].partition(":")[0] in models for run in runs) / len(runs)
    worst = min(_worth(family, run["decision"]) for run in runs)
    return [
        {"figure": f"{name}: time, times the grid's", "measured": share, "target": "at most 0.333", "met": share <= SHARE},
        {"figure": f"{name}: runs that choose the grid's model", "measured": same_model, "target": "1", "met": same_model == 1},
        {
            "figure": f"{name}: speed of the worst chosen cell, times the grid's best cell of that model",
            "measured": worst,
            "target": f"at least {1 - family['tie_epsilon']:g}",
            "met": worst >= 1 - family["tie_epsilon"],
        },
    ]


def _worth(family: dict[str, Any], decision: str) -> float:
    """What the grid measured in the chosen cell, as a share of its best feasible cell of the same model; 0 for an infeasible one."""
    model = decision.partition(":")[0]
    of_model = {cell["cell"]: cell["tps"] or 0.0 for cell in family["cells_of_grid"] if cell["cell"].partition(":")[0] == model}
    best = max(of_model.values(), default=0.0)
    return round(of_model.get(decision, 0.0) / best, 3) if best else 0.0


def _grid(session: Session, progress: Progress) -> ExitReason:
    for model in session.options.candidate_models:
        best = winner(session, [measure_cell(session, model, knobs, ()) for knobs in _axis(session.options)])
        if best is not None and progress.winner is None:
            progress.chosen = progress.winner = best
    return "ok" if progress.winner is not None else "no_feasible"


def _axis(options: Options) -> list[Knobs]:
    return cells(options.kv_bits_axis, options.max_batch_axis, options.max_context_axis, options.target_context)


def _timed(family: str, method: str, number: int, options: Options, run: Callable[[Options], int]) -> dict[str, Any]:
    """One run, its words kept beside its database; its decision as `model: knobs`."""
    options.db_path.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with (options.db_path.parent / "words.txt").open("a", encoding="utf-8") as words, redirect_stderr(words), redirect_stdout(words):
        run(options)
    seconds = round(time.monotonic() - begun, 1)
    database = TuningDatabase(options.db_path, SYSTEM_CLOCK)
    try:
        row = database.runs()[0]
        trials = database.trials(row["run_id"])
    finally:
        database.close()
    if row["exit_reason"] not in ("ok", "no_feasible"):
        raise RuntimeError(f"{family}, {method} {number + 1} ended with {row['exit_reason']}; its last words: {_last_words(options)}")
    told = json.loads(row["recommendation_json"]) if row["recommendation_json"] else None
    decision = "none" if told is None else f"{Path(told['model']).name}: {_words(told['knobs'])}"
    requests = sum(trial["replicates_n"] or 0 for trial in trials)
    print(f"{family}, {method} {number + 1}: {decision}, {seconds} s, {len(trials)} trials, {requests} requests", flush=True)
    return {"decision": decision, "seconds": seconds, "trials": len(trials), "requests": requests, "exit_reason": row["exit_reason"]}


def _last_words(options: Options) -> str:
    lines = (options.db_path.parent / "words.txt").read_text(encoding="utf-8").strip().splitlines()
    return next((line for line in reversed(lines) if line.strip() and not line.startswith("exit_reason")), "")


def _words(knobs: dict[str, Any]) -> str:
    bits = "unset" if knobs["kv_bits"] is None else knobs["kv_bits"]
    return f"kv_bits {bits}, max_batch {knobs['max_concurrency_override']}"


def _cells(options: Options) -> list[dict[str, Any]]:
    """Every cell over all grids: median tokens/s (None for one that was never feasible), memory predicted and at its peak (bytes), and
    the first reason against it."""
    database = TuningDatabase(options.db_path, SYSTEM_CLOCK)
    try:
        grids = {run["run_id"] for run in database.runs() if run["experiment"] == "grid"}
        trials = [trial for trial in database.trials() if trial["run_id"] in grids]
    finally:
        database.close()
    found: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        knobs = {"kv_bits": trial["kv_bits"], "max_concurrency_override": trial["max_batch"]}
        found.setdefault(f"{Path(trial['model']).name}: {_words(knobs)}", []).append(trial)
    return [{"cell": cell, **_summary(rows)} for cell, rows in found.items()]


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    speeds = [row["agg_throughput_tps"] for row in rows if row["fits"] and row["agg_throughput_tps"]]
    memory = [json.loads(row["measured_json"] or "{}").get("memory") or {} for row in rows]
    peaks = [one["peak_bytes"] for one in memory if one.get("peak_bytes")]
    return {
        "tps": round(median(speeds), 2) if speeds else None,
        "predicted_bytes": memory[0].get("predicted_bytes"),
        "loading_bytes": memory[0].get("loading_bytes"),
        "peak_bytes": max(peaks) if peaks else None,
        "why_not": next((_without_folder(row["notes"], row["model"]) for row in rows if not row["fits"]), None),
    }


def _without_folder(notes: str | None, model: str) -> str | None:
    """A reason that says the model's name where it said its folder."""
    folder = str(Path(model).parent)
    return notes.replace(f"{folder}/", "") if notes and folder != "." else notes


def _limited(most: int) -> Callable[[str, Knobs, int, Path, str], list[str]]:
    def command(model: str, knobs: Knobs, port: int, config: Path, engine: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.autotune_grid.limited", str(most), *serve_argv(model, knobs, port, config, engine)]

    return command


def _rows(family: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for method in ("grid", "autotune"):
        runs = family[method]
        (decision, times), *_ = Counter(run["decision"] for run in runs).most_common(1)
        seconds = round(median(run["seconds"] for run in runs), 1)
        agreed = f"{times} of {len(runs)}"
        rows.append(
            {"family": family["family"], "method": method, "runs": len(runs), "decision": decision, "agreement": agreed, "seconds": seconds}
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
