"""One file of the queue from taken to done: gates, run directory, engine, and what became of it. (specs/guild.md 2.1.1, 2.1.4)"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from guild.analytics.impact import close_impact
from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.config_file import installation_config
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
from guild.trainer.batch_advice import batch_advice
from guild.trainer.device_turns import evaluation_at_work
from guild.trainer.gates import check_rows
from guild.trainer.history import append_run_history, lines_like
from guild.trainer.settings import start_point, trainer_config
from guild.trainer.settling import settle_checkpoints
from guild.trainer.watch import SOURCE, Watch
from guild.training.engine import TrainerEngine
from guild.training.interface import LeaveError, TrainerConfig, TrainingResult
from guild.training.status import STATUS_NAME, ShownStatus, TrainingStatus
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
Next = Literal["next file", "stop", "leave"]
"""What a trainer does after a file. stop: it was asked to, and the daemon stops with it. leave: it alone goes, because the watchdog wants
it gone or the file was taken from it."""
ENDS: dict[str, tuple[RunStatus, int]] = {
    "completed": ("completed", 0),
    "stopped": ("stopped", 0),
    "skipped": ("stopped", 0),
    "failed": ("failed", 1),
}
SHOWN: dict[str, ShownStatus] = {"completed": "completed", "failed": "crashed"}
"""Outcome → the word for it in `training_status.json`; it is idle after any other."""


@dataclass
class Desk:
    """What the trainer process works with. minimum_free: bytes of disk below which no file is begun. on_saved: called with step and folder
    name of every recorded checkpoint. told: sentences that are said once. number: files begun by this process. one_gpu: the evaluator uses
    the trainer's GPU too."""

    db: Database
    places: Places
    me: ProcessIdentity
    signals: SignalFlag
    clock: Clock
    minimum_free: int
    on_saved: Callable[[CampaignFolder, Effective, int, str], None] = lambda folder, effective, step, name: None
    told: set[str] = field(default_factory=set)
    number: int = 0
    one_gpu: bool = False


def train_one(desk: Desk, engine: TrainerEngine, folder: CampaignFolder, effective: Effective, taken: Taken) -> Next:
    """Train a file that is held; how the trainer goes on. Raises what the store raises, never for the file's sake."""
    desk.number += 1
    verdict = disk_verdict(folder.path, refuse_below=desk.minimum_free)
    if verdict.verdict == "refuse":
        mark_returned(desk.db, desk.places, taken.job.id, desk.me, clock=desk.clock)  # no fault of the file
        print(verdict.sentence, file=sys.stderr, flush=True)
        return "leave"
    run = _open_run(desk, folder, effective, taken)
    try:
        jobs.heartbeat(desk.db, taken.job.id, desk.me, run=_below(desk.places, run.path), campaign="/".join(folder.key), clock=desk.clock)
        write_effective(run.path, effective)
        status = _status(desk, folder, effective)
        status.file(taken.path.name, desk.number, get_queue_status(desk.places)["total_queued"])
        write_state(desk.places, "training", current_file=taken.path.name, clock=desk.clock)
        watch = Watch(
            desk.db, desk.places, folder, taken, run, desk.me, desk.signals, status, desk.clock, desk.minimum_free,
            rows=int(taken.job.payload.get("rows") or 0),
            on_saved=lambda saved: desk.on_saved(folder, effective, saved.step, saved.path.name),
        )  # fmt: skip
        engine.hooks = watch
        result, config = _trained(desk, engine, folder, effective, taken, run, watch)
        if result.success and not watch.total:  # trained by a trainer that died before it could say so
            settle(desk, folder, effective)
        if desk.one_gpu:
            engine.forget()  # before the file is let go of: from then on the evaluator may begin
        _settle(desk, folder, taken, run, watch, result, config)
    except BaseException as error:
        run.finish("failed", 1, f"{type(error).__name__}: {error}")
        raise
    finally:
        run.close()
    if watch.stop_asked:
        return "stop"
    return "leave" if watch.lost or watch.dismissed else "next file"


