"""Passives: small checks of general abilities at every checkpoint, by which forgetting and transfer show. (specs/guild.md 2.1.9, 4.7)

One record counts per campaign and key `step:id:mode:version`; `guild.db` is the truth, `status/passives_ledger.json` is written from it.
"""

from __future__ import annotations

import json
from typing import Any

from guild.places import Places
from guild.records.checkpoint_places import campaign_folders
from guild.records.checkpoint_record import CampaignId
from guild.records.evaluation_records import Passive, PassiveMode
from guild.records.standing import load, store
from guild.records.status_documents import export, records_lock
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database

VERSION = "1.0.0"
NAME = "passives_ledger.json"


def record_passive(db: Database, places: Places, passive: Passive) -> bool:
    """Store a passive, durably, then write the exports; returns whether it counts (see `standing.store`)."""
    counts = store_passive(db, passive)
    with records_lock(places):
        write_passive_documents(db, places)
    return counts


def store_passive(db: Database, passive: Passive) -> bool:
    """The same without the exports."""
    key = {
        "hero_id": passive.hero_id,
        "campaign_id": passive.campaign_id,
        "checkpoint_step": passive.checkpoint_step,
        "passive_id": passive.passive_id,
        "mode": passive.mode,
        "version": passive.version,
    }
    with db.transaction() as connection:
        return store(connection, "passives", key, passive)


def passives_of(
    db: Database,
    campaign: CampaignId | None = None,
    *,
    step: int | None = None,
    passive_id: str | None = None,
    mode: PassiveMode | None = None,
) -> list[Passive]:
    """The passives that count, by step, id and mode, as far as the arguments choose."""
    wanted: dict[str, object | None] = {
        "hero_id": campaign.hero_id if campaign else None,
        "campaign_id": campaign.campaign_id if campaign else None,
        "checkpoint_step": step,
        "passive_id": passive_id,
        "mode": mode,
    }
    asked = {column: value for column, value in wanted.items() if value is not None}
    condition = "".join(f" AND {column} = ?" for column in asked)
    rows = db.rows(
        f"SELECT record, problems FROM passives WHERE current = 1{condition} "
        "ORDER BY hero_id, campaign_id, checkpoint_step, passive_id, mode, version",
        list(asked.values()),
    )
    return [load(row, Passive) for row in rows]


def has_passive(db: Database, campaign: CampaignId, step: int, passive_id: str, mode: PassiveMode, version: str) -> bool:
    """Whether that passive is recorded; another version of its module is another passive."""
    return any(found.version == version for found in passives_of(db, campaign, step=step, passive_id=passive_id, mode=mode))


def passives_document(db: Database, campaign: CampaignId | None = None, *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """`version, updated_at, count` and, for one campaign, `passives` keyed `step:id:mode:version`; over all, `campaigns` keyed
    `<hero>/<campaign>`, each such an object, for two campaigns have the same steps."""
    grouped: dict[str, dict[str, Any]] = {}
    found = passives_of(db, campaign)
    for passive in found:
        grouped.setdefault(passive.campaign.key, {})[passive.key] = json.loads(passive.model_dump_json())
    head = {"version": VERSION, "updated_at": stamp(clock.now()), "count": len(found)}
    return {**head, "campaigns": grouped} if campaign is None else {**head, "passives": grouped.get(campaign.key, {})}


def export_passives(db: Database, places: Places) -> None:
    """Write the documents now."""
    with records_lock(places):
        write_passive_documents(db, places)


def write_passive_documents(db: Database, places: Places) -> None:
    """Write the common document and that of each campaign that has passives and a folder. The caller holds `records_lock`."""
    export(places.status / NAME, passives_document(db))
    folders = campaign_folders(places)
    for row in db.rows("SELECT DISTINCT hero_id, campaign_id FROM passives WHERE current = 1"):
        campaign = CampaignId(row["hero_id"], row["campaign_id"])
        if campaign in folders:
            export(folders[campaign] / "status" / NAME, passives_document(db, campaign))
