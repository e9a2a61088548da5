"""Whom an evaluation job means: the checkpoint's folder, its campaign's profile, the day of its prompt. (specs/guild.md 2.1.9, 5.4)"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from guild.campaigns.effective_config import build_effective
from guild.campaigns.store import find_campaign
from guild.errors import RefusedError
from guild.evaluation.due import BASE
from guild.evaluation.local import LocalAnswerer
from guild.evaluation.prompting import profile_prompt, prompt_day
from guild.places import Places
from guild.records import ledger
from guild.records.checkpoint_marks import usable_checkpoint
from guild.records.checkpoint_record import CampaignId
from guild.records.jobs import Job
from guild.training.profiles import get_profile
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.errors import UsageError


class GoneCheckpointError(RefusedError):
    """The checkpoint of a job is not there any more, or is not whole: trying again would not help."""


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated. model: a folder, or for the base model a hub id or `modelwright/tiny-*`. name: of the checkpoint. day: in
    its prompt."""

    campaign: CampaignId
    step: int
    model: str
    name: str
    profile: str
    day: date

    @property
    def system_prompt(self) -> str:
        """What its training rows carry."""
        return profile_prompt(get_profile(self.profile), self.day)

    def answerer(self, device: str, clock: Clock) -> LocalAnswerer:
        """Who answers for it in this process."""
        return LocalAnswerer(self.model, self.system_prompt, self.profile, device, clock=clock)


def subject_of(db: Database, places: Places, job: Job, clock: Clock) -> Subject:
    """The subject of a job. Raises GoneCheckpointError, UsageError for a job without a campaign, and what the campaign's configuration
    raises."""
    campaign = campaign_of_job(job)
    effective = build_effective(places, find_campaign(places, campaign.hero_id, campaign.campaign_id)).value
    step = int(job.payload["step"])
    today = clock.now().date()
    if job.payload["checkpoint"] == BASE:
        return Subject(campaign, step, effective.model_path, BASE, effective.profile, today)
    record = ledger.get(db, step, campaign)
    if record is None or not Path(record.path).is_dir():
        raise GoneCheckpointError(
            f"{job.payload['checkpoint']} of {campaign.key} is not there any more, so it cannot be evaluated. Keep more checkpoints "
            "(save_total_limit) or evaluate more often."
        )
    if reasons := usable_checkpoint(Path(record.path)):
        raise GoneCheckpointError("\n".join(reasons))
    path = Path(record.path)
    return Subject(campaign, step, str(path), record.canonical_name, effective.profile, prompt_day(path, today))


def campaign_of_job(job: Job) -> CampaignId:
    """The campaign that a job names. Raises UsageError."""
    hero, _, campaign = str(job.payload.get("campaign") or "").partition("/")
    if not hero or not campaign:
        raise UsageError(f"{job.label}: found the campaign {job.payload.get('campaign')!r}; allowed: hero/campaign.")
    return CampaignId(hero, campaign)
