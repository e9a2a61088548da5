"""What waits to be evaluated, what is under way, what failed, and the newest results. (specs/guild.md 2.1.9)"""

from __future__ import annotations

from typing import Any

from guild.evaluation.due import KIND
from guild.records import jobs
from guild.records.checkpoint_record import CampaignId
from guild.records.evaluations import evaluation_counts
from guild.records.jobs import Job
from modelwright.database import Database

SHOWN = 20
RESULTS = 10


def overview(db: Database, campaign: CampaignId | None = None) -> dict[str, Any]:
    """`waiting`, `running`, `failed` (counts, the first jobs of each), `results` (the newest first) and `evaluated` (per skill and level).

    campaign: only its own; all when None.
    """
    key = None if campaign is None else campaign.key
    told: dict[str, Any] = {}
    for word, states in (("waiting", ("queued",)), ("running", ("running", "paused")), ("failed", ("failed", "rejected"))):
        found = jobs.list_jobs(db, kinds=(KIND,), states=states, campaign=key, limit=10_000).jobs  # type: ignore[arg-type]
        told[word] = {"count": len(found), "jobs": [_entry(job) for job in found[:SHOWN]]}
    where, values = ("", ()) if campaign is None else ("AND hero_id = ? AND campaign_id = ?", (campaign.hero_id, campaign.campaign_id))
    rows = db.rows(
        "SELECT hero_id, campaign_id, checkpoint_step, skill, level, correct, total, json_extract(record, '$.timestamp') AS timestamp "
        f"FROM evaluations WHERE current = 1 {where} ORDER BY id DESC LIMIT ?",
        [*values, RESULTS],
    )
    told["results"] = [dict(row) for row in rows]
    told["evaluated"] = [vars(one) for one in evaluation_counts(db, campaign)]
    return told


def overview_lines(told: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [f"Evaluations: {told['waiting']['count']} wait, {told['running']['count']} run, {told['failed']['count']} failed."]
    for word in ("running", "waiting", "failed"):
        for one in told[word]["jobs"]:
            level = f" level {one['level']}" if one["level"] is not None else ""
            why = f": {one['error']}" if one["error"] else ""
            lines.append(
                f"  {word:<8} {one['campaign']} step {one['step']} {one['subject']}{level} ({one['type']}), priority {one['priority']}{why}"
            )
    for one in told["results"]:
        share = one["correct"] / one["total"]
        lines.append(
            f"  result   step {one['checkpoint_step']} {one['skill']} level {one['level']}: {one['correct']}/{one['total']} ({share:.0%})"
        )
    return lines


def _entry(job: Job) -> dict[str, Any]:
    payload = job.payload
    return {
        "job": job.id,
        "campaign": payload.get("campaign"),
        "step": payload["step"],
        "subject": payload.get("skill") or payload.get("passive"),
        "level": payload.get("level"),
        "type": payload.get("mode") or payload["suite"],
        "priority": job.priority,
        "state": job.state,
        "attempts": job.attempts,
        "queued_at": job.enqueued_at,
        "error": job.error,
    }
