"""What the reports read: evaluations and their problems, the ledger, curriculum, sparring. Nothing here writes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from guild.analytics.documents import read_or_none
from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.pointer import require_active
from guild.campaigns.store import find_campaign
from guild.errors import UnknownSkillError
from guild.places import Places
from guild.records.checkpoint_record import CampaignId, CheckpointRecord
from guild.records.evaluation_records import Evaluation
from guild.records.evaluations import evaluations_of
from guild.records.ledger import list_all
from guild.records.standing import load
from modelwright.database import Database
from modelwright.errors import UsageError

_PROMPT, _EXPECTED = ("prompt", "user_prompt", "question"), ("expected", "expected_answer", "golden", "golden_answer")
_ANSWER = ("reply", "answer", "model_answer", "found", "actual")


@dataclass(frozen=True)
class Problem:
    """One judged problem of an evaluation. confidence: the share the model gave its answer, None where nobody recorded it. loss: nats per
    token of the golden answer, None likewise. reason: why it was wrong. difficulty: of the problem, else its level."""

    step: int
    skill: str
    level: int
    prompt: str
    expected: str
    answer: str
    correct: bool
    reason: str = ""
    difficulty: str = ""
    kind: str = ""
    confidence: float | None = None
    loss: float | None = None


def campaign_id(folder: CampaignFolder) -> CampaignId:
    """The campaign as the records name it."""
    return CampaignId(*folder.key)


def campaign_folder(places: Places, name: str | None) -> CampaignFolder:
    """The campaign `hero/campaign`, or the active one. Raises UsageError, NoActiveCampaignError, or that there is none of that name."""
    if not name:
        return require_active(places)
    hero, slash, campaign = name.partition("/")
    if not (hero and slash and campaign):
        raise UsageError(f"campaign: found {name!r}; allowed: hero/campaign, such as dio-qwen3-0.6b/campaign-001.")
    return find_campaign(places, hero, campaign)


def accuracy_at(
    db: Database, campaign: CampaignId, skill: str | None, level: int | None, *, up_to: int, since: int = 0
) -> Evaluation | None:
    """The evaluation of a skill at a level on the newest checkpoint with a step from `since` to `up_to`; None when there is none."""
    if not skill or level is None:
        return None
    found = [entry for entry in evaluations_of(db, campaign, skill=skill, level=level) if since <= entry.checkpoint_step <= up_to]
    return found[-1] if found else None


def with_problems(db: Database, campaign: CampaignId, *, newest: int = 300) -> list[Evaluation]:
    """The newest evaluations that count, with their problems, by step, skill and level: enough for what is wrong now, in little memory."""
    rows = db.rows(
        "SELECT record, problems FROM evaluations WHERE hero_id = ? AND campaign_id = ? AND current = 1 "
        "ORDER BY checkpoint_step DESC, id DESC LIMIT ?",
        (campaign.hero_id, campaign.campaign_id, newest),
    )
    found = [load(row, Evaluation) for row in rows]
    return sorted(found, key=lambda one: (one.checkpoint_step, one.skill, one.level))


def newest_of_each(evaluations: list[Evaluation]) -> list[Evaluation]:
    """The newest evaluation of each skill and level."""
    found = {(one.skill, one.level): one for one in sorted(evaluations, key=lambda one: one.checkpoint_step)}
    return [found[key] for key in sorted(found)]


def records_ascending(db: Database, campaign: CampaignId) -> list[CheckpointRecord]:
    """The ledger of a campaign by step."""
    return sorted(list_all(db, campaign), key=lambda record: record.step)


def problems_of(evaluations: list[Evaluation]) -> list[Problem]:
    """The problems that evaluations carry, in their order; one without a verdict is no answer and is left out."""
    found = []
    for evaluation in evaluations:
        for told in evaluation.problems:
            if isinstance(told, Mapping) and isinstance(told.get("correct"), bool):
                found.append(_problem(evaluation, told))
    return found


def mastered_levels(places: Places, folder: CampaignFolder) -> dict[str, int]:
    """Skill → highest mastered level, of the skills that the curriculum of the campaign has begun. Raises DamagedFileError."""
    from guild.curriculum.state import read_state

    found = read_state(places, campaign_id(folder))
    return {skill: found.standing(skill).mastered for skill in found.skills}


def training_levels(places: Places, folder: CampaignFolder) -> dict[str, int]:
    """Skill → the level that is trained now, likewise; a skill whose settings are gone is left out."""
    from guild.curriculum.progress import training_level

    levels = {}
    for skill in mastered_levels(places, folder):
        with suppress(UnknownSkillError):
            levels[skill] = training_level(places, skill, campaign_id(folder))
    return levels


def sparring_sessions(places: Places) -> list[dict[str, Any]]:
    """The sessions in `status/sparring.json`, the newest first. (4.12)"""
    found = read_or_none(places.status / "sparring.json") or {}
    history = found.get("history")
    sessions = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    last = found.get("last_session")
    if isinstance(last, dict) and last not in sessions:
        sessions.append(last)
    return sorted(sessions, key=lambda entry: str(entry.get("timestamp") or ""), reverse=True)


def _problem(evaluation: Evaluation, told: Mapping[str, Any]) -> Problem:
    metadata = told.get("metadata")
    more = metadata if isinstance(metadata, Mapping) else {}
    scenario = told.get("scenario") or more.get("scenario") or ""
    return Problem(
        step=evaluation.checkpoint_step,
        skill=evaluation.skill,
        level=evaluation.level,
        prompt=_text(told, _PROMPT),
        expected=_text(told, _EXPECTED),
        answer=_text(told, _ANSWER),
        correct=bool(told["correct"]),
        reason=str(told.get("reason") or ""),
        difficulty=str(told.get("difficulty") or more.get("difficulty") or f"level {evaluation.level}"),
        kind=str(scenario),
        confidence=_share(told.get("confidence")),
        loss=_number(told.get("loss")),
    )


def _text(told: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(told[name]) for name in names if told.get(name) is not None), "")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _share(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None
