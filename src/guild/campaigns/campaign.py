"""The campaign document `campaign.json`, its folder, its id, and the lock under which campaigns change. (specs/guild.md 2.3.2, 4.2)

A document keeps fields that this version does not know. Reading an existing layout writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from guild.places import Places
from modelwright.clock import stamp
from modelwright.config import Layer, resolve
from modelwright.errors import DamagedFileError
from modelwright.files import make_folder, read_json, write_json
from modelwright.lock import WriterLock

DOCUMENT = "campaign.json"
SUBFOLDERS = ("checkpoints", "status", "logs")
SCHEMA_VERSION = 1
LOCK_PATIENCE_S = 30.0
"""How long a command waits for another one that changes campaigns; each holds the lock for milliseconds."""

Status = Literal["active", "paused", "archived", "completed"]
_ID = re.compile(r"campaign-(\d{3,})")
_ARCHIVED = re.compile(r"(campaign-\d{3,})-archived")
_TOLERANT = ConfigDict(frozen=True, extra="allow")


class Parent(BaseModel):
    """Where a campaign came from. checkpoint: relative to the base directory when it lies below it."""

    model_config = _TOLERANT

    hero_id: str
    campaign_id: str
    checkpoint: str = ""
    step: int = 0


class Milestone(BaseModel):
    """A remembered moment of a campaign."""

    model_config = _TOLERANT

    step: int
    note: str = ""
    date: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)


class Campaign(BaseModel):
    """What `campaign.json` holds. Times are ISO 8601."""

    model_config = _TOLERANT

    schema_version: int = SCHEMA_VERSION
    id: str
    hero_id: str
    name: str
    description: str = ""
    created_at: str = ""
    status: Status = "active"
    starting_checkpoint: str | None = None
    starting_step: int = 0
    current_step: int = 0
    total_examples: int = 0
    skills_focus: tuple[str, ...] = ()
    config_overrides: dict[str, Any] = Field(default_factory=dict)
    milestones: tuple[Milestone, ...] = ()
    parent_campaign: Parent | None = None
    archived_at: str | None = None


@dataclass(frozen=True)
class CampaignFolder:
    """A campaign and where it lies. archived: below `campaigns/archive`."""

    path: Path
    campaign: Campaign
    archived: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """(hero id, campaign id), which no two campaigns share."""
        return self.campaign.hero_id, self.campaign.id

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def checkpoint_folders(self) -> tuple[Path, ...]:
        """Folders that checkpoints of this campaign lie in: its own, and those of its runs."""
        return (self.checkpoints, *sorted(self.path.glob("runs/*/checkpoints")))

    @property
    def status(self) -> Path:
        return self.path / "status"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lock_file(self) -> Path:
        return self.path / ".config_lock.json"


def campaign_number(name: str) -> int | None:
    """7 for `campaign-007` and for `campaign-007-archived`; None for any other name."""
    match = _ID.fullmatch(name.removesuffix("-archived"))
    return int(match[1]) if match else None


def campaign_id(number: int) -> str:
    """`campaign-007`."""
    return f"campaign-{number:03d}"


def archived_id(folder_name: str) -> str | None:
    """`campaign-007` for the archive's folder `campaign-007-archived`; None for any other name."""
    match = _ARCHIVED.fullmatch(folder_name)
    return match[1] if match else None


def read_campaign(path: Path, *, archived: bool = False) -> CampaignFolder:
    """The campaign in a folder. Raises MissingFileError, DamagedFileError, or ConfigError with every fault."""
    content = _content(path / DOCUMENT)
    return CampaignFolder(path, resolve(Campaign, [Layer(DOCUMENT, content)]).value, archived)


def update_campaign(path: Path, changes: dict[str, Any]) -> CampaignFolder:
    """Set fields of a campaign's document and keep all others, known or not. Call it under `campaigns_lock`."""
    content = {**_content(path / DOCUMENT), **changes}
    content.setdefault("schema_version", SCHEMA_VERSION)
    checked = resolve(Campaign, [Layer(DOCUMENT, content)]).value
    write_json(path / DOCUMENT, content)
    return CampaignFolder(path, checked)


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"found a {type(content).__name__}", "an object with id, hero_id and name")
    return content


@contextmanager
def campaigns_lock(places: Places, doing: str) -> Iterator[None]:
    """Hold the one lock under which campaigns, their pointers and `config.json` change. Not re-entrant.

    doing: a few words, shown to whoever waits in vain. Raises RunLockedError after `LOCK_PATIENCE_S`.
    """
    lock = WriterLock(make_folder(places.campaigns), command=("guild", *doing.split()), patience_s=LOCK_PATIENCE_S)
    try:
        yield
    finally:
        lock.release()


def empty_status(campaign: Campaign, moment: datetime) -> dict[str, dict[str, Any]]:
    """File name → content of the status files a new campaign begins with. (specs/guild.md 3.4, 4.5, 4.7 to 4.9)

    Index documents are objects, never lists. (10.1 no. 5)
    """
    now = stamp(moment)
    return {
        "training_status.json": {
            "schema_version": 1, "status": "idle", "current_step": campaign.current_step, "total_steps": 0, "epoch": 0,
            "loss": None, "learning_rate": None, "current_file": None, "timestamp": now,
        },
        "curriculum_state.json": {"schema_version": 1, "skills": {}, "active_skill": None, "started_at": now, "last_updated": now},
        "checkpoint_ledger.json": {"schema_version": 1, "version": "1.0.0", "updated_at": now, "checkpoint_count": 0, "checkpoints": {}},
        "eval_results_history.json": {"schema_version": 1, "updated_at": now, "count": 0, "results": []},
        "evaluation_ledger.json": {"schema_version": 1, "version": "1.0.0", "updated_at": now, "count": 0, "evaluations": []},
    }  # fmt: skip


STATUS_FILES = ("training_status", "curriculum_state", "checkpoint_ledger", "eval_results_history", "evaluation_ledger")
"""The status documents that belong to a campaign; the global names show those of the active one. (specs/guild.md 2.3.2)"""
