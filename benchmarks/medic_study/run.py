"""Does a repair operator help? The sweeps of the medic study, run by the sweep command, and what they say together.

    python -m benchmarks.medic_study.run [--folder runs/medic-study] [--sweeps tiny_seeds,tiny_rivals,…] [--collect] [--out result.json]

Five seeds of families A, B, C and D, of A without its contraction penalty, of a control trained without corruption, and of
overwrites held out of the training, on the 1.5 M and the 5 M model: 55 runs, two hours on two cores. A stopped study goes on when
it is started again; `--collect` only reads what is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from benchmarks.medic_study.collect import compare, read_study
from benchmarks.medic_study.drift import drift_rows, read_measured

from cachemedicpp.paper.gates import decide_gates, gates_document
from cachemedicpp.phases.layout import RESOLVED
from modelwright.errors import MissingFileError, ModelwrightError
from modelwright.files import read_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "medic" / "sweeps"
SWEEPS = ("tiny_seeds", "tiny_rivals", "tiny_holdout", "tiny_5m")
FIRST, HELD_OUT, SECOND = "tiny_seeds", "tiny_holdout", "tiny_5m"


def run_sweeps(folder: Path, sweeps: Sequence[str]) -> int:
    """Run each sweep to its end, going on where it stands; the first exit code that is not 0."""
    for name in sweeps:
        arguments = ["--sweep_config", str(CONFIGS / f"{name}.yaml"), "--out_root", str(folder)]
        code = subprocess.run([sys.executable, "-m", "cachemedicpp.sweep", *arguments], check=False).returncode
        if code:
            return code
    return 0


def gates_of(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Gates 1 to 3 on the runs that eval, stability and plots have finished, and one sentence per run that is left out."""
    chosen: dict[str, list[Path]] = {}
    left_out: list[str] = []
    for sweep, arms in ((FIRST, ("main_contr", "ablation_no_contr")), (HELD_OUT, ("holdout",)), (SECOND, ("main_contr",))):
        chosen[sweep] = []
        for run in sorted(path for path in (folder / sweep).glob("*_seed*") if path.name.startswith(arms)):
            try:
                decide_gates([run])
                chosen[sweep].append(run)
            except MissingFileError as error:
                left_out.append(f"{sweep}/{run.name}: {str(error).splitlines()[0].replace(str(folder), '…')}")
    return gates_document(decide_gates(chosen[FIRST], chosen[HELD_OUT], chosen[SECOND])), left_out


def complete_arms(entries: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The arms that were evaluated with every seed of their model, and one sentence per arm that was not."""
    seeds = {entry["model"]: 0 for entry in entries}
    for entry in entries:
        seeds[entry["model"]] = max(seeds[entry["model"]], len(entry["seeds"]))
    whole = [entry for entry in entries if len(entry["seeds"]) == seeds[entry["model"]]]
    rest = [
        f"{entry['model']}, {entry['repair']}: {len(entry['seeds'])} of {seeds[entry['model']]} seeds are evaluated"
        for entry in entries
        if len(entry["seeds"]) < seeds[entry["model"]]
    ]
    return whole, rest


def drift_of(folder: Path, sweeps: Sequence[str]) -> list[dict[str, Any]]:
    """The drift of every arm whose stability was measured, sweep by sweep."""
    arms = [read_measured((folder / name).glob("*_seed*")) for name in sweeps]
    return [row for found in arms for arm, runs in found.items() for row in drift_rows(arm, runs)]


def settings_of(folder: Path) -> dict[str, Any]:
    """What all runs of the study share, from the first one's resolved configuration."""
    config = read_yaml(next(path for path in sorted(folder.glob(f"*/*/{RESOLVED}"))))
    return {
        "corruption": {name: config["corruption"][name] for name in ("mixture", "eps_grid", "inject", "severity", "axes")},
        "train": {name: config["train"][name] for name in ("steps", "lr", "batch_size", "prefix_len", "lambda_id", "lambda_contr")},
        "rank": config["repair"]["rank"],
        "eval": {name: config["eval"][name] for name in ("tasks", "corruption_eval", "max_seq_len")},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run, collect, write; exit code of the sweep that failed, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/medic-study"), help="where the runs go, and stay")
    parser.add_argument("--sweeps", default=",".join(SWEEPS), help="files of configs/medic/sweeps, in this order")
    parser.add_argument("--collect", action="store_true", help="run nothing; read the runs that are finished")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.json"))
    given = parser.parse_args(argv)
    sweeps = given.sweeps.split(",")
    code = 0 if given.collect else run_sweeps(given.folder, sweeps)
    if code:
        return code
    try:
        runs = read_study(given.folder / name for name in sweeps)
        gates, left_out = gates_of(given.folder)
        entries, unfinished = complete_arms(compare(runs))
        write_result(
            given.out,
            benchmark="medic_study",
            settings={"sweeps": sweeps, **settings_of(given.folder)},
            results=entries,
            drift=drift_of(given.folder, sweeps),
            gates=gates,
            left_out=[*left_out, *unfinished],
        )
    except ModelwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
