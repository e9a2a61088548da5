"""The command `python -m scaler_wizard.cli`: parse, resolve, check the contract, then plan (`--dry-run`) or run.

Imports the standard library only until there is something to do, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modelwright.errors import ModelwrightError, UsageError
from scaler_wizard.arguments import Arguments, parse

if TYPE_CHECKING:
    from scaler_wizard.contract import AcceptedContract, Contract
    from scaler_wizard.outcomes import RunResult
    from scaler_wizard.resolved import ResolvedJob

EXTRA = "training"
EXIT_ABORTED = 7
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (the table stands at the end of --help)."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    seen: list[str] = []
    try:
        with signals_interrupt(seen):
            return run(parse(words), words)
    except SystemExit as stop:  # argparse after --help
        return int(stop.code or 0)
    except BaseException as error:
        if seen or isinstance(error, KeyboardInterrupt):  # once a run has begun, signals are requests to it and its result is returned
            name = seen[0] if seen else "SIGINT"
            return _fail(f"Interrupted by {name} before a run began: none was started.", EXIT_ABORTED, as_json=as_json)
        if isinstance(error, ModelwrightError):
            return _fail(str(error), error.exit_code, as_json=as_json)
        if isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] in LIBRARIES:
            return _fail(f"The package {error.name} is not installed; install modelwright[{EXTRA}] to do this.", 2, as_json=as_json)
        raise


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM before a run began.

    A class of its own, because CPython remembers a plain KeyboardInterrupt that passes through `exec` or `eval`, as it may while
    modules are imported, and then ends the process by SIGINT instead of its exit code, whoever caught it.
    """


@contextmanager
def signals_interrupt(seen: list[str]) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise Interrupted, and their names join `seen`: what is being imported may turn the
    exception into another one. An ignored SIGINT stays ignored; only the main thread may ask for any of this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        seen.append(signal.Signals(number).name)
        raise Interrupted(seen[-1])

    numbers = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else [])]
    former = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def run(arguments: Arguments, argv: Sequence[str]) -> int:
    """Steps 1 and after, for parsed arguments; `argv` is recorded with the run so that it can be resumed.

    The quick checks import nothing heavy. The hardware is looked at last, when settings, contract, model and data are in order.
    """
    from scaler_wizard.draft import draft_job

    logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    draft = draft_job(arguments, consent=True, announce=None if arguments.json_output else _announce)
    from modelwright.hardware import inventory
    from scaler_wizard.resolve import finish

    hardware = inventory(draft.contract_path.parent)
    job = finish(draft, hardware)
    accepted = accept(draft.contract, job)
    if arguments.dry_run:
        return _plan(job, hardware, accepted)
    if accepted is None:
        raise AssertionError("only a dry run goes on without a contract")
    from scaler_wizard.runner import run_resolved

    result = run_resolved(job, accepted, argv=argv)
    if arguments.json_output:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    else:
        print(_summary(job, result))
    return result.exit_code


def _announce(doing: str) -> None:
    print(doing, file=sys.stderr, flush=True)


def accept(contract: Contract | None, job: ResolvedJob) -> AcceptedContract | None:
    """The contract verified against the job; under --strict a dry run without one is refused."""
    from scaler_wizard.contract import verify

    if contract is None:
        if job.strict:
            raise UsageError(f"--strict: there is no contract at {job.paths.contract} to consent to {job.config_sha256}.")
        return None
    return verify(contract, job)


def _plan(job: ResolvedJob, hardware: Any, accepted: AcceptedContract | None) -> int:
    from scaler_wizard.memory_plan import memory_plan, shortfall_sentence
    from scaler_wizard.plan import dry_run, summary
    from scaler_wizard.profile_recommender import profile_of

    if job.strict:
        memory = memory_plan(job, profile_of(hardware))
        if not memory["fits"]:
            from scaler_wizard.outcomes import HardwareShortfall

            raise HardwareShortfall(f"--strict: {shortfall_sentence(memory)}")
    plan = dry_run(job, hardware, accepted)
    if job.json_output:
        print(json.dumps({"status": "planned", "exit_code": 0, "output_dir": str(job.output_dir), **plan}, ensure_ascii=False))
    else:
        print(summary(plan, job.output_dir))
    return 0


def _summary(job: ResolvedJob, result: RunResult) -> str:
    lines = [f"{result.status}: {result.message}", f"  run directory: {result.run_dir}"]
    for probe, by_length in result.scores.items():
        lines.append(f"  {probe}: " + ", ".join(f"{length} tokens {score:.3g}" for length, score in by_length.items()))
    if result.exit_code == 0:
        lines.append(f"  load it with: scaler_wizard.load({str(result.run_dir)!r})")
    lines += [f"  warning: {text}" for text in job.warnings]
    return "\n".join(lines)


def _fail(text: str, exit_code: int, *, as_json: bool) -> int:
    print(text, file=sys.stderr)
    if as_json:
        status = "aborted" if exit_code == EXIT_ABORTED else "failed"
        print(json.dumps({"status": status, "exit_code": exit_code, "error": text}, ensure_ascii=False))
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
