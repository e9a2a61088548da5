"""What is to be evaluated, as jobs of kind `eval`: after a save, by an operator's word, or because it was missed. (2.1.4, 2.1.9, 4.7)

Order of the queue: priority descending, step descending, quick before full. A job's ordinal is chosen so that the store's own order
(priority, ordinal, id) is this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guild.campaigns.store import find_campaign
from guild.evaluation.passives import MODULES
from guild.places import Places
from guild.records import events, jobs, ledger
from guild.records.checkpoint_record import CampaignId, CheckpointRecord
from guild.records.evaluation_queue import (
    FULL_EVERY_STEPS,
    FULL_PRIORITY,
    QUICK_PRIORITY,
    EvalQueueEntry,
    due_after_save,
    export_queue,
    full_is_due,
)
from guild.records.evaluation_records import EvalType, PassiveMode
from guild.records.evaluations import has_evaluation
from guild.records.jobs import Job
from guild.records.passives import has_passive
from guild.records.states import LIVE, QUEUED
from guild.skills.names import canonical
from guild.skills.registry import skill_targets
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database

KIND = "eval"
ASKED_PRIORITY = 30
"""Of what an operator asks for now."""
PASSIVE_PRIORITIES: dict[PassiveMode, int] = {"lite": 8, "full": 4}
BACKFILL_PRIORITY = 3
BASE = "base"
"""Name of the checkpoint of step 0: the campaign's base model."""
_RANKS: dict[tuple[str, str], int] = {("skill", "quick"): 0, ("passive", "lite"): 1, ("skill", "full"): 2, ("passive", "full"): 3}
_MOST_LISTED = 10_000
Subject = Literal["skill", "passive"]


@dataclass(frozen=True)
class Wanted:
    """One evaluation to be queued. level: None for every level up to the training level."""

    step: int
    checkpoint: str
    subject: Subject
    name: str
    kind: Literal["quick", "full", "lite"]
    priority: int
    level: int | None = None
    problems: int | None = None
    seed: int = 0
    reason: str = ""

    def job(self, campaign: CampaignId) -> jobs.NewJob:
        """The job that asks for it; two that ask for the same have one key."""
        suite: EvalType = "full" if self.kind == "full" else "quick"
        what: dict[str, Any] = (
            {"skill": self.name, "level": self.level} if self.subject == "skill" else {"passive": self.name, "mode": self.kind}
        )
        payload = {
            "campaign": campaign.key, "step": self.step, "checkpoint": self.checkpoint, "suite": suite, "seed": self.seed,
            "problems": self.problems, "reason": self.reason, **what,
        }  # fmt: skip
        size = "" if self.problems is None and not self.seed else f":{self.problems}:{self.seed}"
        key = f"eval:{campaign.key}:{self.step}:{self.subject}:{self.name}:{self.level or '-'}:{self.kind}{size}"
        ordinal = -self.step * len(_RANKS) + _RANKS[self.subject, self.kind]
        return jobs.NewJob(KIND, payload, self.priority, ordinal, key, campaign.key)


@dataclass(frozen=True)
class Queued:
    """What was queued. known: jobs that waited already. refused: a sentence when the queue had no room, or ""."""

    jobs: tuple[Job, ...] = ()
    known: tuple[Job, ...] = ()
    refused: str = ""


def enqueue_for_checkpoint(
    db: Database,
    places: Places,
    campaign: CampaignId,
    step: int,
    checkpoint: str,
    *,
    previous_step: int | None = None,
    skills: Sequence[str] | None = None,
    full_every: int = FULL_EVERY_STEPS,
    passives: bool = True,
    clock: Clock = SYSTEM_CLOCK,
) -> Queued:
    """Queue what a save calls for: a quick evaluation per skill at its training level (priority 10) and the LITE passives; when a multiple
    of `full_every` steps was passed also a full evaluation per skill, of every level up to the training level (priority 6), by which
    forgetting shows, and the FULL passives. Called again for the same save it adds nothing.

    checkpoint: the folder's name. previous_step: of the save before; the ledger's when None. skills: those of `campaign_skills` when
    None. A full queue is told in the result and as an event, and never stops a training.
    """
    before = _step_before(db, campaign, step) if previous_step is None else previous_step
    names = campaign_skills(places, campaign) if skills is None else tuple(map(canonical, skills))
    levels = {skill: _training_level(places, skill, campaign) for skill in names}
    wanted = [
        Wanted(step, checkpoint, "skill", entry.skill, entry.eval_type, entry.priority, entry.level, reason="saved")
        for entry in due_after_save(step, before, levels, clock=clock, full_every=full_every)
    ]
    modes: tuple[PassiveMode, ...] = ("lite", "full") if full_is_due(step, before, full_every) else ("lite",)
    for mode in modes if passives else ():
        wanted += [Wanted(step, checkpoint, "passive", one.id, mode, PASSIVE_PRIORITIES[mode], reason="saved") for one in MODULES]
    return enqueue(db, places, campaign, wanted, clock=clock)


