"""What train, eval, stability and sweep share: one run directory, heartbeats, pause, exit codes. (specs/medic.md, 8.1-8.3)

A command is a function from a `PhaseRun` to the reason it ended with, run by `run_phase`:

    def work(phase: PhaseRun) -> EndReason:
        progress = load_progress(phase.folder)                        # the phase's own affair
        phase.begin(total=units, step=len(progress), resumed_from=path or None, elapsed_before=progress.elapsed)
        for number, unit in enumerate(todo, start=phase.step + 1):
            phase.pause_if_asked(save)                                # save(reason) -> resume_state; does not return on a pause
            measure(unit)
            phase.beat(number, "progress", current_unit={...})
        phase.beat(phase.step, "finalizing")
        return "completed"                                            # or "already_completed"

    return run_phase("eval", work, config=config, config_path=…, run_dir=…, command=…, resume=…, owned=EVAL_FILES)

`run_phase` takes the lock, writes the records, turns SIGINT and SIGTERM into a pause, writes the last heartbeat
(`completed`, `paused`, or `failed` with the text of the exception), closes `run.json`, and returns the exit status. A
thread renews the heartbeat when `work` stays silent for 30 s. The sweep, which has no run configuration, and plots, which
only reads what a run has, pass `config=None`. Imports no torch.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cachemedicpp.config.devices import runtime_device
from cachemedicpp.config.settings import check_same_config, config_hash, resolved_document
from cachemedicpp.phases import phase_run
from cachemedicpp.phases.layout import OF_ANOTHER_CONFIG, archive, make_layout, recorded_hash, write_records
from cachemedicpp.phases.phase_run import PAUSE_ACKS, PhaseName, PhasePaused, PhaseRun
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.control import signals_as_requests
from modelwright.errors import DiskFullError, LoadError, ModelwrightError, UsageError
from modelwright.files import make_folder
from modelwright.record import RECORD_NAME
from modelwright.rundir import RunDir

if TYPE_CHECKING:
    from cachemedicpp.config.sections import RunConfig

KIND = "cachemedicpp"
EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_PAUSED = 0, 1, 2, 3
EndReason = Literal["completed", "already_completed"]
Work = Callable[["PhaseRun"], EndReason]


# ---------------------------------------------------------------------- running a phase


def run_phase(
    name: PhaseName,
    work: Work,
    *,
    config: RunConfig | None,
    config_path: str | Path,
    run_dir: str | Path,
    command: Sequence[str],
    resume_command: Sequence[str] = (),
    resume: bool = True,
    owned: Sequence[str] = (),
    before_opening: Callable[[], None] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> int:
    """Run `work` as the phase `name` of the run in `run_dir` and return the exit status (0, 1, 2 or 3).

    config: None for a sweep, which has neither run record nor run layout, and for plots, which changes neither. command,
    resume_command: argument vectors for the records; the second goes on with the run from any folder. owned: patterns of the
    phase's own files, progress first, which `--no-resume` moves away. before_opening: further checks of a resume that must
    pass before any file is touched.

    Faults of the configuration (another hash, a device or layer that does not exist) are found before any file changes.
    Errors end in a printed message and an exit status, defects with their traceback.
    """

    def opened() -> int:
        folder = Path(run_dir).absolute()
        digest = "" if config is None else _check_config(config, folder, resume)
        if before_opening is not None and resume:
            before_opening()
        with (
            signals_as_requests() as signals,
            contextlib.closing(_open(folder, name, config, digest, command, resume_command, clock)) as run,
        ):
            if not resume:
                changed = config is not None and _hash_or_none(folder) not in (None, digest)
                archive(folder, (*owned, *(OF_ANOTHER_CONFIG if changed else ())), clock=clock)
            return _run_opened(PhaseRun(run, name, signals, digest, clock), work, config, config_path, command)

    return guarded(opened)


def guarded(action: Callable[[], int]) -> int:
    """The exit status of `action`; an error it raises is printed to stderr, a defect with its traceback."""
    try:
        return action()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost place of a command
        say_error(error)
        return exit_status(error)


def exit_status(error: BaseException) -> int:
    """2 for bad flags and configurations, 1 for everything else."""
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def say_error(error: BaseException) -> None:
    """Print the sentence of an error a user can repair, or the traceback of a defect, to stderr."""
    if isinstance(error, ModelwrightError):
        print(error, file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print("Interrupted twice; the state of the last save stands.", file=sys.stderr)
    else:
        traceback.print_exception(error)


def _check_config(config: RunConfig, folder: Path, resume: bool) -> str:
    """The configuration's hash, when machine, model and the run so far allow to go on with it."""
    from cachemedicpp.phases.base_model import check_model, choose_model_cache

    choose_model_cache()
    runtime_device(config.device)
    with contextlib.suppress(LoadError):  # a model that cannot be had is a failure of the phase, which says so in its heartbeat
        check_model(config)
    recorded = recorded_hash(folder) if resume else None
    if recorded is not None:
        check_same_config(config, recorded, "run_record.json")
    return config_hash(config)


