"""What must stay because something needs it: a campaign's start, the newest and the best of each campaign, what live jobs name.

(specs/guild.md 2.8.4, 8.3; parts.md, fault 12: nothing referenced is ever removed)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from guild.campaigns.checkpoints import locate
from guild.campaigns.store import list_campaigns
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records import evaluations, jobs, ledger
from guild.records.checkpoint_places import campaign_of
from guild.records.checkpoint_record import CampaignId
from guild.records.states import LIVE
from modelwright.database import Database
from modelwright.errors import DamagedFileError, MissingFileError
from modelwright.files import read_json

Reasons = dict[Path, list[str]]
"""Resolved path → why it must stay."""
DEPLOYMENTS = "deployment_status.json"


def references(db: Database, places: Places, checkpoints: Iterable[Path], *, but_job: int | None = None) -> Reasons:
    """Why which of `checkpoints` (resolved paths) must stay.

    but_job: the job that asks, which names nothing itself. Raises what the store raises, ConfigError or DamagedFileError for a campaign
    whose document cannot be read: it might name any checkpoint, so nothing is deleted before it is put right.
    """
    found: Reasons = {}
    known = list(checkpoints)
    for path, why in _starts(places):
        found.setdefault(path, []).append(why)
    for path, why in (*_newest(places, known), *_best(db, places, known), *_deployed(places)):
        found.setdefault(path, []).append(why)
    for path, why in live_jobs(db, places, known, but_job=but_job):
        found.setdefault(path, []).append(why)
    return found


def live_jobs(db: Database, places: Places, checkpoints: Iterable[Path], *, but_job: int | None = None) -> Iterator[tuple[Path, str]]:
    """Checkpoints that an unfinished job names: by path, by folder name, or by campaign and step."""
    known = list(checkpoints)
    by_name: dict[str, list[Path]] = {}
    for path in known:
        by_name.setdefault(path.name, []).append(path)
    for job in _unfinished(db):
        if job.id == but_job or job.kind == "train_file":
            continue
        why = f"job {job.id} ({job.kind}, {job.state}) needs it"
        campaign, step = job.payload.get("campaign") or job.campaign, job.payload.get("step")
        for word in _words(job.payload):
            for path in by_name.get(word.rstrip("/").rsplit("/", 1)[-1], ()):
                if "/" not in word or _means(places, job, word) == path:
                    yield path, why
        if isinstance(step, int):
            for path in known:
                if checkpoint_step(path.name) == step and campaign in (None, campaign_of(places, path).key):
                    yield path, why


def _unfinished(db: Database) -> Iterator[jobs.Job]:
    """Every job that is not at its end, however many there are."""
    before: int | None = None
    while True:
        page = jobs.list_jobs(db, states=LIVE, order="newest", limit=1000, before=before).jobs
        yield from page
        if len(page) < 1000:
            return
        before = page[-1].id


def _words(value: Any) -> Iterator[str]:
    """Every text in a payload, and what follows a `--flag=`."""
    if isinstance(value, str):
        yield value
        if value.startswith("-") and "=" in value:
            yield value.partition("=")[2]
    elif isinstance(value, dict):
        for item in value.values():
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)


def _means(places: Places, job: jobs.Job, word: str) -> Path:
    return (Path(job.payload.get("cwd") or places.base) / Path(word).expanduser()).resolve()


def _starts(places: Places) -> Iterator[tuple[Path, str]]:
    """Where campaigns started from, archived ones included, and what they name as their parent's checkpoint."""
    for archived in (False, True):
        listed = list_campaigns(places, archived=archived)
        if listed.faults:
            raise next(iter(listed.faults.values()))
        for folder in listed.campaigns:
            parent = folder.campaign.parent_campaign
            for stored in (folder.campaign.starting_checkpoint, parent.checkpoint if parent is not None else None):
                path = locate(places, stored) if stored else None
                if path is not None:
                    yield path.resolve(), f"campaign {'/'.join(folder.key)} starts from it"


def _newest(places: Places, checkpoints: list[Path]) -> Iterator[tuple[Path, str]]:
    """The highest step of each campaign, whole or not, and the highest one that is whole."""
    from guild.records.checkpoint_marks import usable_checkpoint

    groups: dict[str, list[Path]] = {}
    for path in checkpoints:
        groups.setdefault(campaign_of(places, path).key, []).append(path)
    for key, paths in groups.items():
        newest_first = sorted(paths, key=lambda path: (-(checkpoint_step(path.name) or 0), path.name))
        highest = checkpoint_step(newest_first[0].name)
        for path in newest_first:
            if checkpoint_step(path.name) == highest:
                yield path, f"it is the latest of {key}"
        whole = next((path for path in newest_first if not usable_checkpoint(path)), None)
        if whole is not None and checkpoint_step(whole.name) != highest:
            yield whole, f"it is the latest whole one of {key}"


def _best(db: Database, places: Places, checkpoints: list[Path]) -> Iterator[tuple[Path, str]]:
    """The best of each campaign: by evaluation accuracy, of each skill at the highest level evaluated, and by validation loss."""
    by_step: dict[tuple[str, int], list[Path]] = {}
    for path in checkpoints:
        by_step.setdefault((campaign_of(places, path).key, checkpoint_step(path.name) or 0), []).append(path)
    campaigns = {record.campaign for record in ledger.list_all(db)}
    for campaign in sorted(campaigns):
        for metric in ("accuracy", "val_loss"):
            best = ledger.get_best(db, metric, campaign=campaign)
            if best is not None:
                yield Path(best.path).resolve(), f"it is the best of {campaign.key} by {metric}"
        for step, why in _best_evaluated(db, campaign):
            for path in by_step.get((campaign.key, step), ()):
                yield path, why


def _best_evaluated(db: Database, campaign: CampaignId) -> Iterator[tuple[int, str]]:
    highest: dict[str, int] = {}
    for count in evaluations.evaluation_counts(db, campaign):
        highest[count.skill] = max(count.level, highest.get(count.skill, 0))
    for skill, level in highest.items():
        best = evaluations.best_evaluation(db, skill, level, campaign)
        if best is not None:
            yield best.checkpoint_step, f"it is the best of {campaign.key} in {skill} at level {level}"


def _deployed(places: Places) -> Iterator[tuple[Path, str]]:
    """What the newest successful deployment serves."""
    path = places.status / DEPLOYMENTS
    try:
        document = read_json(path)
    except MissingFileError:
        return
    records = document.get("deployments") if isinstance(document, dict) else document
    if not isinstance(records, list):
        raise DamagedFileError(path, "it lists no deployments", "an object with deployments, or a list of them")
    served = [record for record in records if isinstance(record, dict) and record.get("status") == "success"]
    if served:
        newest = max(served, key=lambda record: str(record.get("timestamp")))
        yield Path(str(newest.get("checkpoint_path"))).resolve(), "it is deployed"


def needed_now(db: Database, places: Places, path: Path, *, but_job: int | None = None) -> str:
    """Why a checkpoint must stay after all, asked just before it goes: a job or a campaign that came in since the plan was made; or ""."""
    for other, why in (*_starts(places), *live_jobs(db, places, [path], but_job=but_job)):
        if other == path:
            return why
    return ""
