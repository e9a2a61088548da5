"""The command `python -m cachemedicpp.sweep`: train, eval, stability and plots of many runs. (specs/medic.md, 7.2, 8.8; [C34])

    <out_root>/<sweep_name>_summary.json              what became of every phase
    <out_root>/<sweep_name>/                          run record, lock, heartbeat and control/ of the sweep itself
    <out_root>/<sweep_name>/<run_name>/               a run, with sweep_resolved_config.yaml, for a held-out one ood_train_mix.yaml

Orchestration only: the runs are merged and checked in `sweep_settings`, a phase runs as a process in `sweep_run`, what
became of it is kept in `sweep_summary`. A sweep that goes on takes over the phases whose files are still as they were left,
and starts the commands of all others, which go on by themselves. Imports no torch, but to ask for a GPU that a
configuration names.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachemedicpp.phases.arguments import EXIT_CODES

if TYPE_CHECKING:
    from cachemedicpp.config.sweeps import PlannedRun, SweepPlan
    from cachemedicpp.phases.record_models import StopReason
    from cachemedicpp.phases.running import EndReason, PhaseRun
    from cachemedicpp.phases.sweep_summary import PhaseOfRun

CONFIG = "sweep_resolved_config.yaml"
LOG = "logs/sweep.jsonl"
RESERVED = ("archive", "checkpoints", "control", "logs", "resume.log", "run.json", "writer.lock")
"""What the sweep itself keeps beside the folders of its runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 completed or nothing left to do, 3 paused, 1 failure, 2 bad flags or configuration."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    from cachemedicpp.phases.running import guarded

    def start() -> int:
        from cachemedicpp.config.sweeps import load_sweep

        path, out_root = Path(arguments.sweep_config).absolute(), Path(arguments.out_root).absolute()
        return sweep(load_sweep(path), path, out_root, words, arguments.resume, arguments.fail_fast)

    return guarded(start)


def sweep(plan: SweepPlan, path: Path, out_root: Path, words: Sequence[str] = (), resume: bool = True, fail_fast: bool = False) -> int:
    """Run a checked sweep below `out_root` and return the exit status. path: of the sweep file; words: the flags as typed."""
    from cachemedicpp.phases.running import run_phase

    folder = out_root / plan.settings.sweep_name
    check_runs(plan)

    def work(phase: PhaseRun) -> EndReason:
        return _Sweep(phase, plan, out_root, resume, fail_fast).run()

    again = ["--sweep_config", str(path), "--out_root", str(out_root), "--resume", *(["--fail_fast"] if fail_fast else [])]
    return run_phase(
        "sweep",
        work,
        config=None,
        config_path=path,
        run_dir=folder,
        command=[sys.executable, "-m", "cachemedicpp.sweep", *words],
        resume_command=[sys.executable, "-m", "cachemedicpp.sweep", *again],
        resume=resume,
        owned=("logs/sweep_heartbeat.json*", LOG),
        before_opening=lambda: check_same_runs(plan, folder),
    )


def check_runs(plan: SweepPlan) -> None:
    """Raise ConfigError, before any run starts, with the faults of all runs that only this machine and the models can tell.

    A model whose config.json cannot be had is left to its run, which records the failure.
    """
    from cachemedicpp.config.devices import runtime_device
    from cachemedicpp.phases.base_model import check_model, choose_model_cache
    from modelwright.errors import ConfigError, Fault, LoadError

    choose_model_cache()
    faults = []
    for run in plan.runs:
        if run.name in RESERVED:
            allowed = f"a name other than {', '.join(RESERVED)}"
            faults.append(Fault("runs", f"the name {run.name}", allowed, "the sweep keeps its own files under these names"))
        try:
            runtime_device(run.config.device)
            with contextlib.suppress(LoadError):
                check_model(run.config)
        except ConfigError as error:
            faults += [Fault(f"run {run.name}: {fault.path}", fault.found, fault.allowed, fault.todo) for fault in error.faults]
    if faults:
        raise ConfigError(faults)


