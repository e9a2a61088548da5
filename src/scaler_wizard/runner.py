"""The one entry point of a real run: the command, a task and a plugin all call this.

`run_job(job)` takes a job document as plain data, `run_resolved(job, …)` a job that step 1 has resolved. Both open the
run directory, run the pipeline, and turn every way it can end into a status, an exit code, a telegram and a payload.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import EXIT_PAUSED, ModelwrightError, Paused, is_disk_full
from scaler_wizard.outcomes import BreakerStop, HardwareShortfall, HumanStop, RunResult, ran_out_of_memory

if TYPE_CHECKING:
    from modelwright.rundir import RunDir
    from scaler_wizard.contract import AcceptedContract
    from scaler_wizard.resolved import ResolvedJob
    from scaler_wizard.session import Session

KIND = "scaler_wizard"
JOB_FILE = "job.json"
CONFIG_FILE = "config.resolved.yaml"
logger = logging.getLogger(__name__)


def run_job(job: Mapping[str, Any], *, quiet: bool = True) -> RunResult:
    """Run a job document (the plugin's job schema) from beginning to end. The contract's fields are checked before any hardware
    is looked at, as the command does.

    `quiet` keeps progress off the terminal. `job["output_dir"]` names the run directory; a run that is already there is
    resumed when the document is the one it was begun with.

    Raises ConfigError, LoadError, ContractNotAcceptedError, RunLockedError before anything is written; what happens
    later is in the result.
    """
    from scaler_wizard.arguments import Arguments
    from scaler_wizard.contract import verify
    from scaler_wizard.draft import draft_job
    from scaler_wizard.output_dir import holds_run
    from scaler_wizard.resolve import finish

    directory = job.get("output_dir")
    resume = bool(directory) and holds_run(Path(str(directory)))
    draft = draft_job(Arguments(resume=resume, json_output=quiet), job, consent=True)
    resolved = finish(draft)
    if draft.contract is None:
        raise AssertionError("a job that is to run was drafted with its contract")
    return run_resolved(resolved, verify(draft.contract, resolved), document=job)


def run_resolved(
    job: ResolvedJob,
    accepted: AcceptedContract | None = None,
    *,
    argv: Sequence[str] | None = None,
    document: Mapping[str, Any] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> RunResult:
    """Run a resolved job: start it, or go on with it when `job.resume` is set.

    `accepted` is the contract verified against this job; without it the contract is found and verified here. `argv` are
    the command's arguments (without the program), recorded so that the run can be resumed; without them `document` is
    kept as
    `job.json` and recorded as the way to resume.

    Raises ContractNotAcceptedError, RunLockedError, UsageError before the run begins, and any defect after recording
    it.
    """
    from modelwright.control import signals_as_requests

    accepted = accepted or accept_contract(job)
    done = finished_before(job)
    if done is not None:
        return done
    try:
        with signals_as_requests() as signals, open_run(job, argv, document, clock) as run:
            from scaler_wizard.session import Session

            accepted.write_copy(run.path)
            session = Session(job, run, accepted.contract, signals=signals, clock=clock, quiet=job.json_output)
            try:
                return _ended(session, lambda: _run(session, accepted))
            finally:
                session.close()
    except KeyboardInterrupt as interrupt:  # a second Ctrl-C between two moments that could answer it
        raise HumanStop(f"Interrupted twice: the run in {job.output_dir} stands as it was last saved.", "abort", "SIGINT") from interrupt


def finished_before(job: ResolvedJob) -> RunResult | None:
    """The result of a run that is to be resumed and is complete already; None for any other."""
    from modelwright.record import read_record
    from scaler_wizard import run_metadata

    path = job.output_dir.absolute()
    if not job.resume or not (path / run_metadata.METADATA_FILE).exists():
        return None
    record = read_record(path)
    if record.status != "completed":
        return None
    promoted = [rung.length for rung in run_metadata.load(path).rungs if rung.promoted]
    message = f"The run in {path} is complete; there is nothing to resume."
    return RunResult("completed", 0, path, record.run_id, message, max(promoted, default=None), job.scaling.target_context)


def accept_contract(job: ResolvedJob) -> AcceptedContract:
    """Find and verify the contract of a job. Raises ContractNotAcceptedError (exit 3)."""
    from scaler_wizard.contract import find, verify

    return verify(find(job.paths.contract, job.contract), job)


def open_run(job: ResolvedJob, argv: Sequence[str] | None, document: Mapping[str, Any] | None, clock: Clock = SYSTEM_CLOCK) -> RunDir:
    """Become the writer of the job's run directory. Raises RunLockedError naming the holder, UsageError when a run is
    there already.
    """
    from modelwright.files import write_json, write_yaml
    from modelwright.rundir import RunDir

    path = job.output_dir.absolute()
    command, resume = commands(path, argv)
    if job.resume:
        run = RunDir.open_writer(path, command=command, clock=clock)
    else:
        config = job.document()
        run = RunDir.create(
            path, kind=KIND, command=command, resume_command=resume, config=config, config_sha256=job.config_sha256, clock=clock
        )
    try:
        if not (path / CONFIG_FILE).exists():
            write_yaml(path / CONFIG_FILE, job.document())
        if argv is None and not (path / JOB_FILE).exists():
            write_json(path / JOB_FILE, dict(document or {}))
    except BaseException:
        run.close()
        raise
    return run


def commands(path: Path, argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """(command, resume command) of a run in `path`; the second always names the directory and asks to resume."""
    program = [sys.executable, "-m", "scaler_wizard.cli"]
    given = list(argv) if argv is not None else ["--config", str(path / JOB_FILE)]
    again = [word for word in given if word != "--resume"]
    if not any(word == "--output-dir" or word.startswith("--output-dir=") for word in again):
        again += ["--output-dir", str(path)]
    return [*program, *given], [*program, *again, "--resume"]


def _run(session: Session, accepted: AcceptedContract) -> RunResult:
    from scaler_wizard.pipeline import Pipeline

    return Pipeline(session, accepted.contract, accepted.token(session.run_id)).run()


def _ended(session: Session, work: Callable[[], RunResult]) -> RunResult:
    """Run `work` and record how it ended; only defects are raised."""
    reason = ""
    try:
        result = work()
    except BreakerStop as stop:
        session.event("run/stopped", by="breaker", reason=str(stop))
        sentence = str(stop.telegram.get("canonical_sentence", stop))
        result = _unfinished(session, "stopped", stop.exit_code, str(stop), sentence)
    except HumanStop as stop:
        result = _human(session, stop)
    except Paused as pause:
        reason = pause.reason
        result = _paused(session, reason)
    except KeyboardInterrupt:
        result = _human(session, HumanStop("Interrupted twice: the last checkpoint stands.", "abort", "SIGINT"))
    except Exception as error:
        if is_disk_full(error):
            reason = "disk"
            result = _paused(session, reason)
        elif ran_out_of_memory(error):
            words = (str(error) or type(error).__name__).splitlines()[0]
            message = f"Memory ran out while {session.at.doing} ({words}). Use a shorter target or a smaller model."
            session.event("run/failed", reason=message, exit_code=HardwareShortfall.exit_code)
            result = _unfinished(session, "failed", HardwareShortfall.exit_code, message, message)
        elif isinstance(error, ModelwrightError):
            session.event("run/failed", reason=str(error), exit_code=error.exit_code)
            result = _unfinished(session, "failed", error.exit_code, str(error), str(error))
        else:
            _failed(session, error)
            raise
    if result.status != "completed" and not reason:
        reason = result.message
    session.run.finish(result.status, result.exit_code, reason)  # type: ignore[arg-type]
    return result


def _human(session: Session, stop: HumanStop) -> RunResult:
    from scaler_wizard.sentences import canonical_sentence

    job = session.job
    sentence = canonical_sentence(
        "aborted", job.alerts.language, job.alerts.canonical_sentence, actor=stop.actor or "a person", reason=str(stop)
    )
    session.event("run/stopped", by=stop.actor, kind=stop.kind, reason=str(stop))
    session.telegram("stop", str(stop), triggers=["human"], sentence=sentence, recommended="none")
    status = "aborted" if stop.kind == "abort" else "stopped"
    return _unfinished(session, status, stop.exit_code, str(stop), sentence)


def _paused(session: Session, reason: str) -> RunResult:
    """A pause is recorded as far as a full disk lets it; the run's own record has space kept aside."""
    message = f"Paused at step {session.at.step} (reason: {reason}). Go on with: modelwright runs resume {shlex.quote(str(session.path))}"
    try:
        session.event("run/paused", reason=reason)
        return _unfinished(session, "paused", EXIT_PAUSED, message, f"Paused: {reason}.")
    except ModelwrightError as error:
        if not is_disk_full(error):
            raise
        logger.warning("The pause could not be written everywhere: %s", error)
    return _result(session, "paused", EXIT_PAUSED, message)


def _failed(session: Session, error: Exception) -> None:
    """A defect: recorded as far as possible, then raised by the caller with its traceback."""
    reason = f"{type(error).__name__}: {error}"
    session.event("run/failed", reason=reason, exit_code=1)
    session.report("failed", reason[:120])
    session.run.finish("failed", 1, reason)


def _unfinished(session: Session, status: str, exit_code: int, message: str, sentence: str) -> RunResult:
    """Payload and result of a run that did not complete. The cockpit knows no `aborted`: it shows such a run as
    stopped.
    """
    session.report("stopped" if status == "aborted" else status, sentence)
    return _result(session, status, exit_code, message)


def _result(session: Session, status: str, exit_code: int, message: str) -> RunResult:
    lengths = [record.length for record in session.state.metadata.rungs if record.promoted]
    return RunResult(
        status=status,
        exit_code=exit_code,
        run_dir=session.path,
        run_id=session.run_id,
        message=message,
        achieved_context=max(lengths, default=None),
        target_context=session.job.scaling.target_context,
    )
