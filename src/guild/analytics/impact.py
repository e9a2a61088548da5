"""Data-file impact: one record for each attempt at a training file, with loss and accuracy before and after it. (specs/guild.md 2.9)

    opened = open_impact(db, folder, job=…, file=…, owner=me, …)     the trainer, before the first step
    record = close_impact(db, folder, job=…, outcome="completed", …)  the trainer, when the file came to rest

What is open stands in `status/open_impacts/<job>.json`; what is closed is a line of `status/data_file_impact.jsonl`. The line is written
first and the open document removed second, and a line that is already there is not written again: whatever is killed in between, every
attempt ends as exactly one line. One that a dead worker left open is closed by the next `open_impact` of the campaign, or by
`settle_abandoned`: as `completed` when its job is, else as `died`, with the steps that were saved. Attempts of one file are joined by
`impact_summary`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.analytics.documents import plain
from guild.analytics.impact_score import Measurement, delta, impact_score
from guild.analytics.losses import first_and_last
from guild.analytics.sources import accuracy_at, campaign_id
from guild.campaigns.campaign import CampaignFolder
from guild.records import jobs, ledger
from guild.records.checkpoint_record import CheckpointRecord
from guild.records.job_errors import UnknownJobError
from guild.skills.names import canonical
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import DamagedFileError, MissingFileError, storage_error
from modelwright.files import JsonlAppender, fsync_directory, make_folder, read_json, read_jsonl, write_json
from modelwright.identity import ProcessIdentity, liveness
from modelwright.lock import WriterLock

RECORDS = "data_file_impact.jsonl"
OPEN_FOLDER = "open_impacts"
PATIENCE_S = 30.0
TAIL_BYTES = 256 * 1024
"""Where a line of an attempt that is being closed can stand already: nothing is appended before what is abandoned is settled."""


@dataclass(frozen=True)
class Attempt:
    """An attempt that is open. The fields are those of its document; before: what was measured before its first step."""

    path: Path
    content: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.content["impact_id"])

    @property
    def before(self) -> Measurement:
        return Measurement(accuracy=self.content.get("accuracy_before"), val_loss=self.content.get("val_loss_before"))


def open_impact(
    db: Database,
    folder: CampaignFolder,
    *,
    job: int,
    file: str,
    owner: ProcessIdentity,
    attempt: int,
    start_step: int,
    steps_left: int,
    total_steps: int,
    rows: int | None = None,
    val_loss: float | None = None,
    skill: str | None = None,
    level: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> str:
    """Begin the record of an attempt at a file; returns its id. Whatever else stands open in the campaign is settled first.

    job: its id. owner: the trainer. attempt: of the run directory. start_step: of the campaign. steps_left, total_steps: of the file.
    rows: of the file. val_loss: on the file's held-out rows before the first step. The accuracy before is that of the newest evaluation
    of the skill at the level up to `start_step`. Opening the same attempt again changes nothing. Raises StorageError.
    """
    key = f"{'/'.join(folder.key)}:{job}:{attempt}"
    with _lock(folder):
        for left in _open(folder):
            if left.id == key:
                return key
            _settle(db, folder, left, clock, next_start=start_step)
        known = accuracy_at(db, campaign_id(folder), skill, level, up_to=start_step)
        write_json(
            _path(folder, job),
            plain({
                "schema_version": 1, "impact_id": key, "job": job, "attempt": attempt, "filename": file, "owner": owner.as_dict(),
                "skill": canonical(skill) if skill else None, "level": level, "start_step": start_step, "steps_left": steps_left,
                "total_steps": total_steps, "rows": rows, "val_loss_before": val_loss,
                "accuracy_before": None if known is None else known.accuracy,
                "accuracy_before_step": None if known is None else known.checkpoint_step, "start_timestamp": stamp(clock.now()),
            }),
        )  # fmt: skip
    return key


def close_impact(
    db: Database,
    folder: CampaignFolder,
    *,
    job: int,
    attempt: int,
    outcome: str,
    end_step: int,
    run: Path | None = None,
    val_loss: float | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> dict[str, Any] | None:
    """End the record of the attempt that is open for `job`, and return it; None when none is, as after a refusal at the gates.

    An attempt that finds its file whole in the weights already, because an earlier one died before it could say so, completes that one.

    outcome: `completed`, `stopped`, `skipped` or `failed`. end_step: of the campaign; of a failure the last saved step counts, for what
    came after is lost. run: the run directory, whose `train/loss` gives the loss at both ends. val_loss: on the held-out rows at the
    end; without one, that of the checkpoint saved there. Accuracies that are measured later are added by `impact_summary`. Raises
    StorageError.
    """
    with _lock(folder):
        found = next((left for left in _open(folder) if left.content["job"] == job), None)
        if found is None:
            return None
        if found.content["attempt"] != attempt and outcome != "completed":
            return _settle(db, folder, found, clock, next_start=None)  # a dead one; this attempt came to rest before its first step
        start = int(found.content["start_step"])
        end = _kept(db, folder, start) if outcome == "failed" else max(end_step, start)
        saved = ledger.get(db, end, campaign_id(folder))
        if val_loss is None and end > start:
            val_loss = _saved_val_loss(saved, found)
        return _close(db, folder, found, outcome, end, val_loss, clock, run=run)


def settle_abandoned(db: Database, folder: CampaignFolder, *, clock: Clock = SYSTEM_CLOCK) -> list[dict[str, Any]]:
    """Close what dead workers left open; the records that were made. What a living process has open stays."""
    with _lock(folder):
        return [
            record for left in _open(folder) if not _at_work(left) and (record := _settle(db, folder, left, clock, next_start=None))
        ]  # fmt: skip


def open_attempts(folder: CampaignFolder) -> list[dict[str, Any]]:
    """What stands open, the oldest job first, each with `abandoned`: its worker is dead. Raises DamagedFileError for a damaged document."""
    found = [Attempt(path, read_json(path)) for path in _documents(folder)]
    return [{**left.content, "abandoned": not _at_work(left)} for left in found]


def read_records(folder: CampaignFolder) -> tuple[list[dict[str, Any]], list[str]]:
    """Every record in order, and one sentence for each damaged line."""
    read = read_jsonl(folder.status / RECORDS, missing_ok=True)
    return read.records, list(read.damage)


# --- inner


def _settle(db: Database, folder: CampaignFolder, left: Attempt, clock: Clock, *, next_start: int | None) -> dict[str, Any] | None:
    """Close an attempt whose worker did not. next_start: the step at which training goes on, so far its steps were kept."""
    start = int(left.content["start_step"])
    end = max(start, next_start) if next_start is not None else _kept(db, folder, start)
    end = min(end, start + int(left.content["steps_left"]))
    done = _job_completed(db, left) or end == start + int(left.content["steps_left"])  # every step is in the weights that were saved
    saved = ledger.get(db, end, campaign_id(folder))
    return _close(db, folder, left, "completed" if done else "died", end, _saved_val_loss(saved, left) if done else None, clock)


def _close(
    db: Database, folder: CampaignFolder, left: Attempt, outcome: str, end: int, val_loss: float | None, clock: Clock,
    *, run: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Append the record unless it is there, then remove the open document."""
    record = next((line for line in _tail(folder) if line.get("impact_id") == left.id), None)
    if record is None:
        record = _record(db, folder, left, outcome, end, val_loss, clock, run)
        with JsonlAppender(folder.status / RECORDS, fsync_every_s=0) as lines:
            lines.append(record)
    with suppress(FileNotFoundError):
        left.path.unlink()
        fsync_directory(left.path.parent)
    return record


