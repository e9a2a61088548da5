"""Reading the records that the rules of consistency look at."""

from __future__ import annotations

from pathlib import Path

from guild.campaigns.pointer import active_key
from guild.curriculum.progress import rule_of
from guild.curriculum.state import read_state
from guild.places import Places
from guild.progression.consistency import Finding, Records, check
from guild.records import events, jobs, ledger
from guild.records.checkpoint_places import campaign_folders
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId
from guild.records.states import LIVE
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database

ENDED = 500
"""Jobs that are at their end, of which the newest are looked at."""
MOST = 100_000


def read_records(db: Database, places: Places, *, clock: Clock = SYSTEM_CLOCK) -> Records:
    """Jobs that are not at their end and the newest others, the ledger, campaigns, levels. Raises DamagedFileError, UnknownSkillError."""
    with db.snapshot():
        live = jobs.list_jobs(db, states=LIVE, limit=MOST).jobs
        newest = jobs.list_jobs(db, order="newest", limit=ENDED).jobs
        looked_at = tuple({job.id: job for job in (*live, *newest)}.values())
        logs = {job.id: tuple(event.type.removeprefix("queue.") for event in events.log_of(db, job.id).events) for job in newest}
        checkpoints = tuple(ledger.list_all(db))
    key = active_key(places)
    campaign = NO_CAMPAIGN if key is None else CampaignId(*key.key)
    state = read_state(places, campaign)
    return Records(
        now=clock.now(),
        jobs=looked_at,
        logs=logs,
        checkpoints=checkpoints,
        folders=frozenset(path for path in (Path(record.path) for record in checkpoints) if path.is_dir()),
        campaigns=frozenset(one.key for one in campaign_folders(places)),
        active=None if key is None else campaign.key,
        mastered={skill: (state.standing(skill).mastered, rule_of(places, skill).max_level) for skill in state.skills},
    )


def check_consistency(db: Database, places: Places, *, clock: Clock = SYSTEM_CLOCK) -> list[Finding]:
    """Everything in the records of an installation that breaks a rule."""
    return check(read_records(db, places, clock=clock))