def backfill(
    db: Database, places: Places, campaign: CampaignId, *, skills: Sequence[str] | None = None, clock: Clock = SYSTEM_CLOCK
) -> Queued:
    """Queue quick evaluations at the training level, and LITE passives, of every checkpoint in the ledger that stands and lacks them."""
    names = campaign_skills(places, campaign) if skills is None else tuple(map(canonical, skills))
    levels = {skill: _training_level(places, skill, campaign) for skill in names}
    wanted = []
    for record in ledger.list_all(db, campaign):
        if not _stands(record):
            continue
        for skill, level in levels.items():
            if not has_evaluation(db, campaign, record.step, skill, level):
                wanted.append(_missed(record, "skill", skill, "quick", level))
        for module in MODULES:
            if not has_passive(db, campaign, record.step, module.id, "lite", module.version):
                wanted.append(_missed(record, "passive", module.id, "lite"))
    return enqueue(db, places, campaign, wanted, clock=clock)


def enqueue(db: Database, places: Places, campaign: CampaignId, wanted: Iterable[Wanted], *, clock: Clock = SYSTEM_CLOCK) -> Queued:
    """Queue all of them, or none where the queue has no room; write the view of the queue."""
    made: list[Job] = []
    known: list[Job] = []
    try:
        with db.transaction():
            for one in wanted:
                done = jobs.submit(db, one.job(campaign), clock=clock)
                (made if done.created else known).append(done.job)
    except jobs.QueueFullError as error:
        events.record(
            db, "data.evaluation_refused", str(error), source="evaluation", severity="warning", data={"campaign": campaign.key}, clock=clock
        )
        return Queued(refused=str(error))
    if made:
        export_waiting(db, places, clock=clock)
    return Queued(tuple(made), tuple(known))


def waiting(db: Database) -> list[Job]:
    """The evaluation jobs that wait, in the order in which they are taken."""
    return list(jobs.list_jobs(db, kinds=(KIND,), states=(QUEUED,), limit=_MOST_LISTED).jobs)


def export_waiting(db: Database, places: Places, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Write `status/eval_queue.json`: the evaluations of skills that wait or are under way, which leave it when they are done."""
    held = jobs.list_jobs(db, kinds=(KIND,), states=LIVE, limit=_MOST_LISTED).jobs
    export_queue(places, (entry for job in held if (entry := _entry(job)) is not None), clock=clock)


def campaign_skills(places: Places, campaign: CampaignId) -> tuple[str, ...]:
    """The skills that a campaign is evaluated on: those it focuses on, else every skill that has a file in `configs/skills`, as far as
    they can be loaded here. Raises UnknownHeroError, UnknownCampaignError."""
    known = skill_targets(places.skills)
    focus = tuple(map(canonical, find_campaign(places, campaign.hero_id, campaign.campaign_id).campaign.skills_focus))
    own = tuple(canonical(path.stem) for path in sorted(places.skills.glob("*.yaml")))
    return tuple(skill for skill in focus or own if skill in known)


def _entry(job: Job) -> EvalQueueEntry | None:
    payload = job.payload
    if not payload.get("skill"):
        return None
    hero, _, campaign = str(payload.get("campaign") or "/").partition("/")
    return EvalQueueEntry(
        payload["step"], payload["skill"], payload.get("level"), job.enqueued_at, payload["suite"], job.priority, hero, campaign
    )


def _missed(record: CheckpointRecord, subject: Subject, name: str, kind: Literal["quick", "lite"], level: int | None = None) -> Wanted:
    return Wanted(record.step, record.canonical_name, subject, name, kind, BACKFILL_PRIORITY, level, reason="missed")


def _stands(record: CheckpointRecord) -> bool:
    return Path(record.path).is_dir()


def _step_before(db: Database, campaign: CampaignId, step: int) -> int:
    row = db.row(
        "SELECT max(step) AS step FROM checkpoints WHERE hero_id = ? AND campaign_id = ? AND step < ?",
        (campaign.hero_id, campaign.campaign_id, step),
    )
    return int(row["step"]) if row and row["step"] is not None else 0


def _training_level(places: Places, skill: str, campaign: CampaignId) -> int:
    from guild.curriculum.progress import training_level

    return training_level(places, skill, campaign)


__all__ = [
    "ASKED_PRIORITY", "BACKFILL_PRIORITY", "BASE", "FULL_PRIORITY", "KIND", "PASSIVE_PRIORITIES", "QUICK_PRIORITY", "Queued", "Wanted",
    "backfill", "campaign_skills", "enqueue", "enqueue_for_checkpoint", "export_waiting", "waiting",
]  # fmt: skip
