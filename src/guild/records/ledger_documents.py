"""`status/checkpoint_ledger.json`: the ledger for everyone who reads files, and the same for each campaign in its own folder. (4.5)"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guild.places import Places
from guild.records.checkpoint_places import campaign_folders
from guild.records.checkpoint_record import LEDGER_VERSION, CampaignId
from guild.records.status_documents import export, records_lock
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database

NAME = "checkpoint_ledger.json"


def ledger_document(db: Database, campaign: CampaignId | None = None, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """The document over all campaigns or of one: `version, updated_at, checkpoint_count, checkpoints`, an object keyed
    `<hero>/<campaign>/<step>` in the order of campaigns and steps."""
    where, values = ("", ()) if campaign is None else ("WHERE hero_id = ? AND campaign_id = ?", (campaign.hero_id, campaign.campaign_id))
    rows = db.rows(f"SELECT hero_id, campaign_id, step, record FROM checkpoints {where} ORDER BY hero_id, campaign_id, step", values)
    records = {f"{CampaignId(row['hero_id'], row['campaign_id']).key}/{row['step']}": json.loads(row["record"]) for row in rows}
    return {"version": LEDGER_VERSION, "updated_at": stamp(clock.now()), "checkpoint_count": len(records), "checkpoints": records}


def export_ledger(db: Database, places: Places) -> None:
    """Write the documents of all campaigns now."""
    with records_lock(places):
        write_ledger_documents(db, places)


def write_ledger_documents(db: Database, places: Places, campaigns: Iterable[CampaignId] | None = None) -> None:
    """Write the common document, and that of each of `campaigns` (default: all) that has a folder. The caller holds `records_lock`."""
    export(places.status / NAME, ledger_document(db))
    folders = campaign_folders(places)
    for campaign in folders if campaigns is None else campaigns:
        if campaign in folders:
            export(folders[campaign] / "status" / NAME, ledger_document(db, campaign))
