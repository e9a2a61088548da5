"""One run from its first row to its last word: lock, conflicts, the two stages, apply, restore, report. (specs/autotune.md, 5 to 11)"""

from __future__ import annotations

import contextlib
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import orjson

from macprovider import places
from macprovider.autotune.candidate.provider import PortTaken
from macprovider.autotune.engine import engine_of_serve
from macprovider.autotune.measuring.gate import NOTES_CHARACTERS
from macprovider.autotune.options import Inputs, Options
from macprovider.autotune.outcome import (
    EXIT_APPLY_FAILED,
    EXIT_CODES,
    BudgetExhausted,
    Conflict,
    ExitReason,
    IntegrityFailure,
    Interrupted,
    SetupError,
)
from macprovider.autotune.records import history, report
from macprovider.autotune.records.database import Row, TuningDatabase, unusable
from macprovider.autotune.records.machine import this_machine
from macprovider.autotune.records.recommendation import document, hash_of, knobs_of, recommendation
from macprovider.autotune.session import Session, World
from macprovider.autotune.stages import Progress, stage_one, stage_two
from macprovider.autotune.watch import Watch
from macprovider.weights.cache_dir import cache_dir, moved_since
from modelwright.database import TROUBLE
from modelwright.errors import ModelwrightError, RunLockedError, StorageError

if TYPE_CHECKING:
    from macprovider.autotune.live.drain import Drained

EARLY: tuple[ExitReason, ...] = ("interrupted", "budget_exhausted_with_partial_recommendation")
Body = Callable[[Session, Progress], ExitReason]


@dataclass
class _End:
    """How a run ended, as it becomes known."""

    reason: ExitReason = "internal_error"
    progress: Progress = field(default_factory=Progress)
    recommended: dict[str, Any] | None = None
    applied_line: str = ""
    apply_failed: bool = False


def tune(options: Options, world: World | None = None) -> int:
    """Find the model, tune it, tell it; returns the exit status. Raises SetupError when not even a row can be written."""
    return execute(options, world or World(), _tuned, None)


def execute(options: Options, world: World, body: Body, experiment: str | None) -> int:
    """Run `body` with everything around it that a run needs, and see it through to its end on every path."""
    watch = Watch(options.max_duration, world.clock)
    with watch.listening():
        for warning in options.warnings:
            print(warning, file=sys.stderr)
        database = TuningDatabase(options.db_path, world.clock)
        try:
            try:
                session = _begin(options, world, watch, database, experiment)
            except apsw.Error as error:
                raise unusable(options.db_path, error) from error
            end = _End()
            try:
                _whole(session, end, body)
            except Exception as error:  # noqa: BLE001 - every way to fail has its reason, its row and its exit status
                end.reason = _reason(session, end, error)
            return _told(session, end, experiment)
        finally:
            database.close()


def _begin(options: Options, world: World, watch: Watch, database: TuningDatabase, experiment: str | None) -> Session:
    from modelwright.hardware import inventory

    run_id = str(uuid.uuid4())
    options = history.as_before(options, database.runs())
    machine = this_machine(options.engine)
    before = next((run["hf_cache_dir"] for run in database.runs() if run["hf_cache_dir"]), None)
    inputs = Inputs.of({name: getattr(options, name) for name in Inputs.__dataclass_fields__})
    database.begin_run(run_id, inputs, machine, hf_cache_dir=str(cache_dir()), experiment=experiment)
    session = Session(run_id, options, machine, database, watch, world, inventory().ram_total)
    session.say(f"run {run_id}: {machine.chip}, {machine.ram_gb} GiB, engine {options.engine}, database {options.db_path}")
    if options.engine_reason:
        session.say(options.engine_reason)
    session.say(f"weights are read from {cache_dir()}")
    moved = moved_since(before, cache_dir())
    if moved:
        session.say(f"warning: {moved}")
    return session


def _whole(session: Session, end: _End, body: Body) -> None:
    """The run proper; sets the reason, raises for everything that is not `ok` or `no_feasible`."""
    options, database = session.options, session.database
    _prepare_folders(session)
    with _only_autotune(session):
        database.forget_old_runs(options.retain_runs)
        database.mark_stale_trials(session.run_id)
        drained = _clear_the_way(session)
        applied = False
        try:
            end.reason = body(session, end.progress)
            if end.reason == "ok":
                end.recommended = recommendation(session, end.progress, partial=False)
                applied = _apply(session, end)
        finally:
            _restore(session, drained, applied)