def check_same_runs(plan: SweepPlan, folder: Path) -> None:
    """Raise ConfigError (exit 2) naming every run below `folder` that was made with another configuration than planned."""
    from cachemedicpp.config.settings import check_same_config, load_run_config
    from cachemedicpp.phases.layout import recorded_hash
    from modelwright.errors import ConfigError, DamagedFileError, Fault

    faults = []
    for run in plan.runs:
        recorded = None
        with contextlib.suppress(DamagedFileError):  # the phase meets it again, and the summary says so
            recorded = recorded_hash(folder / run.name)
        if recorded is None:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            write_documents(run, Path(scratch))
            try:
                check_same_config(load_run_config(Path(scratch, CONFIG)), recorded, f"{run.name}/run_record.json")
            except ConfigError as error:
                todo = "give the sweep file of this sweep, choose another --out_root, or start anew with --no-resume"
                faults += [Fault(f"run {run.name}: {fault.path}", fault.found, fault.allowed, todo) for fault in error.faults]
    if faults:
        raise ConfigError(faults)


def write_documents(run: PlannedRun, folder: Path) -> None:
    """Write the configuration of a run into its folder, and the mixture of a held-out one."""
    from cachemedicpp.config.sweeps import run_documents
    from modelwright.files import write_yaml

    for name, document in run_documents(run.config, folder).items():
        write_yaml(folder / name, document)


