"""Checkpoints whose trainer died before it had told of them: recorded, and their evaluations queued. (specs/guild.md 2.1.4, 2.1.8)

A save, its record and its evaluations are three writes, and a kill may come between any two. Each can be made up for from the one before,
at any later time and any number of times: that is done when a trainer starts, and when a file turns out to be trained already.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from guild.campaigns.campaign import CampaignFolder
from guild.evaluation.due import KIND
from guild.places import Places
from guild.records import events, ledger
from guild.records.checkpoint_record import CampaignId, CheckpointRecord
from guild.records.orphans import adopt_below
from modelwright.checkpoint_folders import MANIFEST_NAME
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.errors import ModelwrightError

SOURCE = "trainer"
_LOOKED_AT = """
SELECT json_extract(payload, '$.step') AS step FROM jobs WHERE kind = ? AND campaign = ?
UNION SELECT checkpoint_step FROM evaluations WHERE hero_id = ? AND campaign_id = ?
UNION SELECT checkpoint_step FROM passives WHERE hero_id = ? AND campaign_id = ?
"""


def settle_checkpoints(
    db: Database, places: Places, folder: CampaignFolder, evaluate: Callable[[int, str], object], *, clock: Clock
) -> None:
    """Enter what the ledger lacks of a campaign's checkpoints, and call `evaluate(step, folder name)` for each recorded one that nobody was
    ever asked to evaluate. What fails is told as an event; a record beside the training never stops it."""
    campaign = CampaignId(*folder.key)
    try:
        for record in adopt_below(db, places, folder.checkpoints):
            message = f"{record.canonical_name} was saved by a trainer that died before it was recorded; it is in the ledger now."
            _tell(db, "training.checkpoint_adopted", message, campaign, clock)
        for record in never_evaluated(db, campaign, folder.checkpoints):
            evaluate(record.step, record.canonical_name)
    except ModelwrightError as error:
        _tell(db, "training.checkpoints_unsettled", str(error), campaign, clock, severity="error")


def never_evaluated(db: Database, campaign: CampaignId, checkpoints: Path) -> list[CheckpointRecord]:
    """Recorded checkpoints that our trainer saved, that stand, and for which there is no evaluation, stored, asked for or given up; the
    lowest step first."""
    key = (campaign.hero_id, campaign.campaign_id)
    looked_at = {row["step"] for row in db.rows(_LOOKED_AT, (KIND, campaign.key, *key, *key))}
    root = checkpoints.resolve()
    ours = [record for record in ledger.list_all(db, campaign) if record.step not in looked_at and Path(record.path).parent == root]
    return [record for record in reversed(ours) if (Path(record.path) / MANIFEST_NAME).is_file()]


def _tell(db: Database, type: str, message: str, campaign: CampaignId, clock: Clock, *, severity: events.Severity = "warning") -> None:
    events.record(db, type, message, source=SOURCE, severity=severity, data={"campaign": campaign.key}, clock=clock)
