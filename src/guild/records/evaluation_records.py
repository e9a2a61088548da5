"""One evaluation of one checkpoint, and one passive, as they are stored and exported. (specs/guild.md 2.1.9, 4.7)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from guild.records.checkpoint_record import CampaignId
from guild.records.intervals import wilson
from guild.skills.names import canonical

EvalType = Literal["quick", "full"]
ValidationType = Literal["static", "dynamic"]
PassiveMode = Literal["lite", "full"]
PASSIVE_PROBLEMS: dict[PassiveMode, range] = {"lite": range(5, 6), "full": range(30, 51)}
"""How many problems each mode has."""


class Counted(BaseModel):
    """Right answers of all that were judged; a request that failed is no answer and is not among them.

    accuracy: correct/total. interval_low, interval_high: its 95 % Wilson interval. timestamp: ISO 8601. problems: one object per problem
    that is kept, as the judge gave them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    schema_version: int = 1
    hero_id: str = ""
    campaign_id: str = ""
    checkpoint_step: int = Field(ge=0)
    correct: int = Field(ge=0)
    total: int = Field(gt=0)
    accuracy: float = Field(ge=0, le=1)
    interval_low: float = Field(ge=0, le=1)
    interval_high: float = Field(ge=0, le=1)
    timestamp: str
    problems: tuple[Any, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, data: Any) -> Any:
        """Accuracy and interval always follow from the counts."""
        if not isinstance(data, Mapping):
            return data
        correct, total = data.get("correct"), data.get("total")
        if not (isinstance(correct, int) and isinstance(total, int) and 0 <= correct <= total and total > 0):
            raise ValueError(f"correct and total: found {correct} of {total}; allowed: whole numbers, 0 to total of at least one")
        interval = wilson(correct, total)
        return {**data, "accuracy": correct / total, "interval_low": interval.low, "interval_high": interval.high}

    @property
    def campaign(self) -> CampaignId:
        return CampaignId(self.hero_id, self.campaign_id)


class Evaluation(Counted):
    """How a checkpoint did on a skill at a level. skill: canonical id. level: 1 or more. validation_type: problems of a fixed set, or
    drawn for this evaluation. available: how many held-out problems the level has, where these are fewer than an evaluation usually asks.
    checkpoint_step 0 is the base model."""

    skill: str
    level: int = Field(ge=1)
    available: int | None = Field(None, ge=1)
    validation_type: ValidationType = "static"
    eval_type: EvalType = "quick"

    @model_validator(mode="before")
    @classmethod
    def _canonical_skill(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("skill"), str):
            return {**data, "skill": canonical(data["skill"])}
        return data


class Passive(Counted):
    """How a checkpoint did on a general ability. version, config_hash: of the module that asked."""

    passive_id: str
    mode: PassiveMode
    version: str
    config_hash: str = ""

    @model_validator(mode="after")
    def _count_of_mode(self) -> Passive:
        allowed = PASSIVE_PROBLEMS[self.mode]
        if self.total not in allowed:
            wanted = str(allowed.start) if len(allowed) == 1 else f"{allowed.start} to {allowed.stop - 1}"
            raise ValueError(f"total: found {self.total} problems; allowed in mode {self.mode}: {wanted}")
        return self

    @property
    def key(self) -> str:
        """`step:id:mode:version`."""
        return f"{self.checkpoint_step}:{self.passive_id}:{self.mode}:{self.version}"


def new_evaluation(
    campaign: CampaignId,
    step: int,
    skill: str,
    level: int,
    *,
    correct: int,
    total: int,
    timestamp: str,
    validation_type: ValidationType = "static",
    eval_type: EvalType = "quick",
    problems: Sequence[Mapping[str, Any]] = (),
    **further: Any,
) -> Evaluation:
    """An evaluation from its counts. further: fields kept with it, such as the judge's version and the day of the prompt.

    Raises pydantic's ValidationError, a ValueError, for counts that cannot be.
    """
    return Evaluation.model_validate(
        {
            **further,
            "hero_id": campaign.hero_id,
            "campaign_id": campaign.campaign_id,
            "checkpoint_step": step,
            "skill": skill,
            "level": level,
            "correct": correct,
            "total": total,
            "timestamp": timestamp,
            "validation_type": validation_type,
            "eval_type": eval_type,
            "problems": tuple(dict(problem) for problem in problems),
        }
    )


def new_passive(
    campaign: CampaignId,
    step: int,
    passive_id: str,
    mode: PassiveMode,
    version: str,
    *,
    correct: int,
    total: int,
    timestamp: str,
    config_hash: str = "",
    problems: Sequence[Mapping[str, Any]] = (),
    **further: Any,
) -> Passive:
    """A passive from its counts (see `new_evaluation`). Raises a ValueError, also when `total` is not what the mode asks for."""
    return Passive.model_validate(
        {
            **further,
            "hero_id": campaign.hero_id,
            "campaign_id": campaign.campaign_id,
            "checkpoint_step": step,
            "passive_id": passive_id,
            "mode": mode,
            "version": version,
            "correct": correct,
            "total": total,
            "timestamp": timestamp,
            "config_hash": config_hash,
            "problems": tuple(dict(problem) for problem in problems),
        }
    )
