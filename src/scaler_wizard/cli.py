"""The command `python -m scaler_wizard.cli`: parse, resolve, check the contract, then plan (`--dry-run`) or run.

Imports the standard library only until there is something to do, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelwright.errors import ConfigError, ModelwrightError, UsageError
from scaler_wizard.arguments import Arguments, parse

if TYPE_CHECKING:
    from scaler_wizard.contract import AcceptedContract, Contract
    from scaler_wizard.outcomes import RunResult
    from scaler_wizard.resolved import ResolvedJob

EXTRA = "training"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (the table stands at the end of --help)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parse(words)
    except SystemExit as stop:  # argparse after --help
        return int(stop.code or 0)
    except ConfigError as error:
        return _fail(error, as_json="--json" in words)
    try:
        return run(arguments, words)
    except ModelwrightError as error:
        return _fail(error, as_json=arguments.json_output)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers"):
            raise
        missing = UsageError(f"The package {error.name} is not installed; install modelwright[{EXTRA}] to do this.")
        return _fail(missing, as_json=arguments.json_output)


def run(arguments: Arguments, argv: Sequence[str]) -> int:
    """Steps 1 and after, for parsed arguments; `argv` is recorded with the run so that it can be resumed."""
    from modelwright.hardware import inventory
    from scaler_wizard.draft import draft_job
    from scaler_wizard.resolve import finish

    logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr)
    draft = draft_job(arguments)
    contract = find_contract(draft.contract_path, draft.contract_section, dry_run=arguments.dry_run)
    hardware = inventory(draft.contract_path.parent)
    job = finish(draft, hardware)
    accepted = accept(contract, job)
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


def find_contract(path: Any, section: Any, *, dry_run: bool) -> Contract | None:
    """The contract with its fields checked, before any hardware is looked at; None when a dry run has none."""
    from scaler_wizard.contract import ContractMissingError, find

    try:
        return find(path, section)
    except ContractMissingError:
        if dry_run:
            return None
        raise


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


def _fail(error: ModelwrightError, *, as_json: bool) -> int:
    print(error, file=sys.stderr)
    if as_json:
        print(json.dumps({"status": "failed", "exit_code": error.exit_code, "error": str(error)}, ensure_ascii=False))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
