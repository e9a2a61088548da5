"""Every result of an evaluation in the order in which it came: `eval_results_history.json`, for curves over time. (specs/guild.md 2.3.2)

The evaluation ledger shows the one record that counts for each step, skill and level; here repeated ones stand too, without their
problems. An export of `guild.db`, made anew each time.
"""

from __future__ import annotations

from typing import Any

import orjson

from guild.records.checkpoint_record import CampaignId
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database

NAME = "eval_results_history.json"
NEWEST = 1000
"""Results that a document lists; all of them stand in `guild.db`."""
FIELDS = (
    "hero_id", "campaign_id", "checkpoint_step", "checkpoint", "skill", "level", "correct", "total", "accuracy", "interval_low",
    "interval_high", "unanswered", "mean_confidence", "mean_loss", "eval_type", "validation_type", "timestamp",
)  # fmt: skip
"""Of the record, null where it does not have them."""


def history_document(
    db: Database, campaign: CampaignId | None = None, *, newest: int = NEWEST, clock: Clock = SYSTEM_CLOCK
) -> dict[str, Any]:
    """`updated_at, count, total, results` over all campaigns or of one: the newest results, the oldest of them first, with `FIELDS` and
    `counts`, whether it is the one that counts for its key. count: results listed. total: results in the database."""
    where, values = ("1", ()) if campaign is None else ("hero_id = ? AND campaign_id = ?", (campaign.hero_id, campaign.campaign_id))
    rows = db.rows(f"SELECT record, current FROM evaluations WHERE {where} ORDER BY id DESC LIMIT ?", [*values, newest])
    counted = db.row(f"SELECT count(*) AS n FROM evaluations WHERE {where}", values)
    results = [_entry(orjson.loads(row["record"]), bool(row["current"])) for row in reversed(rows)]
    return {
        "updated_at": stamp(clock.now()),
        "count": len(results),
        "total": 0 if counted is None else counted["n"],
        "results": results,
    }


def _entry(record: dict[str, Any], counts: bool) -> dict[str, Any]:
    return {**{name: record.get(name) for name in FIELDS}, "counts": counts}