def _record(
    db: Database, folder: CampaignFolder, left: Attempt, outcome: str, end: int, val_loss: float | None, clock: Clock, run: Path | None
) -> dict[str, Any]:
    told, start = left.content, int(left.content["start_step"])
    steps, total = end - start, int(told["total_steps"])
    first, last = first_and_last(run or _run_folder(folder, left), start, end)
    reached = accuracy_at(db, campaign_id(folder), told.get("skill"), told.get("level"), up_to=end, since=end) if steps else None
    before = Measurement(first, left.before.accuracy, left.before.val_loss)
    after = Measurement(last, None if reached is None else reached.accuracy, val_loss)
    score = impact_score(before, after)
    rows = told.get("rows")
    owner = campaign_id(folder)
    record = {
        "schema_version": 1, "impact_id": left.id, "job": told["job"], "attempt": told["attempt"], "hero_id": owner.hero_id,
        "campaign_id": owner.campaign_id, "filename": told["filename"], "skill": told.get("skill"), "level": told.get("level"),
        "start_step": start, "end_step": end, "steps_trained": steps, "total_steps": total,
        "outcome": outcome, "complete": outcome == "completed",
        "loss_before": before.loss, "loss_after": after.loss, "loss_delta": delta(before.loss, after.loss),
        "accuracy_before": before.accuracy, "accuracy_after": after.accuracy,
        "accuracy_delta": delta(before.accuracy, after.accuracy), "accuracy_before_step": told.get("accuracy_before_step"),
        "val_loss_before": before.val_loss, "val_loss_after": after.val_loss,
        "val_loss_delta": delta(before.val_loss, after.val_loss),
        "impact_score": score.value, "score_terms": list(score.terms), "classification": score.classification,
        "examples_count": None if rows is None or not total else round(rows * steps / total),
        "start_timestamp": told["start_timestamp"], "end_timestamp": stamp(clock.now()),
    }  # fmt: skip
    return dict(plain(record))


