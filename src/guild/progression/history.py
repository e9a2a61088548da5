"""What a campaign's records say, as observations in the order of training. (specs/guild.md 2.1.11, 2.3.5)

Nothing is remembered between two readings: the store is the truth, and the same records give the same observations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from guild.curriculum.state import read_state
from guild.places import Places
from guild.progression.detectors import NOT_FINITE
from guild.progression.effects import Observation
from guild.progression.results import Grade, grade
from guild.records import ledger
from guild.records.checkpoint_record import CampaignId
from guild.records.evaluation_records import Evaluation
from guild.records.evaluations import evaluations_of
from modelwright.database import Database


@dataclass(frozen=True)
class Seen:
    """One observation, and the skill whose answers it holds: None for a checkpoint or a failure. level: of these answers."""

    observation: Observation
    skill: str | None = None
    level: int = 1


def history(db: Database, places: Places, campaign: CampaignId) -> list[Seen]:
    """Everything observed in a campaign: failures with a loss that was no number, checkpoints, evaluations; by step, and at one step in
    this order, evaluations by time."""
    with db.snapshot():
        found: list[tuple[int, int, str, Seen]] = []
        for step in _torn(db, campaign):
            found.append((step, 0, "", Seen(Observation(step, train_loss=math.nan))))
        for record in ledger.list_all(db, campaign):
            seen = Observation(record.step, train_loss=record.train_loss, val_loss=record.val_loss)
            found.append((record.step, 1, "", Seen(seen)))
        evaluations = evaluations_of(db, campaign, problems=True)
    mastered = _mastered(places, campaign)
    for one in evaluations:
        level_up = (one.skill, one.level, one.checkpoint_step) in mastered
        results, replies = results_of(one), _replies(one)
        seen = Observation(one.checkpoint_step, results=results, replies=replies, level_up=level_up)
        found.append((one.checkpoint_step, 2, f"{one.timestamp} {one.skill} {one.level}", Seen(seen, one.skill, one.level)))
    return [seen for *_, seen in sorted(found, key=lambda entry: entry[:3])]


def results_of(evaluation: Evaluation) -> tuple[Grade, ...]:
    """The results of an evaluation's answers, in order. Where its problems were not kept, its right answers come first, all the same."""
    judged = [one for one in evaluation.problems if isinstance(one, Mapping) and isinstance(one.get("correct"), bool)]
    if len(judged) != evaluation.total:
        right, wrong = grade(True, 1.0), grade(False, 0.0)
        return (right,) * evaluation.correct + (wrong,) * (evaluation.total - evaluation.correct)
    return tuple(_grade(one) for one in judged)


def _grade(problem: Mapping[str, Any]) -> Grade:
    partial = problem.get("partial")
    exact = str(problem.get("reply", "")).strip() == str(problem.get("expected", "")).strip()
    return grade(problem["correct"], float(partial) if isinstance(partial, int | float) else 0.0, exact=exact)


def _replies(evaluation: Evaluation) -> tuple[str, ...]:
    return tuple(one["reply"] for one in evaluation.problems if isinstance(one, Mapping) and isinstance(one.get("reply"), str))


def _torn(db: Database, campaign: CampaignId) -> Iterator[int]:
    """Steps at which training failed because the loss was no number. Events that name no campaign are taken as this one's."""
    rows = db.rows(
        "SELECT e.data, j.campaign FROM events e LEFT JOIN jobs j ON j.id = e.job WHERE e.type = 'training.failed' ORDER BY e.id"
    )
    for row in rows:
        data = orjson.loads(row["data"])
        named = data.get("campaign") or row["campaign"] or campaign.key
        if data.get("error_type") == NOT_FINITE and named == campaign.key and isinstance(data.get("step"), int):
            yield data["step"]


def _mastered(places: Places, campaign: CampaignId) -> set[tuple[str, int, int]]:
    """(skill, level, step) of the evaluations by which a level was mastered."""
    document = read_state(places, campaign)
    found = set()
    for skill in document.skills:
        for entry in document.entry(skill).get("progression_history", []):
            evidence = entry.get("evidence") or []
            checkpoint = str(evidence[-1].get("checkpoint", "")) if evidence and isinstance(evidence[-1], dict) else ""
            step = checkpoint.rpartition(":")[2]
            if step.isdecimal():
                found.add((skill, int(entry.get("earned_level", 0)), int(step)))
    return found
