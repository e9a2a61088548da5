"""Which campaign is active: the symbolic link `campaigns/active`, else `control/active_campaign.json`. (specs/guild.md 2.1.5, 4.2, G2)

Both are replaced atomically, the document first and the link last, so that a kill in between leaves the old campaign active; the next
activation brings both into agreement.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from guild.campaigns.campaign import CampaignFolder, campaign_number, read_campaign
from guild.errors import RefusedError
from guild.places import Places
from modelwright.clock import Clock, stamp
from modelwright.errors import DamagedFileError, storage_error
from modelwright.files import fsync_directory, make_folder, read_json, write_json

LINK = "active"


class NoActiveCampaignError(RefusedError):
    """No campaign is selected."""

    def __init__(self) -> None:
        super().__init__('No campaign is active. Make one by `guild campaign new --hero H --name "…"`, or choose one by `… switch`.')


@dataclass(frozen=True)
class ActiveKey:
    """The active campaign's hero id and id. agree: link and document say the same."""

    hero_id: str
    campaign_id: str
    agree: bool = True

    @property
    def key(self) -> tuple[str, str]:
        return self.hero_id, self.campaign_id


def active_key(places: Places) -> ActiveKey | None:
    """The selected campaign, which may have gone since; None when none is selected. Raises DamagedFileError for a bad document."""
    linked, written = _linked(places), _written(places)
    chosen = linked or written
    return None if chosen is None else ActiveKey(*chosen, agree=linked == written)


def active_campaign(places: Places) -> CampaignFolder | None:
    """The active campaign; None when none is selected.

    Raises DamagedFileError or RefusedError when the selected campaign is not there: another one must be chosen by a person.
    """
    key = active_key(places)
    if key is None:
        return None
    folder = places.campaigns / key.hero_id / key.campaign_id
    if not folder.is_dir():
        raise RefusedError(
            f"The active campaign {key.hero_id}/{key.campaign_id} is not at {folder}. Put it back, or switch to another one."
        )
    return read_campaign(folder)


def require_active(places: Places) -> CampaignFolder:
    """The active campaign. Raises NoActiveCampaignError when none is selected, and what `active_campaign` raises."""
    found = active_campaign(places)
    if found is None:
        raise NoActiveCampaignError
    return found


def write_pointers(places: Places, hero_id: str, campaign_id: str, clock: Clock) -> None:
    """Make a campaign the active one. Call it under `campaigns_lock`."""
    make_folder(places.control)
    content = read_json(places.active_campaign) if places.active_campaign.is_file() else {}
    known = content if isinstance(content, dict) else {}
    relative = f"campaigns/{hero_id}/{campaign_id}"
    written = {"hero_id": hero_id, "campaign_id": campaign_id, "campaign_path": relative, "activated_at": stamp(clock.now())}
    write_json(places.active_campaign, {"schema_version": 1, **known, **written})
    replace_link(places.campaigns / LINK, f"{hero_id}/{campaign_id}")


def replace_link(link: Path, target: str) -> None:
    """Point a symbolic link at `target` by one rename. Raises StorageError; a real folder of that name is left alone."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.link")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(target)
        temporary.rename(link)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise storage_error(error, link, "replace the link") from error
    fsync_directory(link.parent)


def _linked(places: Places) -> tuple[str, str] | None:
    try:
        target = Path(os.readlink(places.campaigns / LINK))
    except OSError:  # no link, or something else of that name
        return None
    hero, name = target.parent.name, target.name
    folder = places.campaigns / hero / name
    return (hero, name) if hero and campaign_number(name) is not None and folder.is_dir() else None


def _written(places: Places) -> tuple[str, str] | None:
    if not places.active_campaign.is_file():
        return None
    content = read_json(places.active_campaign)
    hero, name = (content.get("hero_id"), content.get("campaign_id")) if isinstance(content, dict) else (None, None)
    if hero is None and name is None and isinstance(content, dict):
        return None  # the original empties it so
    if not isinstance(hero, str) or not isinstance(name, str) or campaign_number(name) is None or Path(hero).name != hero:
        expected = "an object with hero_id and campaign_id"
        raise DamagedFileError(places.active_campaign, "it names no campaign", expected, "Choose a campaign by `guild campaign switch`")
    return hero, name
