"""One file of the queue from taken to done: gates, run directory, engine, and what became of it. (specs/guild.md 2.1.1, 2.1.4)"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from guild.analytics.impact import close_impact
from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.effective_config import Effective, write_effective
from guild.campaigns.store import record_progress
from guild.control.state import write_state
from guild.places import Places
from guild.queue.disk import disk_verdict
from guild.queue.marks import (
    Taken,
    mark_cancelled,
    mark_completed,
    mark_failed,
    mark_rejected,
    mark_returned,
    mark_skipped,
)
from guild.queue.status import get_queue_status
from guild.records import events, jobs
from guild.trainer.gates import check_rows
from guild.trainer.history import append_run_history
from guild.trainer.settings import STATUS_NAME, trainer_config
from guild.trainer.watch import SOURCE, Watch
from guild.training.engine import TrainerEngine
from guild.training.interface import SavedCheckpoint, TrainerConfig, TrainingResult
from guild.training.status import TrainingStatus
from modelwright.clock import Clock
from modelwright.control import SignalFlag
from modelwright.database import Database
from modelwright.errors import ModelwrightError
from modelwright.identity import ProcessIdentity
from modelwright.record import RunStatus
from modelwright.rundir import RunDir

KIND = "guild_train_file"
UNFIT = ("MaskingValidationError", "LoadError", "ProfileRuleError", "UnknownSchemaError")
"""Failures of a file that trying again would repeat."""
ENDS: dict[str, tuple[RunStatus, int]] = {
    "completed": ("completed", 0),
    "stopped": ("stopped", 0),
    "skipped": ("stopped", 0),
    "failed": ("failed", 1),
}


@dataclass
class Desk:
    """What the trainer process works with. minimum_free: bytes of disk below which no file is begun. on_saved: called with every recorded
    checkpoint. number: files begun by this process."""

    db: Database
    places: Places
    me: ProcessIdentity
    signals: SignalFlag
    clock: Clock
    minimum_free: int
    on_saved: Callable[[CampaignFolder, Effective, SavedCheckpoint], None] = lambda folder, effective, saved: None
    number: int = 0


def train_one(desk: Desk, engine: TrainerEngine, folder: CampaignFolder, effective: Effective, taken: Taken) -> bool:
    """Train a file that is held; whether the trainer was asked to stop. Raises what the store raises, never for the file's sake."""
    desk.number += 1
    verdict = disk_verdict(folder.path, refuse_below=desk.minimum_free)
    if verdict.verdict == "refuse":
        mark_failed(desk.db, desk.places, taken.job.id, desk.me, verdict.sentence, clock=desk.clock)
        return False
    run = _open_run(desk, folder, effective, taken)
    try:
        jobs.heartbeat(desk.db, taken.job.id, desk.me, run=_below(desk.places, run.path), campaign="/".join(folder.key), clock=desk.clock)
        write_effective(run.path, effective)
        status = _status(desk, folder, effective)
        status.file(taken.path.name, desk.number, get_queue_status(desk.places)["total_queued"])
        write_state(desk.places, "training", current_file=taken.path.name, clock=desk.clock)
        watch = Watch(
            desk.db, desk.places, folder, taken, run, desk.me, desk.signals, status, desk.clock, desk.minimum_free,
            rows=int(taken.job.payload.get("rows") or 0), on_saved=lambda saved: desk.on_saved(folder, effective, saved),
        )  # fmt: skip
        engine.hooks = watch
        result, config = _trained(desk, engine, folder, effective, taken, run, watch)
        _settle(desk, folder, taken, run, watch, result, config)
    except BaseException as error:
        run.finish("failed", 1, f"{type(error).__name__}: {error}")
        raise
    finally:
        run.close()
    return watch.stop_asked or bool(watch.lost)


def _below(places: Places, path: Path) -> str:
    return str(path.relative_to(places.base)) if path.is_relative_to(places.base) else str(path)


def _open_run(desk: Desk, folder: CampaignFolder, effective: Effective, taken: Taken) -> RunDir:
    """The run directory of the job in this campaign: made on the first attempt, gone on with afterwards."""
    path = folder.path / "runs" / f"{taken.job.id:06d}-{taken.path.stem[:80]}"
    if (path / "run.json").is_file():
        return RunDir.open_writer(path, command=sys.argv, clock=desk.clock)
    details = {"job": taken.job.id, "file": taken.path.name, "prompt_date": desk.clock.now().date().isoformat()}
    return RunDir.create(
        path, kind=KIND, command=sys.argv, config=effective.as_dict(), details=details, group="/".join(folder.key), clock=desk.clock
    )