def _tuned(session: Session, progress: Progress) -> ExitReason:
    options = session.options
    known = {}
    if options.resume:
        runs = [run for run in session.database.runs() if run["run_id"] != session.run_id]
        known = history.proved_infeasible(runs, session.database.trials(), options, session.machine)
    stage_one(session, progress, known)
    if progress.chosen is None:
        return "no_feasible"
    stage_two(session, progress, progress.chosen)
    if session.watch.signals:
        raise Interrupted
    return "ok" if progress.winner is not None else "no_feasible"


@contextlib.contextmanager
def _only_autotune(session: Session) -> Iterator[None]:
    """One run beside a database, and one of a user: two that measure at once measure each other."""
    from modelwright.lock import WriterLock, describe_holder

    folders = {places.logs_folder().resolve(): "logs of candidates", session.options.db_path.parent.resolve(): "--db-path"}
    with contextlib.ExitStack() as locks:
        for folder, what in folders.items():
            try:
                lock = WriterLock(folder, command=["macprovider-cli", "autotune"], clock=session.world.clock)
            except RunLockedError as error:
                who = describe_holder(error.holder)
                raise Conflict(f"Another autotune is at work in {folder}: {who}. Wait until it has ended, or stop it.") from error
            except ModelwrightError as error:
                raise SetupError(f"{what}: {error}") from error
            locks.callback(lock.release)
        yield


def _prepare_folders(session: Session) -> None:
    try:
        session.empty_config()
    except (OSError, ModelwrightError) as error:
        raise SetupError(f"The logs of candidates cannot be written: {error}") from error


def _clear_the_way(session: Session) -> Drained | None:
    """Refuse while another provider runs, or drain it where that was asked for."""
    from macprovider.autotune.live.conflicts import ConflictError
    from macprovider.autotune.live.drain import drain, refusal

    options = session.options
    found = session.world.conflicts(options.port)
    if not found:
        return None
    if not options.drain:
        raise Conflict(refusal(found))
    session.say(f"draining {', '.join(conflict.described() for conflict in found)}")
    try:
        return drain(
            found,
            grace_s=min(options.live_grace_s, session.watch.remaining()),
            port=options.port,
            restart_foreground=options.restart_foreground,
            clock=session.world.clock,
            pause=session.watch.pause,
        )
    except ConflictError as error:
        raise Conflict(str(error)) from error


def _restore(session: Session, drained: Drained | None, applied: bool) -> None:
    if drained is not None:
        for sentence in drained.restore(applied).sentences:
            session.say(sentence)


def _apply(session: Session, end: _End) -> bool:
    """Write the recommendation where that was asked for; true when the file holds it."""
    from macprovider.autotune.config_file.apply import Recommended, apply_recommendation
    from macprovider.autotune.live.drain import restart_hint

    options, recommended = session.options, end.recommended
    if not options.apply or recommended is None:
        return False
    if session.watch.signals:
        raise Interrupted
    knobs = knobs_of(recommended)
    assert knobs.max_context is not None and knobs.kv_bits in (None, 4, 8)
    values = Recommended(
        recommended["model"],
        knobs.kv_bits,  # type: ignore[arg-type]
        knobs.max_context,
        knobs.max_batch,
        knobs.repair,
        decides_repair=options.repair is not None,
    )
    try:
        applied = apply_recommendation(options.config, values)
    except ModelwrightError as error:
        end.apply_failed = True
        session.say(f"The recommendation was not applied: {error}")
        return False
    end.applied_line = applied.line()
    named = "" if applied.engine == "auto" else applied.engine
    if options.engine != (named or engine_of_serve(recommended["model"], knobs)):
        instead = f", not {named} as there" if named else ""
        session.say(
            f"This was measured with the engine {options.engine}{instead}: set `engine: {options.engine}` in {applied.path} as well."
        )
    if applied.other_repair:
        session.say(
            f"{applied.path} also sets `repair: {applied.other_repair}`, without which this was measured: remove that line, or measure "
            "with it by --repair."
        )
    if not options.drain:
        session.say(restart_hint())
    return True