def _hash_or_none(folder: Path) -> str | None:
    """The recorded hash; a damaged record counts as another configuration's."""
    try:
        return recorded_hash(folder)
    except ModelwrightError:
        return "damaged"


def _open(
    folder: Path,
    name: PhaseName,
    config: RunConfig | None,
    digest: str,
    command: Sequence[str],
    resume_command: Sequence[str],
    clock: Clock,
) -> RunDir:
    """The writer of the run, with `run.json` pointing at this phase's heartbeat and command."""
    stem = f"logs/{name}_heartbeat"
    document = None if config is None else resolved_document(config)
    if not (folder / RECORD_NAME).exists():
        kind = f"{KIND}-sweep" if name == "sweep" else KIND
        return RunDir.create(
            folder,
            kind=kind,
            command=command,
            resume_command=resume_command,
            config=document,
            config_sha256=digest or None,
            files={"heartbeat": stem},
            clock=clock,
        )
    run = RunDir.open_writer(folder, command=command, clock=clock)
    run.record.files = run.record.files.model_copy(update={"heartbeat": stem})
    run.record.resume_command = list(resume_command)
    if config is not None:
        run.record.config, run.record.config_sha256 = document, digest or None
    run.update()
    return run


def _run_opened(phase: PhaseRun, work: Work, config: RunConfig | None, config_path: str | Path, command: Sequence[str]) -> int:
    try:
        make_folder(phase.folder / "logs")
        phase.run.start_phase(phase.name)
        if config is not None:
            make_layout(phase.folder)
            if recorded_hash(phase.folder) is None:
                write_records(phase.folder, config, config_path, command, clock=phase.clock)
        if phase.name in PAUSE_ACKS:
            (phase.folder / "control" / PAUSE_ACKS[phase.name]).unlink(missing_ok=True)  # of an earlier pause
        with _renewing(phase):
            reason = work(phase)
        phase.write(phase.step, "completed", reason, {})
        phase.run.finish("completed", EXIT_DONE, reason)
        return EXIT_DONE
    except PhasePaused as pause:
        phase.run.finish("paused", EXIT_PAUSED, pause.reason)
        return EXIT_PAUSED
    except (Exception, KeyboardInterrupt) as error:
        _record_failure(phase, error)
        raise


def _record_failure(phase: PhaseRun, error: BaseException) -> None:
    """The `failed` heartbeat and record of a phase that raised; what cannot be written is said and hides nothing."""
    text = str(error) or type(error).__name__
    try:
        with contextlib.suppress(DiskFullError):  # the record below has space set aside for it
            phase.write(phase.step, "failed", type(error).__name__, {"error": text})
        phase.run.finish("failed", exit_status(error), f"{type(error).__name__}: {text}")
    except ModelwrightError as second:
        print(f"The failure could not be recorded: {second}", file=sys.stderr)


@contextlib.contextmanager
def _renewing(phase: PhaseRun) -> Iterator[None]:
    """A thread renews the heartbeat while the block is silent for longer than `SILENCE_S`."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(min(1.0, phase_run.SILENCE_S / 4)):
            with contextlib.suppress(ModelwrightError):  # the phase meets the same fault at its own next write, and reports it
                phase.renew()

    thread = threading.Thread(target=renew, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