def _trained(
    desk: Desk, engine: TrainerEngine, folder: CampaignFolder, effective: Effective, taken: Taken, run: RunDir, watch: Watch
) -> tuple[TrainingResult, TrainerConfig]:
    """The gates and the engine. What is wrong with the file is a result; what is wrong with campaign or model is raised."""
    named = taken.job.payload.get("schema_id")
    try:
        config = trainer_config(
            desk.places,
            effective.value,
            folder,
            taken,
            run.path,
            prompt_date=str(run.record.details["prompt_date"]),
            schema=named or "chat_sft_v1",
            generator=None,
        )
        with run.heartbeat().keepalive():
            run.heartbeat().beat(status="running", phase="loading", step=0, force=True)
            tokenizer = engine.tokenizer(config)
    except ModelwrightError:
        mark_returned(desk.db, desk.places, taken.job.id, desk.me, clock=desk.clock)  # the campaign is at fault, not the file
        raise
    try:
        gate = check_rows(
            desk.db,
            desk.places,
            taken.path,
            schema=named,
            tokenizer=tokenizer,
            max_length=effective.value.max_length,
            clock=desk.clock,
        )
    except ModelwrightError as error:
        return _refused(str(error), type(error).__name__), config
    if not gate.passed:
        return _refused("\n".join(gate.errors), "InvalidData"), config
    watch.rows = gate.rows
    config = replace(config, data=replace(config.data, schema=gate.schema, generator=gate.generator))
    return engine.run_job(config), config


def _refused(message: str, kind: str) -> TrainingResult:
    return TrainingResult(False, "failed", 0, 0.0, error_message=message, error_type=kind)


def _settle(
    desk: Desk, folder: CampaignFolder, taken: Taken, run: RunDir, watch: Watch, result: TrainingResult, config: TrainerConfig
) -> None:
    """Say what became of the file, in the order in which a kill does least harm: the job, the campaign, the run, the views."""
    db, places, job, me, clock = desk.db, desk.places, taken.job.id, desk.me, desk.clock
    position = watch.position(result.done_steps) if result.total_steps else None
    if watch.lost:
        run.finish("stopped", 1, watch.lost)
        return
    if result.success:
        told = {"global_step": result.global_step, "steps": result.total_steps, "loss": result.final_loss, **result.summary}
        mark_completed(db, places, job, me, told, position=watch.rows, clock=clock)
        note_progress(db, places, folder, result.global_step)
        _event(
            desk, folder, taken, "training.completed", f"{taken.path.name} is trained, up to step {result.global_step}.", "success", told
        )
    elif watch.cancelled:
        mark_cancelled(db, places, job, me, position=position, clock=clock)
    elif result.outcome == "stopped":
        mark_returned(db, places, job, me, position=position, clock=clock)
        _event(desk, folder, taken, "training.stopped", f"{taken.path.name} is stopped and waits again: {watch.reason}.", "info", {})
    elif result.outcome == "skipped":
        mark_skipped(db, places, job, me, reason=watch.reason, position=position, clock=clock)
    elif result.error_type == "InvalidData" or result.error_type in UNFIT:
        mark_rejected(db, places, job, me, result.error_message, clock=clock)
        _event(
            desk, folder, taken, "data.rejected", f"{taken.path.name}: {result.error_message}", "error", {"error_type": result.error_type}
        )
    else:
        mark_failed(db, places, job, me, result.error_message, position=position, clock=clock)
        kind = {"error_type": result.error_type, "step": result.global_step}
        _event(desk, folder, taken, "training.failed", f"{taken.path.name}: {result.error_message}", "error", kind)
    run.metrics().flush()
    with watch.told("data.impact_unknown"):
        close_impact(
            db,
            folder,
            job=job,
            attempt=run.attempt,
            outcome=result.outcome,
            end_step=result.global_step,
            run=run.path,
            val_loss=result.summary.get("validation_loss"),
            clock=clock,
        )
    watch.settle(result.outcome, result.global_step)
    append_run_history(places, taken.path.name, watch.rows, result, config, clock)
    watch.status.settle(
        "crashed" if result.outcome == "failed" else "idle", error=result.error_message or None, error_type=result.error_type or None
    )
    status, code = ENDS[result.outcome]
    run.finish(status, code, result.error_message or watch.reason)
    write_state(places, "idle", reason=watch.reason or None, clock=clock)


def note_progress(db: Database, places: Places, folder: CampaignFolder, step: int) -> None:
    """Write into the campaign's document how far it is: the step, and the rows of all files that the job store knows as trained in it."""
    total = db.row(
        "SELECT coalesce(sum(json_extract(result, '$.rows')), 0) AS rows FROM jobs "
        "WHERE kind = 'train_file' AND state = 'completed' AND campaign = ?",
        ("/".join(folder.key),),
    )
    record_progress(places, folder, current_step=step, total_examples=int(total["rows"] if total else 0))


def _status(desk: Desk, folder: CampaignFolder, effective: Effective) -> TrainingStatus:
    value = effective.value
    name, windows = Path(value.base_model).name, value.batch_size * value.gradient_accumulation
    return TrainingStatus(folder.status / STATUS_NAME, name, value.max_length, windows, clock=desk.clock, every_steps=value.status_every)


def _event(
    desk: Desk, folder: CampaignFolder, taken: Taken, type: str, message: str, severity: events.Severity, data: dict[str, object]
) -> None:
    told = {"file": taken.path.name, "campaign": "/".join(folder.key), **data}
    events.record(desk.db, type, message, source=SOURCE, severity=severity, job=taken.job.id, data=told, clock=desk.clock)