def _reason(session: Session, end: _End, error: Exception) -> ExitReason:
    """The reason that an exception stands for; says what the user has to know."""
    if isinstance(error, Interrupted):
        session.say("interrupted; the candidate was stopped and the database closed")
        return "interrupted"
    if isinstance(error, BudgetExhausted):
        if end.progress.chosen is None:
            session.say("tuning incomplete: no model selected. Give it more time with --max-duration, or a shorter --candidate-models.")
            return "budget_exhausted_no_model_selected"
        session.say("warning: the time of --max-duration is over; the recommendation is partial.")
        return "budget_exhausted_with_partial_recommendation"
    if isinstance(error, IntegrityFailure):
        session.say(
            f"{str(error).rstrip('.')}. The run stops: weights that are not what their publisher listed must not be served. "
            "Remove the model from the cache, or mend its folder, and tune again."
        )
        return "pre_warm_integrity_failure"
    if isinstance(error, (Conflict, PortTaken)):
        session.say(str(error))
        return "provider_conflict"
    if isinstance(error, SetupError):
        session.say(str(error))
        return "config_error"
    if isinstance(error, TROUBLE):
        session.say(str(unusable(session.options.db_path, error)))
    elif isinstance(error, StorageError):
        session.say(str(error))
    else:
        _note_defect(session, error)
    return "internal_error"


def _note_defect(session: Session, error: Exception) -> None:
    trace = "".join(traceback.format_exception(error))
    session.say(trace)
    with contextlib.suppress(apsw.Error):
        rows = session.database.trials(session.run_id)
        if rows and session.open_trial != rows[-1]["id"]:
            before = f"{rows[-1]['notes']} | " if rows[-1]["notes"] else ""
            room = NOTES_CHARACTERS - len(before)
            session.database.note_trial(rows[-1]["id"], before[:NOTES_CHARACTERS] + trace[-room:] if room > 0 else before)


def _told(session: Session, end: _End, experiment: str | None) -> int:
    """Finish the row, print the report, and give the exit status."""
    options, database = session.options, session.database
    if end.reason in EARLY:
        end.recommended = recommendation(session, end.progress, partial=True)
    elif end.reason != "ok":
        end.recommended = None
    recipe = hash_of(end.recommended, options.candidate_models, session.machine)
    try:
        database.end_run(session.run_id, end.reason, recommendation=end.recommended, recipe_hash=recipe, applied=bool(end.applied_line))
    except apsw.Error as error:  # a full disk, a file that was taken away
        session.say(f"The end of this run could not be stored in {options.db_path} ({error}); the run ended with {end.reason}.")
        if end.recommended is not None:
            session.say(f"It recommends: {end.recommended['serve_command']}")
        if end.applied_line:
            print(end.applied_line, flush=True)
        return EXIT_CODES["internal_error"]
    run, trials = database.run(session.run_id), database.trials(session.run_id)
    told = document(run, trials, options.db_path)
    if end.reason == "no_feasible":
        session.say(report.nothing_fits(options.target_context, told["infeasible"]) if experiment is None else "nothing could be measured")
    if experiment is None:
        _print_report(session, end, told)
    if end.progress.finding is not None:
        told["finding"] = end.progress.finding
    if options.json:
        print(as_json(told))
    sys.stdout.flush()
    if options.html is not None:
        _write_page(session, options.html, told, run, trials)
    if end.reason == "config_error":
        session.say("exit_reason=config_error")
    return EXIT_APPLY_FAILED if end.apply_failed else EXIT_CODES[end.reason]


def _print_report(session: Session, end: _End, told: dict[str, Any]) -> None:
    options, database = session.options, session.database
    if end.recommended is not None or end.reason == "no_feasible":
        print(report.block(told))
    if options.apply and end.recommended is not None and end.recommended["partial"]:
        session.say("nothing was applied: the recommendation is partial")
    if options.compare and end.recommended is not None:
        print(report.comparison(end.recommended, history.previous_recommendation(database.runs(), but=session.run_id)))
    if options.show_pareto:
        print(history.table(history.side_by_side(database.runs(), database.trials(), options.target_context, session.machine)))
    if end.applied_line:
        print(end.applied_line)


def _write_page(session: Session, path: Path, told: dict[str, Any], run: Row, trials: list[Row]) -> None:
    """The last thing of a run: everything else is stored and printed by now, so that a page that cannot be written costs nothing but
    itself.
    """
    from macprovider.autotune.records.page import write_page

    try:
        write_page(path, told, run, trials)
    except StorageError as error:
        again = "" if told["experiment"] else " The run is stored: `macprovider-cli autotune --report-only --html FILE` writes its page."
        session.say(f"--html: {error}{again}")
    else:
        session.say(f"report: {path}")


def as_json(told: dict[str, Any]) -> str:
    """The document as it is printed: its first brace in column 0."""
    return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode()
