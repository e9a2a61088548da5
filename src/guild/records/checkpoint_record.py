"""One checkpoint's entry in the ledger, and the campaign it belongs to. (specs/guild.md 4.5)"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelwright.errors import DamagedFileError

LEDGER_VERSION = "1.0.0"
CREATED_BY = "training_daemon"


@dataclass(frozen=True, order=True)
class CampaignId:
    """A campaign by the two names of its folder. Both are empty for a checkpoint of an installation that has no campaign."""

    hero_id: str
    campaign_id: str

    @property
    def key(self) -> str:
        """`<hero>/<campaign>`, or `unassigned`."""
        return f"{self.hero_id}/{self.campaign_id}" if self.hero_id or self.campaign_id else "unassigned"


NO_CAMPAIGN = CampaignId("", "")


class CheckpointRecord(BaseModel):
    """What is known of one checkpoint; a field that another program added is kept.

    timestamp: of the save, ISO 8601. path: absolute, where the checkpoint was recorded. learning_rate: of the last step. epoch: passes
    over the training file. accuracy: share from 0 to 1. size_bytes: of all files but the records beside them. has_optimizer: whether
    training can go on from it with its optimizer's state.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    schema_version: int = 1
    ledger_version: str = LEDGER_VERSION
    step: int = Field(ge=0)
    timestamp: str
    path: str
    canonical_name: str
    hero_id: str = ""
    campaign_id: str = ""
    train_loss: float | None = None
    val_loss: float | None = None
    learning_rate: float | None = None
    epoch: float | None = None
    accuracy: float | None = None
    perplexity: float | None = None
    training_file: str | None = None
    skill_name: str | None = None
    skill_level: int | None = None
    total_examples_trained: int | None = None
    size_bytes: int = Field(0, ge=0)
    has_optimizer: bool = False
    created_by: str = CREATED_BY

    @property
    def campaign(self) -> CampaignId:
        return CampaignId(self.hero_id, self.campaign_id)

    @property
    def key(self) -> str:
        """`<hero>/<campaign>/<step>`: its key in `checkpoint_ledger.json`."""
        return f"{self.campaign.key}/{self.step}"


@dataclass(frozen=True)
class CheckpointFacts:
    """What the trainer knows when it saved; the fields are those of `CheckpointRecord`, `extra` holds further ones. NaN and infinities
    are recorded as unknown."""

    train_loss: float | None = None
    val_loss: float | None = None
    learning_rate: float | None = None
    epoch: float | None = None
    accuracy: float | None = None
    perplexity: float | None = None
    training_file: str | None = None
    skill_name: str | None = None
    skill_level: int | None = None
    total_examples_trained: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_fields(self) -> dict[str, Any]:
        """Field name → value."""
        names = [name for name in self.__dataclass_fields__ if name != "extra"]
        return {**self.extra, **{name: finite(getattr(self, name)) for name in names}}


def finite(value: Any) -> Any:
    """`value`, or None for NaN and infinities, which have no JSON form."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_record(data: Any, origin: str) -> CheckpointRecord:
    """The record in a JSON value read from `origin`. Raises DamagedFileError naming every wrong field."""
    try:
        return CheckpointRecord.model_validate(data)
    except ValidationError as error:
        raise DamagedFileError(origin, wrong_fields(error), "a checkpoint record", "Restore it or delete it") from error


def wrong_fields(error: ValidationError) -> str:
    """`step: Input should be …; timestamp: Field required`."""
    return "; ".join(f"{'.'.join(str(part) for part in fault['loc']) or 'document'}: {fault['msg']}" for fault in error.errors())
