"""The checkpoint ledger: every checkpoint with its training metadata, by campaign and step. (specs/guild.md 2.1.8)

A record is written to the checkpoint's sidecar first, which is the truth, then to the index in `guild.db`, then to the exported
documents. A process killed in between leaves a checkpoint that the next `record` beside it, or `rebuild`, brings back.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import apsw

from guild.errors import RefusedError, UnknownNameError
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_marks import SIDECAR_NAME, checkpoint_bytes, checkpoint_folders, has_optimizer, usable_checkpoint
from guild.records.checkpoint_places import campaign_of
from guild.records.checkpoint_record import CampaignId, CheckpointFacts, CheckpointRecord
from guild.records.checkpoint_sidecars import Found, Source, look_at, write_sidecar
from guild.records.ledger_documents import write_ledger_documents
from guild.records.status_documents import records_lock
from guild.skills.names import canonical
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import ModelwrightError, UsageError

METRICS = {"train_loss": True, "val_loss": True, "perplexity": True, "accuracy": False}
"""Metric → whether a lower value is better."""
NO_FACTS = CheckpointFacts()


class UnknownMetricError(UnknownNameError):
    """No metric of that name in the ledger."""

    kind = "metric"


def record(
    db: Database,
    places: Places,
    path: Path,
    *,
    facts: CheckpointFacts = NO_FACTS,
    campaign: CampaignId | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> CheckpointRecord:
    """Record the checkpoint folder `path`, whose save has ended; its step is the one in its name. Recording again replaces the record.

    campaign: of a checkpoint outside every campaign's folder; inside one it follows from the place. Raises RefusedError with every reason
    why the checkpoint is not whole, UsageError when `campaign` contradicts the place, and what writing raises.
    """
    path = path.resolve()
    if reasons := usable_checkpoint(path, finished=True):
        raise RefusedError("\n".join(reasons))
    step = checkpoint_step(path.name)
    named = {} if campaign is None else {"hero_id": campaign.hero_id, "campaign_id": campaign.campaign_id}
    new = CheckpointRecord.model_validate(
        {
            **facts.as_fields(),
            **named,
            "step": step,
            "timestamp": stamp(clock.now()),
            "path": str(path),
            "canonical_name": path.name,
            "size_bytes": checkpoint_bytes(path),
            "has_optimizer": has_optimizer(path),
        }
    )
    owner = campaign_of(places, path, new)
    if campaign is not None and owner != campaign:
        raise UsageError(f"{path}: found the campaign {campaign.key}; allowed: {owner.key}, in whose folder it lies.")
    new = new.model_copy(update={"hero_id": owner.hero_id, "campaign_id": owner.campaign_id})
    with records_lock(places):
        write_sidecar(path, new)
        with db.transaction() as connection:
            put(connection, Found(new, "sidecar"))
        _catch_up(db, places, path.parent)
        write_ledger_documents(db, places, [owner])
    return new


def forget(db: Database, places: Places, paths: Iterable[Path]) -> None:
    """Take checkpoints whose folders were deleted out of the ledger; a folder that still stands is refused (RefusedError)."""
    gone = [path.resolve() for path in paths]
    if standing := [path for path in gone if path.exists()]:
        raise RefusedError("\n".join(f"{path} still stands. Delete it first; the ledger lists what there is." for path in standing))
    with records_lock(places):
        with db.transaction() as connection:
            for path in gone:
                connection.execute("DELETE FROM checkpoints WHERE path = ?", (str(path),))
        write_ledger_documents(db, places)


def get(db: Database, step: int, campaign: CampaignId | None = None) -> CheckpointRecord | None:
    """The record of a step; None when there is none. Raises UsageError when several campaigns have that step and none is named."""
    found = _records(db, campaign, "step = ?", [step])
    if len(found) > 1:
        keys = ", ".join(record.campaign.key for record in found)
        raise UsageError(f"step {step}: found in the campaigns {keys}; allowed: one of them. Name the campaign.")
    return found[0] if found else None


def get_latest(db: Database, campaign: CampaignId | None = None) -> CheckpointRecord | None:
    """The record of the highest step, as a number."""
    found = list_all(db, campaign, limit=1)
    return found[0] if found else None


def get_best(
    db: Database, metric: str = "val_loss", lower_is_better: bool | None = None, campaign: CampaignId | None = None
) -> CheckpointRecord | None:
    """The record with the best value of `metric` (`METRICS`), of equal ones the later step; None when no record has a value.

    lower_is_better: by default as `METRICS` says. Raises UnknownMetricError.
    """
    if metric not in METRICS:
        raise UnknownMetricError(metric, METRICS)
    down = METRICS[metric] if lower_is_better is None else lower_is_better
    found = _records(db, campaign, f"{metric} IS NOT NULL", [], order=f"{metric} {'ASC' if down else 'DESC'}, step DESC", limit=1)
    return found[0] if found else None


def list_all(db: Database, campaign: CampaignId | None = None, limit: int | None = None) -> list[CheckpointRecord]:
    """Every record, the highest step first."""
    return _records(db, campaign, "1", [], limit=limit)


def list_by_skill(db: Database, skill: str, campaign: CampaignId | None = None, limit: int | None = None) -> list[CheckpointRecord]:
    """The records of checkpoints trained on a skill, named by its id or an alias, the highest step first."""
    return _records(db, campaign, "skill = ?", [canonical(skill)], limit=limit)


def put(connection: apsw.Connection, found: Found) -> bool:
    """Index a checkpoint inside a transaction; False when another folder with the same step outranks it and still stands."""
    record = found.record
    where = (record.hero_id, record.campaign_id, record.step)
    query = "SELECT record, source, path FROM checkpoints WHERE hero_id = ? AND campaign_id = ? AND step = ?"
    for text, source, path in [[str(value) for value in row] for row in connection.execute(query, where)]:
        there = Found(CheckpointRecord.model_validate_json(text), cast(Source, source))
        if path != record.path and there.rank > found.rank and Path(path).is_dir():
            return False
    values = (*where, record.path, found.source, canonical(record.skill_name) if record.skill_name else None)
    metrics = (record.train_loss, record.val_loss, record.accuracy, record.perplexity, record.size_bytes, record.model_dump_json())
    connection.execute(
        "INSERT OR REPLACE INTO checkpoints (hero_id, campaign_id, step, path, source, skill, train_loss, val_loss, accuracy, perplexity, "
        "size_bytes, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        values + metrics,
    )
    return True


def _catch_up(db: Database, places: Places, folder: Path) -> None:
    """Index the neighbours that have a sidecar and no row: their writer was killed in between."""
    listed = {row["path"] for row in db.rows("SELECT path FROM checkpoints")}
    for path in checkpoint_folders(folder):
        if str(path) in listed or not (path / SIDECAR_NAME).exists() or usable_checkpoint(path):
            continue
        try:
            found = look_at(places, path, {})
        except ModelwrightError:
            continue  # a damaged sidecar is named by `scan_orphans`; it must not keep a sound checkpoint from being recorded
        with db.transaction() as connection:
            put(connection, found)


def _records(
    db: Database,
    campaign: CampaignId | None,
    condition: str,
    values: list[object],
    *,
    order: str = "step DESC, hero_id, campaign_id",
    limit: int | None = None,
) -> list[CheckpointRecord]:
    if campaign is not None:
        condition += " AND hero_id = ? AND campaign_id = ?"
        values = [*values, campaign.hero_id, campaign.campaign_id]
    query = f"SELECT record FROM checkpoints WHERE {condition} ORDER BY {order} LIMIT ?"
    rows = db.rows(query, [*values, -1 if limit is None else limit])
    return [CheckpointRecord.model_validate_json(row["record"]) for row in rows]
