"""The evaluation ledger: at most one record counts per campaign, step, skill and level. (specs/guild.md 2.1.9, 4.7)

`guild.db` is the truth; `<checkpoint>/.evals.json`, `status/evaluation_ledger.json` and `status/eval_results_history.json` are written
from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from guild.places import Places
from guild.records.checkpoint_record import CampaignId
from guild.records.evaluation_documents import write_evaluation_documents
from guild.records.evaluation_records import Evaluation
from guild.records.standing import load, store
from guild.records.status_documents import records_lock
from guild.skills.names import canonical
from modelwright.database import Database


@dataclass(frozen=True)
class SkillCount:
    """How often a skill was evaluated at a level: checkpoints that have a record, problems over these records, the newest step."""

    skill: str
    level: int
    checkpoints: int
    problems: int
    latest_step: int


def record_evaluation(db: Database, places: Places, evaluation: Evaluation) -> bool:
    """Store an evaluation, durably, then write the exports; returns whether it is the one that counts.

    A repeated one takes the place of the record only when it has at least as many problems; otherwise it is kept as history, and so is
    what it replaced.
    """
    counts = store_evaluation(db, evaluation)
    with records_lock(places):
        write_evaluation_documents(db, places, [(evaluation.campaign, evaluation.checkpoint_step)])
    return counts


def store_evaluation(db: Database, evaluation: Evaluation) -> bool:
    """The same without the exports."""
    key = {
        "hero_id": evaluation.hero_id,
        "campaign_id": evaluation.campaign_id,
        "checkpoint_step": evaluation.checkpoint_step,
        "skill": evaluation.skill,
        "level": evaluation.level,
    }
    with db.transaction() as connection:
        return store(connection, "evaluations", key, evaluation)


def evaluations_of(
    db: Database,
    campaign: CampaignId | None = None,
    *,
    step: int | None = None,
    skill: str | None = None,
    level: int | None = None,
    history: bool = False,
    problems: bool = False,
) -> list[Evaluation]:
    """The evaluations that count, by step, skill and level, as far as the arguments choose.

    skill: id or alias. history: those that no longer count too, the oldest of each key first. problems: with their problems, which are
    left out otherwise.
    """
    condition, values = _chosen(campaign, step, skill, level)
    if not history:
        condition += " AND current = 1"
    rows = db.rows(
        f"SELECT record{', problems' if problems else ''} FROM evaluations WHERE {condition} "
        "ORDER BY hero_id, campaign_id, checkpoint_step, skill, level, id",
        values,
    )
    return [load(row, Evaluation) for row in rows]


def best_evaluation(db: Database, skill: str, level: int | None = None, campaign: CampaignId | None = None) -> Evaluation | None:
    """The evaluation of a skill (at a level) with the highest accuracy, of equal ones that of the later step, with its problems.

    None when there is none.
    """
    condition, values = _chosen(campaign, None, skill, level)
    row = db.row(
        f"SELECT record, problems FROM evaluations WHERE {condition} AND current = 1 "
        "ORDER BY CAST(correct AS REAL) / total DESC, checkpoint_step DESC, level DESC LIMIT 1",
        values,
    )
    return None if row is None else load(row, Evaluation)


def evaluation_counts(db: Database, campaign: CampaignId | None = None) -> list[SkillCount]:
    """One line per skill and level that was evaluated."""
    condition, values = _chosen(campaign, None, None, None)
    rows = db.rows(
        "SELECT skill, level, count(*) AS checkpoints, sum(total) AS problems, max(checkpoint_step) AS latest_step FROM evaluations "
        f"WHERE {condition} AND current = 1 GROUP BY skill, level ORDER BY skill, level",
        values,
    )
    return [SkillCount(**row) for row in rows]


def has_evaluation(db: Database, campaign: CampaignId, step: int, skill: str, level: int) -> bool:
    """Whether that evaluation is recorded."""
    condition, values = _chosen(campaign, step, skill, level)
    return db.row(f"SELECT 1 FROM evaluations WHERE {condition} AND current = 1", values) is not None


def _chosen(campaign: CampaignId | None, step: int | None, skill: str | None, level: int | None) -> tuple[str, list[object]]:
    wanted: dict[str, object | None] = {
        "hero_id": campaign.hero_id if campaign else None,
        "campaign_id": campaign.campaign_id if campaign else None,
        "checkpoint_step": step,
        "skill": canonical(skill) if skill else None,
        "level": level,
    }
    asked = {column: value for column, value in wanted.items() if value is not None}
    return " AND ".join(f"{column} = ?" for column in asked) or "1", list(asked.values())