def _kept(db: Database, folder: CampaignFolder, start: int) -> int:
    """The newest recorded step of the campaign, at least `start`."""
    newest = ledger.get_latest(db, campaign_id(folder))
    return start if newest is None else max(start, newest.step)


def _saved_val_loss(saved: CheckpointRecord | None, left: Attempt) -> float | None:
    """The validation loss of a checkpoint, if it was measured on this file's held-out rows."""
    return saved.val_loss if saved is not None and saved.training_file == left.content["filename"] else None


def _job_completed(db: Database, left: Attempt) -> bool:
    try:
        return jobs.get(db, int(left.content["job"])).state == "completed"
    except UnknownJobError:
        return False


def _run_folder(folder: CampaignFolder, left: Attempt) -> Path | None:
    """The run directory of the attempt's job."""
    return next(iter(sorted(folder.path.glob(f"runs/{int(left.content['job']):06d}-*"))), None)


def _at_work(left: Attempt) -> bool:
    return liveness(ProcessIdentity.from_dict(left.content["owner"])) != "dead"


def _open(folder: CampaignFolder) -> list[Attempt]:
    """What stands open. A damaged document is left where it is and hinders nobody's training; `open_attempts` names it."""
    found = []
    for path in _documents(folder):
        with suppress(DamagedFileError, MissingFileError):
            found.append(Attempt(path, read_json(path)))
    return found


def _documents(folder: CampaignFolder) -> list[Path]:
    return sorted((folder.status / OPEN_FOLDER).glob("[0-9]*.json"))


def _path(folder: CampaignFolder, job: int) -> Path:
    return folder.status / OPEN_FOLDER / f"{job:06d}.json"


def _tail(folder: CampaignFolder) -> list[dict[str, Any]]:
    """The last records; a line that is cut at the front is passed over."""
    path = folder.status / RECORDS
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, path, "read") from error
    return read_jsonl(path, offset=max(0, size - TAIL_BYTES)).records


@contextmanager
def _lock(folder: CampaignFolder) -> Iterator[None]:
    lock = WriterLock(make_folder(folder.status / OPEN_FOLDER), command=("guild", "impact"), patience_s=PATIENCE_S)
    try:
        yield
    finally:
        lock.release()
