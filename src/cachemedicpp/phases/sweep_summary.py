"""What became of every phase of every run of a sweep, and `<out_root>/<sweep_name>_summary.json`. (specs/medic.md, 8.8)

The summary is replaced whole before and after each phase. With what was completed it keeps the digests of the files that the
phase left. A resume takes the phase over as long as they are the same; otherwise its own command decides what is left to do.
Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from modelwright.errors import ModelwrightError
from modelwright.files import read_json, sha256_file, write_json

PhaseOfRun = Literal["train", "eval", "stability", "plots"]
PHASES: tuple[PhaseOfRun, ...] = get_args(PhaseOfRun)
PASSES: tuple[tuple[PhaseOfRun, ...], ...] = (("train", "eval"), ("stability", "plots"))
"""The first two phases of all runs come before the last two of any, so that counterparts exist. [C34]"""
SETTLED = ("completed", "failed", "skipped")
EVIDENCE = {
    "train": "checkpoints/repair_step_*.pt",
    "eval": "metrics/task_metrics.json",
    "stability": "metrics/stability_metrics.json",
    "plots": "paper/*/*",
}
"""What a completed phase leaves in its run."""

Result = dict[str, Any]
"""`status` and, where known, `reason`, `error`, `exit_code`, `seconds`, `files`; see `record_models.PhaseResult`."""


class SweepFailedError(ModelwrightError):
    """Runs of a sweep failed; the command exits with 1. failed: run → what failed in it."""

    def __init__(self, failed: Mapping[str, str], summary: Path) -> None:
        count = f"{len(failed)} runs" if len(failed) > 1 else "1 run"
        shown = "".join(f"\n  {run}: {what.splitlines()[0]}" for run, what in failed.items())
        super().__init__(f"{count} of the sweep failed; see {summary}. The same command tries again what failed.{shown}")


def summary_path(out_root: Path, sweep_name: str) -> Path:
    """Where the summary of a sweep lies."""
    return out_root / f"{sweep_name}_summary.json"


def read_summary(path: Path) -> dict[str, Any] | None:
    """An earlier summary, or None when there is none that can be read: nothing depends on it but the count of phases."""
    try:
        document = read_json(path)
    except ModelwrightError:
        return None
    return document if isinstance(document, dict) else None


def evidence(run: Path, phase: PhaseOfRun) -> dict[str, str]:
    """Name within the run → SHA-256 of the files that a completed phase left."""
    return {str(path.relative_to(run)): sha256_file(path) for path in sorted(run.glob(EVIDENCE[phase])) if path.is_file()}


class Results:
    """The results of all phases; `by_run[run][phase]` is one of them."""

    def __init__(self, runs: Sequence[str], earlier: Mapping[str, Any] | None = None) -> None:
        self.by_run: dict[str, dict[PhaseOfRun, Result]] = {run: {phase: {"status": "pending"} for phase in PHASES} for run in runs}
        for record in _records(earlier):
            for phase in PHASES:
                result = record.get(phase)
                if record.get("name") in self.by_run and isinstance(result, dict) and result.get("status") == "completed":
                    self.by_run[record["name"]][phase] = dict(result)

    def stands(self, folder: Path, run: str, phase: PhaseOfRun) -> bool:
        """Whether the phase was completed before, and the files that it left in the run are still the same."""
        result = self.by_run[run][phase]
        return result["status"] == "completed" and bool(result.get("files")) and result["files"] == evidence(folder / run, phase)

    def settled(self) -> int:
        """How many phases are completed, failed or skipped."""
        return sum(result["status"] in SETTLED for _, _, result in self.each())

    def each(self) -> Iterator[tuple[str, PhaseOfRun, Result]]:
        """Run, phase and result of all phases."""
        for run, phases in self.by_run.items():
            for phase, result in phases.items():
                yield run, phase, result

    def blocked_by(self, run: str, phase: PhaseOfRun) -> str | None:
        """`<phase>_<status>` of the first earlier phase of the run that is not completed."""
        for earlier in PHASES[: PHASES.index(phase)]:
            status = self.by_run[run][earlier]["status"]
            if status != "completed":
                return f"{earlier}_{status}"
        return None

    def set(self, run: str, phase: PhaseOfRun, result: Result) -> None:
        """Note a result; when the phase did not complete, the later ones of its run are skipped, saying so.

        One that was completed before keeps the seconds that it took then.
        """
        before = self.by_run[run][phase]
        if result.get("reason") == "already_completed" and before["status"] == "completed" and "seconds" in before:
            result = {**result, "seconds": before["seconds"]}
        self.by_run[run][phase] = result
        if result["status"] in ("failed", "paused"):
            for later in PHASES[PHASES.index(phase) + 1 :]:
                self.by_run[run][later] = {"status": "skipped", "reason": f"{phase}_{result['status']}"}

    def skip_open(self, reason: str) -> None:
        """Mark every phase that has not ended as skipped."""
        for run, phase, result in self.each():
            if result["status"] in ("pending", "running"):
                self.by_run[run][phase] = {"status": "skipped", "reason": reason}

    def failed_runs(self) -> dict[str, str]:
        """Run → what failed in it."""
        failed = [(run, phase, result) for run, phase, result in self.each() if result["status"] == "failed"]
        return {run: f"{phase}: {result.get('error') or result.get('reason')}" for run, phase, result in failed}


def write_summary(path: Path, head: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]], results: Results) -> None:
    """Replace the summary. head: sweep_name, base_config, budget, status, paused_run and what else is known.

    overrides: by run. `run_dir` is written relative to the folder of the summary, so that both can be moved.
    """
    runs = [
        {"name": run, "run_dir": f"{head['sweep_name']}/{run}", "overrides": dict(overrides[run]), **phases}
        for run, phases in results.by_run.items()
    ]
    write_json(path, {**head, "num_runs": len(runs), "runs": runs})


def _records(summary: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    found = (summary or {}).get("runs")
    return [record for record in found if isinstance(record, dict)] if isinstance(found, list) else []
