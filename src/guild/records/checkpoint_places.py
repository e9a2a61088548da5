"""Where checkpoints lie, and which campaign one belongs to. (specs/guild.md 1.1, 2.3.2)"""

from __future__ import annotations

from pathlib import Path

from guild.places import Places
from guild.records.checkpoint_marks import checkpoint_folders
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId, CheckpointRecord
from guild.records.status_documents import read_document
from modelwright.errors import ModelwrightError

CHECKPOINT_FOLDERS = (
    "current_model",
    "campaigns/*/*/checkpoints",
    "campaigns/*/*/runs/*/checkpoints",
    "campaigns/archive/*/*/checkpoints",
    "campaigns/archive/*/*/runs/*/checkpoints",
)
"""Patterns below the base directory; a checkpoint lies directly in one of these folders."""
ARCHIVED = "-archived"


def all_checkpoints(places: Places) -> list[Path]:
    """Every folder with a checkpoint's name in the places where checkpoints lie, whole or not, each once under its resolved path."""
    found = {
        path.resolve() for pattern in CHECKPOINT_FOLDERS for folder in places.base.glob(pattern) for path in checkpoint_folders(folder)
    }
    return sorted(found)


def campaign_folders(places: Places) -> dict[CampaignId, Path]:
    """Every campaign on disk, the archived ones under the id that they had."""
    found: dict[CampaignId, Path] = {}
    for document in sorted([*places.campaigns.glob("*/*/campaign.json"), *places.archive.glob("*/*/campaign.json")]):
        campaign = _campaign_at(places, document.parent.resolve())
        if campaign is not None:
            found.setdefault(campaign, document.parent)
    return found


def campaign_of(places: Places, path: Path, record: CheckpointRecord | None = None) -> CampaignId:
    """The campaign of the checkpoint at `path`: the one whose folder it lies in, else the one its record names, else `loose_owner`."""
    located = _campaign_at(places, path.resolve())
    if located is not None:
        return located
    if record is not None and record.campaign != NO_CAMPAIGN:
        return record.campaign
    return loose_owner(places)


def loose_owner(places: Places) -> CampaignId:
    """The campaign of checkpoints that lie in no campaign and name none (the original's `current_model/`): the oldest, by `created_at`.

    `NO_CAMPAIGN` while there is none.
    """
    folders = campaign_folders(places)
    return min(folders, key=lambda campaign: (_created(folders[campaign]), campaign), default=NO_CAMPAIGN)


def _created(folder: Path) -> str:
    try:
        document = read_document(folder / "campaign.json")
    except ModelwrightError:
        return "~"  # a campaign that cannot be read is never older than one that can; its own commands name the damage
    return str(document.get("created_at") or "~") if isinstance(document, dict) else "~"


def _campaign_at(places: Places, path: Path) -> CampaignId | None:
    root = places.campaigns.resolve()
    if not path.is_relative_to(root):
        return None
    parts = path.relative_to(root).parts
    if parts[:1] == (places.archive.name,):
        return CampaignId(parts[1], parts[2].removesuffix(ARCHIVED)) if len(parts) >= 3 else None
    return CampaignId(parts[0], parts[1]) if len(parts) >= 2 else None
