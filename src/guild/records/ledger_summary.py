"""The ledger in one line, and the checkpoint that should be deployed. (specs/guild.md 2.1.8, 8.3)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.records import ledger
from guild.records.checkpoint_marks import usable_checkpoint
from guild.records.checkpoint_record import CampaignId, CheckpointRecord
from guild.records.evaluations import evaluations_of
from guild.skills.names import canonical
from modelwright.database import Database

MINIMUM_PROBLEMS = 20
"""Evaluations with fewer problems decide nothing."""


@dataclass(frozen=True)
class DeployChoice:
    """The checkpoint to deploy. record: None when none can be chosen. metric: `evaluation_accuracy` or `val_loss`, "" without a choice.
    score: its value, accuracy as a share. reason: a sentence."""

    record: CheckpointRecord | None
    metric: str
    score: float | None
    reason: str


def get_summary(db: Database, campaign: CampaignId | None = None) -> dict[str, Any]:
    """`count, latest_step, oldest_step, best_loss, worst_loss, total_size_gb, skills_trained`, and `best_val_loss`.

    The first two losses are training losses, which cannot be compared across files; sizes in units of 10^9 bytes; None where nothing is
    known.
    """
    where, values = ("", ()) if campaign is None else ("WHERE hero_id = ? AND campaign_id = ?", (campaign.hero_id, campaign.campaign_id))
    row = db.row(
        "SELECT count(*) AS count, max(step) AS latest_step, min(step) AS oldest_step, min(train_loss) AS best_loss, "
        "max(train_loss) AS worst_loss, min(val_loss) AS best_val_loss, coalesce(sum(size_bytes), 0) AS size "
        f"FROM checkpoints {where}",
        values,
    )
    found = dict(row or {})
    skills = db.rows(f"SELECT DISTINCT skill FROM checkpoints {where} ORDER BY skill", values)
    found["total_size_gb"] = round(found.pop("size", 0) / 1e9, 3)
    found["skills_trained"] = [entry["skill"] for entry in skills if entry["skill"] is not None]
    return found


def best_to_deploy(
    db: Database, campaign: CampaignId, training_levels: Mapping[str, int], *, minimum_problems: int = MINIMUM_PROBLEMS
) -> DeployChoice:
    """The whole checkpoint of `campaign` with the highest evaluation accuracy at the training level, else the lowest validation loss.

    training_levels: skill → its training level now. With several skills the mean counts, over the skills that have an evaluation at that
    level, and a candidate needs one for each of these. Of equal ones the later step is taken. The training loss never decides: it falls
    when files become easier.
    """
    on_disk = {record.step: record for record in ledger.list_all(db, campaign) if not usable_checkpoint(Path(record.path))}
    scores: dict[str, dict[int, float]] = {}
    for skill, level in training_levels.items():
        for found in evaluations_of(db, campaign, skill=skill, level=level):
            if found.checkpoint_step in on_disk and found.total >= minimum_problems:
                scores.setdefault(canonical(skill), {})[found.checkpoint_step] = found.correct / found.total
    common = set.intersection(*(set(steps) for steps in scores.values())) if scores else set()
    if common:
        means = {step: sum(steps[step] for steps in scores.values()) / len(scores) for step in common}
        step = max(common, key=lambda candidate: (means[candidate], candidate))
        shown = ", ".join(f"{skill} level {_level(training_levels, skill)}" for skill in sorted(scores))
        reason = f"Step {step} answers {means[step]:.1%} right at the training level ({shown}), the most of {len(common)} evaluated."
        return DeployChoice(on_disk[step], "evaluation_accuracy", means[step], reason)
    losses = {step: record.val_loss for step, record in on_disk.items() if record.val_loss is not None}
    why = f"No checkpoint has an evaluation of {minimum_problems} problems or more at the training level of every skill measured there"
    if losses:
        step = min(losses, key=lambda candidate: (losses[candidate], -candidate))
        reason = f"{why}; step {step} has the lowest validation loss, {losses[step]:.4g}."
        return DeployChoice(on_disk[step], "val_loss", losses[step], reason)
    return DeployChoice(None, "", None, f"{why}, and none has a validation loss: nothing is deployed.")


def _level(levels: Mapping[str, int], skill: str) -> int:
    return next(level for name, level in levels.items() if canonical(name) == skill)