class _Sweep:
    """One session of a sweep."""

    def __init__(self, phase: PhaseRun, plan: SweepPlan, out_root: Path, resume: bool, fail_fast: bool) -> None:
        from cachemedicpp.phases.sweep_summary import Results, read_summary, summary_path

        self.phase, self.plan, self.out_root = phase, plan, out_root
        self.resume, self.fail_fast = resume, fail_fast
        self.summary = summary_path(out_root, plan.settings.sweep_name)
        self.earlier = read_summary(self.summary) if resume else None
        self.results = Results([run.name for run in plan.runs], self.earlier)
        self.overrides = {run.name: run.overrides for run in plan.runs}
        self.total = sum(1 for _ in self.results.each())
        self.changed: set[str] = set()
        """Runs in which this session did something."""

    def run(self) -> EndReason:
        from cachemedicpp.phases.phase_run import PhasePaused
        from modelwright.errors import ModelwrightError

        elapsed = (self.earlier or {}).get("elapsed_wall_sec")
        self.phase.begin(
            total=self.total,
            step=self.results.settled(),
            resumed_from=self.summary if self.earlier is not None else None,
            elapsed_before=elapsed if isinstance(elapsed, float) else 0.0,
            current_unit=None,
        )
        try:
            return self._all_runs()
        except PhasePaused:
            raise
        except BaseException:
            with contextlib.suppress(ModelwrightError):  # the error on its way says more than a summary that cannot be written
                self._write("failed")
            raise

    def _all_runs(self) -> EndReason:
        from cachemedicpp.phases.sweep_summary import PASSES, SweepFailedError
        from modelwright.files import JsonlAppender, make_folder

        if not self.resume:
            self._archive_runs()
        for run in self.plan.runs:
            write_documents(run, make_folder(self.phase.folder / run.name))
        self._write("running")
        if self.results.settled():
            print(f"[sweep] {self.results.settled()} of {self.total} phases were completed before", flush=True)
        with JsonlAppender(self.phase.folder / LOG) as self._log:
            for phases in PASSES:
                for run in self.plan.runs:
                    for name in phases:
                        self._one_phase(run.name, name)
        failed = self.results.failed_runs()
        if failed:
            raise SweepFailedError(failed, self.summary)
        self._write("completed")
        return "completed" if self.changed else "already_completed"

    def _one_phase(self, run: str, name: PhaseOfRun) -> None:
        from cachemedicpp.phases.sweep_run import phase_command, phase_process
        from cachemedicpp.phases.sweep_summary import SweepFailedError, evidence

        self._pause_if_asked(run)
        if self.results.blocked_by(run, name) is not None:
            return
        if run not in self.changed and self.results.stands(self.phase.folder, run, name):
            return
        folder = self.phase.folder / run
        if self.results.by_run[run][name]["status"] != "completed":
            self.results.set(run, name, {"status": "running"})
        self._write("running")
        self.phase.beat(self.results.settled(), "progress", current_unit={"run": run, "phase": name})
        outcome = phase_process(
            phase_command(name, folder, folder / CONFIG),
            folder,
            name,
            stop_asked=lambda: self.phase.stop_reason() is not None,
            tell=lambda sentence: print(f"[sweep] {sentence}", flush=True),
            pausable=name != "plots",
        )
        if outcome is None:
            self._pause_if_asked(run)
            raise AssertionError("a phase is left out only when a stop was asked")
        if outcome.reason != "already_completed":
            self.changed.add(run)
        left = {"files": evidence(folder, name)} if outcome.status == "completed" else {}
        self.results.set(run, name, {**outcome.as_dict(), **left})
        step = self.results.settled()
        self._write("running")
        self._say(run, name, step)
        self.phase.beat(step, "progress", current_unit={"run": run, "phase": name})
        if outcome.status == "paused":
            self._pause(self.phase.stop_reason(), run, outcome.reason)
        if outcome.status == "failed" and self.fail_fast:
            self.results.skip_open("fail_fast")
            raise SweepFailedError(self.results.failed_runs(), self.summary)

    # --- pause

    def _pause_if_asked(self, run: str) -> None:
        asked = self.phase.stop_reason()
        if asked is not None:
            self._pause(asked, run, asked)

    def _pause(self, asked: StopReason | None, run: str, reason: str) -> None:
        """Leave the sweep paused at `run`. asked: why the sweep itself shall pause; None when only its run was paused."""
        if asked is not None:
            self.results.skip_open(f"sweep_{asked}")
        self._write("paused", paused_run=run)
        self.phase.pause(asked or ("keyboard_interrupt" if reason == "keyboard_interrupt" else "pause_request"), self.summary)

    # --- files

    def _archive_runs(self) -> None:
        """Move what earlier sweeps left in the runs, and their summary, to the archives; refused while one is being written."""
        from cachemedicpp.phases.layout import OF_ANOTHER_CONFIG, archive
        from modelwright.lock import WriterLock
        from modelwright.record import RECORD_NAME

        folders = [folder for run in self.plan.runs if ((folder := self.phase.folder / run.name) / RECORD_NAME).exists()]
        with contextlib.ExitStack() as held:
            for folder in folders:
                lock = WriterLock(folder, command=[sys.executable, "-m", "cachemedicpp.sweep", "--no-resume"], clock=self.phase.clock)
                held.callback(lock.release)
            for folder in folders:
                archive(folder, ("checkpoints/*", *OF_ANOTHER_CONFIG, CONFIG), clock=self.phase.clock)
        archive(self.out_root, (self.summary.name,), clock=self.phase.clock)

    def _write(self, status: str, paused_run: str | None = None) -> None:
        from cachemedicpp.phases.sweep_summary import write_summary

        settings = self.plan.settings
        head = {
            "sweep_name": settings.sweep_name,
            "base_config": settings.base_config,
            "budget": None if settings.budget is None else settings.budget.model_dump(mode="json"),
            "status": status,
            "paused_run": paused_run,
            "updated_utc": self.phase.now(),
            "elapsed_wall_sec": self.phase.elapsed(),
        }
        write_summary(self.summary, head, self.overrides, self.results)

    def _say(self, run: str, name: PhaseOfRun, step: int) -> None:
        """One line in the log of the sweep, and one for people."""
        result = self.results.by_run[run][name]
        head: dict[str, Any] = {"run_id": self.phase.run_id, "phase": "sweep", "timestamp_utc": self.phase.now(), "step": step}
        self._log.append({**head, "run": run, "run_phase": name, **{key: value for key, value in result.items() if key != "files"}})
        if "error" in result:
            said = f"failed: {result['error']} Its output is in {self.phase.folder / run}/logs/{name}_output.txt."
        else:
            took = f" in {result['seconds']:.0f} s" if result["reason"] != "already_completed" else ""
            said = f"{str(result['reason']).replace('_', ' ') if result['status'] == 'completed' else result['status']}{took}"
        print(f"[sweep] {step}/{self.total} {run} {name}: {said}", flush=True)


def _parser() -> argparse.ArgumentParser:
    example = "Example: python -m cachemedicpp.sweep --sweep_config configs/medic/sweeps/tiny.yaml --out_root runs"
    parser = argparse.ArgumentParser(
        prog="python -m cachemedicpp.sweep",
        description=(
            "Train and evaluate every run of a sweep, then measure stability and draw the plots of every run.\n"
            "A run that fails is recorded, and the others go on. touch <out_root>/<sweep_name>/control/pause.request pauses all."
        ),
        epilog=f"{example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sweep_config", required=True, metavar="YAML", help="sweep file, for example configs/medic/sweeps/tiny.yaml")
    parser.add_argument("--out_root", required=True, metavar="DIR", help="folder that gets <sweep_name>/ and <sweep_name>_summary.json")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where the sweep stands (default); --no-resume moves what its runs hold to their archive/ and starts anew",
    )
    parser.add_argument("--fail_fast", action="store_true", help="stop at the first run that fails")
    return parser


if __name__ == "__main__":
    sys.exit(main())