def settle(desk: Desk, folder: CampaignFolder, effective: Effective) -> None:
    """Make up for what a trainer that died left undone behind a save."""
    settle_checkpoints(desk.db, desk.places, folder, lambda step, name: desk.on_saved(folder, effective, step, name), clock=desk.clock)


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
        rules = installation_config(desk.places).validation
        start = start_point(folder, effective.value)
        for sentence in start.passed_over:
            _once(desk, folder, taken, "training.checkpoint_passed_over", sentence, "warning")
        config = trainer_config(
            desk.places,
            effective.value,
            folder,
            taken,
            run.path,
            prompt_date=str(run.record.details["prompt_date"]),
            schema=named or "chat_sft_v1",
            generator=None,
            start=start,
            former_per_step=_former_per_step(run),
        )
        config = replace(config, model=replace(config.model, start_step=folder.campaign.current_step))
        run.heartbeat().beat(status="running", phase="loading", step=0, force=True)
        if desk.one_gpu:
            watch.wait_while(lambda: evaluation_at_work(desk.db), "an evaluation has the GPU")
        with watch.during("loading"):
            tokenizer = engine.tokenizer(config)
    except LeaveError as left:
        return _left(left), config
    except ModelwrightError:
        mark_returned(desk.db, desk.places, taken.job.id, desk.me, clock=desk.clock)  # the campaign is at fault, not the file
        raise
    try:
        with watch.during("loading"):
            gate = check_rows(
                desk.db,
                desk.places,
                taken.path,
                payload=taken.job.payload,
                base_model=effective.value.base_model,
                rules=rules,
                tokenizer=tokenizer,
                max_length=effective.value.max_length,
                clock=desk.clock,
            )
    except LeaveError as left:
        return _left(left), config
    except ModelwrightError as error:
        return _refused(str(error), type(error).__name__), config
    if not gate.passed:
        return _refused("\n".join(gate.errors), "InvalidData"), config
    watch.rows = gate.rows
    config = replace(config, data=replace(config.data, schema=gate.schema, generator=gate.generator))
    return engine.run_job(config), config


def _refused(message: str, kind: str) -> TrainingResult:
    return TrainingResult(False, "failed", 0, 0.0, error_message=message, error_type=kind)


def _left(left: LeaveError) -> TrainingResult:
    return TrainingResult(False, left.outcome, 0, 0.0)


def _settle(
    desk: Desk, folder: CampaignFolder, taken: Taken, run: RunDir, watch: Watch, result: TrainingResult, config: TrainerConfig
) -> None:
    """Say what became of the file, in the order in which a kill does least harm: the job, the campaign, the run, the views."""
    db, places, job, me, clock = desk.db, desk.places, taken.job.id, desk.me, desk.clock
    position = watch.position(result.share) if result.total_steps else None
    if result.outcome == "stopped" and watch.skip_asked and not watch.stop_asked:
        result = replace(result, outcome="skipped")  # asked for while a full disk was waited for
    if watch.lost:
        watch.settle("lost", result.global_step)
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
    _advise(desk, folder, taken, append_run_history(places, taken.path.name, watch.rows, result, config, clock))
    watch.status.settle(SHOWN.get(result.outcome, "idle"), error=result.error_message or None, error_type=result.error_type or None)
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


def _former_per_step(run: RunDir) -> int | None:
    """Windows of an optimizer step when the file's run was begun; None when its record does not say."""
    config = run.record.config or {}
    batch, accumulation = config.get("batch_size"), config.get("gradient_accumulation")
    return batch * accumulation if isinstance(batch, int) and isinstance(accumulation, int) else None


def _advise(desk: Desk, folder: CampaignFolder, taken: Taken, line: dict[str, Any]) -> None:
    """Say, once, which micro-batch would use the GPU better."""
    if line["gpu_peak_alloc_gb"] is None:
        return
    advice = batch_advice(lines_like(desk.places, line), line["batch_size"], line["gradient_accumulation"])
    if advice is not None:
        _once(desk, folder, taken, "training.batch_advice", advice.sentence, "info")


def _once(desk: Desk, folder: CampaignFolder, taken: Taken, type: str, message: str, severity: events.Severity) -> None:
    if message not in desk.told:
        desk.told.add(message)
        _event(desk, folder, taken, type, message, severity, {})


def _event(
    desk: Desk, folder: CampaignFolder, taken: Taken, type: str, message: str, severity: events.Severity, data: dict[str, object]
) -> None:
    told = {"file": taken.path.name, "campaign": "/".join(folder.key), **data}
    events.record(desk.db, type, message, source=SOURCE, severity=severity, job=taken.job.id, data=told, clock=desk.clock)
