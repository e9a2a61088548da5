"""What is answered without starting anything: the stored report, whether it is stale, the plan, and the record of wrong arguments."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

import apsw

from macprovider.autotune.arguments import WrongArguments
from macprovider.autotune.options import Options
from macprovider.autotune.outcome import EXIT_CODES, EXIT_STALE, SetupError
from macprovider.autotune.plan import Knobs, cells_of, describe, fit_knobs
from macprovider.autotune.records import history, report
from macprovider.autotune.records.database import Row, TuningDatabase
from macprovider.autotune.records.database import unusable as database_unusable
from macprovider.autotune.records.machine import this_machine
from macprovider.autotune.records.recommendation import document
from macprovider.autotune.run import as_json
from macprovider.engines.forecast import predict
from modelwright.errors import StorageError

LAST_LINE = "exit_reason=config_error"


def dry_run(options: Options) -> int:
    """Print the plan."""
    from modelwright.hardware import inventory

    for warning in options.warnings:
        print(warning, file=sys.stderr)
    ram_gb = inventory().ram_total
    knobs, axis = fit_knobs(options.target_context, ram_gb), cells_of(options)

    def words(model: str, knobs: Knobs, here: float | None) -> str:
        return predict(model, knobs, options.target_context, options.engine).words(here)

    listed = options.candidate_models
    whose = next((m for m in listed if predict(m, knobs, options.target_context, options.engine).source == "files"), "")
    of_cells = [words(whose, cell, None) for cell in axis] if whose else []
    print(describe(options, [words(model, knobs, ram_gb) for model in listed], of_cells, whose))
    return 0


def report_only(options: Options) -> int:
    """Print the newest stored run, and write its page where one was asked for. Raises SetupError without a database or a run, and for a
    page that cannot be written.
    """
    if options.apply:
        print("warning: --report-only prints only; --apply is not used.", file=sys.stderr)
    database = _existing(options)
    try:
        runs = database.runs()
        newest = history.newest(runs)
        if newest is None:
            raise SetupError(f"--report-only: {options.db_path} holds no run yet. Run `macprovider-cli autotune` first.")
        trials = database.trials()
    except apsw.Error as error:
        raise database_unusable(options.db_path, error) from error
    finally:
        database.close()
    of_it = [trial for trial in trials if trial["run_id"] == newest["run_id"]]
    told = document(newest, of_it, options.db_path)
    print(report.block(told))
    if options.compare and told["recommendation"] is not None:
        earlier = runs[runs.index(newest) + 1 :]
        print(report.comparison(told["recommendation"], history.previous_recommendation(earlier)))
    if options.show_pareto:
        print(history.table(history.side_by_side(runs, trials, newest["target_context"], this_machine(newest["engine"]))))
    if options.json:
        print(as_json(told))
    if options.html is not None:
        sys.stdout.flush()
        _write_page(options.html, told, newest, of_it)
    return 0


def check_stale(options: Options) -> int:
    """Compare the machine of the newest recommendation with this one; 1 when something changed."""
    database = _existing(options)
    try:
        run = next((run for run in database.runs() if run["recommendation_json"] is not None), None)
    finally:
        database.close()
    if run is None:
        raise SetupError(f"--check-stale: {options.db_path} holds no recommendation yet. Run `macprovider-cli autotune` first.")
    changed = history.changes(run, this_machine(run["engine"]))
    if not changed:
        print(f"The recommendation of {run['started_at_utc']} still stands: program, system and hardware are the same.")
        return 0
    print(f"The recommendation of {run['started_at_utc']} is stale; tune again with `macprovider-cli autotune`:")
    print("\n".join(f"  {sentence}" for sentence in changed))
    return EXIT_STALE


def refused(error: WrongArguments) -> int:
    """Tell every fault and, where the database can be opened, keep one finished row that says so."""
    print(error, file=sys.stderr)
    if error.db_path is not None and not any(error.switches[name] for name in ("dry_run", "report_only", "check_stale")):
        try:
            _record(error, error.db_path)
        except SetupError as why:
            print(why, file=sys.stderr)
    print(LAST_LINE, file=sys.stderr)
    return EXIT_CODES["config_error"]


def unusable(error: SetupError) -> int:
    """Tell why the run cannot begin."""
    print(error, file=sys.stderr)
    print(LAST_LINE, file=sys.stderr)
    return EXIT_CODES["config_error"]


def _record(error: WrongArguments, path: Path) -> None:
    database = TuningDatabase(path)
    try:
        run_id = str(uuid.uuid4())
        database.begin_run(run_id, error.inputs, this_machine(None), exit_reason="config_error", ended=True)
        if error.switches["json"]:
            print(as_json(document(database.run(run_id), [], path)), flush=True)
    except apsw.Error as trouble:
        raise database_unusable(path, trouble) from trouble
    finally:
        database.close()


def _write_page(path: Path, told: dict[str, Any], run: Row, trials: list[Row]) -> None:
    from macprovider.autotune.records.page import write_page

    try:
        write_page(path, told, run, trials)
    except StorageError as error:
        raise SetupError(f"--html: {error}") from error
    print(f"report: {path}", file=sys.stderr)


def _existing(options: Options) -> TuningDatabase:
    if not options.db_path.is_file():
        raise SetupError(f"--db-path: {options.db_path} does not exist. Run `macprovider-cli autotune` first, or name the right file.")
    database = TuningDatabase(options.db_path, readonly=True)
    try:
        database.runs()
    except apsw.Error as error:
        database.close()
        raise SetupError(
            f"--db-path: {options.db_path} holds no run that can be read ({error}). Run `macprovider-cli autotune` first."
        ) from error
    return database
