"""What came of a completed run: its result in the job, a milestone in the campaign's history, and a child campaign where the run changed
what is locked within one. (issue "Build" 8; specs/guild.md 2.3.2, 4.2)

Everything here may be done twice: a runner killed in between is followed by one that finds what is there already.
"""

from __future__ import annotations

import json
from typing import Any

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.store import add_milestone, find_campaign
from guild.records import jobs
from guild.side_jobs.job_folder import JobFolder
from guild.side_jobs.stretched import open_stretched_child
from guild.side_jobs.work import Desk
from modelwright.errors import ModelwrightError
from modelwright.heartbeat import read_heartbeat
from modelwright.metrics import read_metrics
from modelwright.record import read_record

METRICS_KEPT = 40
MAX_STDOUT = 4_000_000
SUMMARY_KEYS = (
    "status", "achieved_context", "target_context", "scores", "message", "run_id", "artifacts", "error", "exit_reason", "recommended",
    "recommendation",
)  # fmt: skip
"""What is taken over from the JSON that a room prints of its result."""


def settle_completed(desk: Desk, job: jobs.Job, folder: JobFolder, code: int | None, words: str) -> None:
    """End a job whose run completed. What cannot be joined to the campaign is said and never loses the result."""
    result = result_of(desk, job, folder, code, words)
    try:
        _join(desk, job, folder, result)
    except ModelwrightError as error:
        result["notes"] = str(error)
        desk.tell(job, "queue.not_joined", f"{job.label}: {error}", severity="error")
    jobs.finish(desk.db, job.id, desk.me, result, position=_last_step(folder), clock=desk.clock)


def _last_step(folder: JobFolder) -> int | None:
    """The step that the run told last."""
    if folder.run is None:
        return None
    step = (read_heartbeat(folder.run).snapshot or {}).get("step")
    return step if isinstance(step, int) and step >= 0 else None


def result_of(desk: Desk, job: jobs.Job, folder: JobFolder, code: int | None, words: str) -> dict[str, Any]:
    """The result as the job keeps it: exit code, places, the room's own summary, the newest value of its metrics."""
    base = desk.places.base
    run, log = folder.run, folder.log
    result: dict[str, Any] = {
        "exit_code": code,
        "outcome": words,
        "run": str(run.relative_to(base)) if run is not None and run.is_relative_to(base) else str(run) if run is not None else None,
        "log": str(log.relative_to(base)) if log.is_relative_to(base) else str(log),
        "summary": {key: value for key, value in summary_of(folder).items() if key in SUMMARY_KEYS},
        "metrics": {},
    }
    if run is not None:
        try:
            record = read_record(run)
            result |= {"run_id": record.run_id, "attempts_of_run": record.attempt}
            newest: dict[str, Any] = {}
            for event in read_metrics(run / record.files.metrics).events:
                newest[str(event["metric"])] = event.get("value")
            result["metrics"] = dict(sorted(newest.items())[:METRICS_KEPT])
        except ModelwrightError as error:
            result["notes"] = str(error)
    return result


def summary_of(folder: JobFolder) -> dict[str, Any]:
    """The JSON object that the room printed of its result, the last one on its standard output; {} when it printed none."""
    try:
        size = folder.stdout.stat().st_size
        if size > MAX_STDOUT:
            return {}
        text = folder.stdout.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            start = text.find("{", start + 1)
            continue
        if isinstance(value, dict):
            found = value
        start = text.find("{", end)
    return found


def _join(desk: Desk, job: jobs.Job, folder: JobFolder, result: dict[str, Any]) -> None:
    """Milestone and child campaign of a job that belongs to a campaign."""
    if not job.campaign or "/" not in job.campaign:
        return
    campaign = find_campaign(desk.places, *job.campaign.split("/", 1))
    if campaign.archived:
        result["notes"] = f"Campaign {job.campaign} is archived meanwhile; its history is left as it is."
        return
    if not _remembered(campaign, job):
        note = _note(job, result)
        metrics = {"job": job.id, "kind": job.kind, "run": result["run"], **_numbers(result)}
        campaign = add_milestone(desk.places, campaign, campaign.campaign.current_step, note, metrics, clock=desk.clock)
    if job.kind == "scale" and job.payload.get("opens_child"):
        child = open_stretched_child(desk.places, campaign, job, folder, result, clock=desk.clock)
        result["child_campaign"] = "/".join(child.key)
        desk.tell(job, "hero.campaign_opened", f"{job.label}: campaign {'/'.join(child.key)} goes on with the stretched model.")


def _remembered(campaign: CampaignFolder, job: jobs.Job) -> bool:
    return any(milestone.metrics.get("job") == job.id for milestone in campaign.campaign.milestones)


def _note(job: jobs.Job, result: dict[str, Any]) -> str:
    """What the history says of the run."""
    summary = result["summary"]
    said = {
        "scale": f"Context stretch: {summary.get('achieved_context') or 'no'} tokens reached",
        "medic_train": "Medic training: a repair operator for this model's cache",
        "medic_eval": "Medic evaluation of the repair operator",
        "sweep": "Medic sweep",
        "autotune": "Autotune: settings for serving",
    }[job.kind]
    return f"{said} ({result['outcome']}; job {job.id})"


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a result, for the milestone's metrics."""
    numbers = {name: value for name, value in result["metrics"].items() if isinstance(value, int | float)}
    reached = result["summary"].get("achieved_context")
    return {**numbers, **({"achieved_context": reached} if isinstance(reached, int) else {})}
