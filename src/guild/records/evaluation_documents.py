"""The evaluations as files: `status/evaluation_ledger.json`, `.evals.json` in the folder of each checkpoint, and the history. (4.7)"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from guild.places import Places
from guild.records.checkpoint_marks import EVALUATIONS_NAME
from guild.records.checkpoint_places import campaign_folders
from guild.records.checkpoint_record import CampaignId
from guild.records.evaluation_history import NAME as HISTORY_NAME
from guild.records.evaluation_history import history_document
from guild.records.status_documents import export, records_lock
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import MissingFileError

VERSION = "1.0.0"
NAME = "evaluation_ledger.json"
WITH_PROBLEMS = 100
"""How many of the newest evaluations carry their problems in the common document; the others' stand in `.evals.json`."""


def evaluation_document(
    db: Database, campaign: CampaignId | None = None, *, with_problems: int = WITH_PROBLEMS, clock: Clock = SYSTEM_CLOCK
) -> dict[str, Any]:
    """`version, updated_at, count, evaluations` over all campaigns or of one, in the order in which they were recorded.

    Of all but the newest `with_problems` the problems are left out, and `problems_left_out` says so.
    """
    where, values = ("", ()) if campaign is None else ("AND hero_id = ? AND campaign_id = ?", (campaign.hero_id, campaign.campaign_id))
    rows = db.rows(f"SELECT id, record, problems <> '[]' AS has_problems FROM evaluations WHERE current = 1 {where} ORDER BY id", values)
    late = db.rows(f"SELECT id, problems FROM evaluations WHERE current = 1 {where} ORDER BY id DESC LIMIT ?", [*values, with_problems])
    newest = {row["id"]: row["problems"] for row in late}
    records = []
    for row in rows:
        record = orjson.loads(row["record"])
        kept = newest.get(row["id"])
        records.append({**record, "problems": orjson.loads(kept) if kept else []})
        if kept is None and row["has_problems"]:
            records[-1]["problems_left_out"] = True
    return {"version": VERSION, "updated_at": stamp(clock.now()), "count": len(records), "evaluations": records}


def checkpoint_document(db: Database, campaign: CampaignId, step: int, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """All that counts of one checkpoint: `version, hero_id, campaign_id, checkpoint_step, updated_at, evaluations`."""
    rows = db.rows(
        "SELECT record, problems FROM evaluations WHERE hero_id = ? AND campaign_id = ? AND checkpoint_step = ? AND current = 1 "
        "ORDER BY skill, level",
        (campaign.hero_id, campaign.campaign_id, step),
    )
    return {
        "version": VERSION,
        "hero_id": campaign.hero_id,
        "campaign_id": campaign.campaign_id,
        "checkpoint_step": step,
        "updated_at": stamp(clock.now()),
        "evaluations": [{**orjson.loads(row["record"]), "problems": orjson.loads(row["problems"])} for row in rows],
    }


def export_evaluations(db: Database, places: Places) -> None:
    """Write the documents of all checkpoints and campaigns that have evaluations now."""
    rows = db.rows("SELECT DISTINCT hero_id, campaign_id, checkpoint_step FROM evaluations WHERE current = 1")
    steps = [(CampaignId(row["hero_id"], row["campaign_id"]), row["checkpoint_step"]) for row in rows]
    with records_lock(places):
        write_evaluation_documents(db, places, steps)


def write_evaluation_documents(db: Database, places: Places, steps: Iterable[tuple[CampaignId, int]]) -> None:
    """Write the common documents, and those of the campaigns and checkpoints in `steps`. The caller holds `records_lock`.

    A checkpoint that is listed nowhere any more has no folder to write into.
    """
    export(places.status / NAME, evaluation_document(db))
    export(places.status / HISTORY_NAME, history_document(db))
    folders = campaign_folders(places)
    changed = list(steps)
    for campaign in sorted({campaign for campaign, _ in changed}):
        if campaign in folders:
            export(folders[campaign] / "status" / NAME, evaluation_document(db, campaign))
            export(folders[campaign] / "status" / HISTORY_NAME, history_document(db, campaign))
    for campaign, step in changed:
        row = db.row(
            "SELECT path FROM checkpoints WHERE hero_id = ? AND campaign_id = ? AND step = ?",
            (campaign.hero_id, campaign.campaign_id, step),
        )
        if row is not None:
            with contextlib.suppress(MissingFileError):  # deleted by retention meanwhile; never made anew by its evaluations
                export(Path(row["path"]) / EVALUATIONS_NAME, checkpoint_document(db, campaign, step), make_parent=False)
