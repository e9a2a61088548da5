"""The command `python -m cachemedicpp.plots`: four figures and two tables for a paper, one page for a reader.

Everything is made in memory first and then replaced file by file, so a run never holds half a set of a failed attempt; with
a missing input nothing at all is written. Files made from the same inputs are not made again. (specs/medic.md, 8.7, 9; [C33])
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachemedicpp.phases.running import EndReason, PhaseRun

LOG = "logs/plots.jsonl"
REPORT = "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 written or nothing left to do, 1 a missing input or a failure, 2 bad flags."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    from cachemedicpp.phases.running import guarded

    return guarded(lambda: plot(arguments.run_dir, words))


def plot(run_dir: str | Path, words: Sequence[str] = ()) -> int:
    """Write the figures, tables and report of the run in `run_dir`; returns the exit status. words: the flags as typed."""
    from cachemedicpp.paper.inputs import read_for_plots
    from cachemedicpp.phases.running import run_phase

    folder = Path(run_dir).absolute()
    read_for_plots(folder)  # before the run is opened, so that nothing is written where something is missing
    command = [sys.executable, "-m", "cachemedicpp.plots"]
    return run_phase(
        "plots",
        _write_all,
        config=None,
        config_path="",
        run_dir=folder,
        command=[*command, *words],
        resume_command=[*command, "--run_dir", str(folder)],
    )


def locked_files() -> tuple[str, ...]:
    """The six files under `paper/`, by their names within the run directory."""
    from cachemedicpp.paper import figures, tables

    return (figures.SCORES, figures.PARETO, figures.SENSITIVITY, figures.AMPLIFICATION, tables.MAIN, tables.ABLATION)


def _write_all(phase: PhaseRun) -> EndReason:
    from cachemedicpp.paper.figures import draw_figures
    from cachemedicpp.paper.inputs import input_digests, read_for_plots
    from cachemedicpp.paper.report_page import report_page
    from cachemedicpp.paper.tables import draw_tables
    from cachemedicpp.phases.layout import make_layout
    from modelwright.files import JsonlAppender, sha256_bytes, write_bytes

    names = (*locked_files(), REPORT)
    phase.begin(total=len(names))
    inputs = input_digests(phase.folder)
    if _made_before(phase.folder, names, inputs):
        phase.step = len(names)
        return "already_completed"
    results = read_for_plots(phase.folder)
    made = {**draw_figures(results), **draw_tables(results), REPORT: report_page(results).encode()}
    make_layout(phase.folder)
    for count, name in enumerate(names, start=1):
        write_bytes(phase.folder / name, made[name])
        print(phase.folder / name, flush=True)
        phase.beat(count, "progress")
    with JsonlAppender(phase.folder / LOG) as log:
        log.append(_log_line(phase, inputs, {name: sha256_bytes(made[name]) for name in names}))
    return "completed"


def _made_before(folder: Path, names: Sequence[str], inputs: Mapping[str, str]) -> bool:
    """Whether the newest log line was written for these inputs by this version, and every file still is what it says."""
    from modelwright import __version__
    from modelwright.files import read_jsonl, sha256_file

    lines = read_jsonl(folder / LOG, missing_ok=True).records
    if not lines or lines[-1].get("inputs") != inputs or lines[-1].get("version") != __version__:
        return False
    outputs = lines[-1].get("outputs", {})
    return all((folder / name).is_file() and sha256_file(folder / name) == outputs.get(name) for name in names)


def _log_line(phase: PhaseRun, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """What `logs/plots.jsonl` says of a finished phase: inputs and outputs by their SHA-256."""
    from modelwright import __version__

    head = {"run_id": phase.run_id, "phase": phase.name, "timestamp_utc": phase.now(), "step": len(outputs), "event": "completed"}
    return {**head, "version": __version__, "inputs": dict(inputs), "outputs": dict(outputs)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cachemedicpp.plots",
        description="Write the four figures and two tables of a run to its folder paper/, and report.html for a reader.",
        epilog=(
            "Reads metrics/task_metrics.json, metrics/stability_metrics.json and config_resolved.yaml.\n"
            "Example: python -m cachemedicpp.plots --run_dir runs/tiny\n\n"
            "Exit status: 0 written or nothing left to do, 1 an input is missing (each is named, nothing is written) or a failure,\n"
            "2 bad flags."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run_dir", required=True, metavar="DIR", help="directory of a run that eval and stability have finished")
    return parser


if __name__ == "__main__":
    sys.exit(main())
