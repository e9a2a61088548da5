"""Making, listing, finding and archiving campaigns. (specs/guild.md 2.3.2, 3.4)

The folders are the truth. A campaign appears whole, by one rename; its id is counted up in a file that outlives every archive, so that
none is used twice; all changes happen under one lock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guild.campaigns.campaign import (
    DOCUMENT,
    SUBFOLDERS,
    Campaign,
    CampaignFolder,
    Parent,
    archived_id,
    campaign_id,
    campaign_number,
    campaigns_lock,
    empty_status,
    read_campaign,
    update_campaign,
)
from guild.campaigns.checkpoints import Checkpoint, check_fits
from guild.campaigns.heroes import RESERVED_IDS, get_hero, read_heroes
from guild.campaigns.pointer import active_key
from guild.errors import RefusedError, UnknownCampaignError, UnknownHeroError
from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.states import HELD
from guild.skills.names import ALIASES, resolve
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import ConfigError, DamagedFileError, Fault, ModelwrightError, UsageError, storage_error
from modelwright.files import fsync_directory, make_folder, read_json, write_json
from modelwright.identity import liveness

COUNTER = ".campaign_ids.json"
_STAGING = ".new-campaign"


@dataclass(frozen=True)
class CampaignList:
    """Campaigns by hero and id. faults: folder → what is wrong with its document."""

    campaigns: list[CampaignFolder] = field(default_factory=list)
    faults: dict[Path, ModelwrightError] = field(default_factory=dict)


def list_campaigns(places: Places, hero_id: str | None = None, *, archived: bool = False) -> CampaignList:
    """Every campaign, or those of one hero; with `archived` those of the archive instead. A broken one never hides the others."""
    found = CampaignList()
    root = places.archive if archived else places.campaigns
    for folder in _campaign_folders(root, hero_id, archived=archived):
        try:
            found.campaigns.append(_read(folder, archived=archived))
        except ModelwrightError as error:
            found.faults[folder] = error
    return found


def find_campaign(places: Places, hero_id: str, id: str) -> CampaignFolder:
    """A campaign by hero and id, archived ones included. Raises UnknownHeroError or UnknownCampaignError with the known ids."""
    live = places.campaigns / hero_id
    if Path(hero_id).name == hero_id and campaign_number(id) is not None and hero_id not in RESERVED_IDS:
        if (live / id).is_dir():
            return _read(live / id)
        if (places.archive / hero_id / f"{id}-archived").is_dir():
            return _read(places.archive / hero_id / f"{id}-archived", archived=True)
    heroes = set(read_heroes(places).heroes) | {folder.name for folder in _hero_folders(places.campaigns)}
    if hero_id not in heroes:
        raise UnknownHeroError(hero_id, sorted(heroes))
    raise UnknownCampaignError(id, [folder.name for folder in _campaign_folders(places.campaigns, hero_id)], where=f"hero {hero_id}")


def create_campaign(
    places: Places,
    hero_id: str,
    name: str,
    *,
    description: str = "",
    checkpoint: Checkpoint | None = None,
    parent: Parent | None = None,
    skills: Iterable[str] = (),
    config_overrides: Mapping[str, Any] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> CampaignFolder:
    """Make a campaign with its folders and empty status files; it is not activated.

    checkpoint: what it starts from; its step becomes `starting_step`, its campaign the parent unless `parent` is given. Raises
    UnknownHeroError, UnknownSkillError, UsageError, RefusedError when the checkpoint is of another model.
    """
    hero = get_hero(places, hero_id)
    if not name.strip():
        raise UsageError("--name: found nothing; allowed: a name for people.")
    focus = tuple(dict.fromkeys(resolve(skill, known_skills(places)) for skill in skills))
    overrides = dict(config_overrides or {})
    if checkpoint is not None:
        check_fits(checkpoint, hero, overrides)
        parent = parent or checkpoint.parent
    with campaigns_lock(places, "campaign new"):
        folder = make_folder(places.campaigns / hero.id)
        number = _next_number(places, hero.id)
        # The counter goes first: a kill after this line wastes a number, and never gives one out twice.
        write_json(folder / COUNTER, {**_counter(folder), "schema_version": 1, "last": number})
        step = checkpoint.step if checkpoint is not None else 0
        campaign = Campaign(
            id=campaign_id(number),
            hero_id=hero.id,
            name=name.strip(),
            description=description,
            created_at=stamp(clock.now()),
            status="paused",
            starting_checkpoint=None if checkpoint is None else checkpoint.stored,
            starting_step=step,
            current_step=step,
            skills_focus=focus,
            config_overrides=overrides,
            parent_campaign=parent,
        )
        return _appear(folder, campaign, clock)


def archive_campaign(places: Places, hero_id: str, id: str, *, clock: Clock = SYSTEM_CLOCK) -> CampaignFolder:
    """Move a campaign to the archive. Archiving again after a kill in between completes it.

    Raises UnknownCampaignError, RefusedError for the active campaign, for one that is archived already, for one in which a living trainer
    holds a file, although another campaign is active by now.
    """
    with campaigns_lock(places, "campaign archive"):
        found = find_campaign(places, hero_id, id)
        if found.archived:
            raise RefusedError(f"Campaign {hero_id}/{id} is archived already, at {found.path}.")
        active = active_key(places)
        if active is not None and active.key == found.key:
            raise RefusedError(f"Campaign {hero_id}/{id} is active and cannot be archived. Switch to another one first.")
        held = _held_in(places, found)
        if held:
            raise RefusedError(f"Campaign {hero_id}/{id}: {held} is being trained in it. Stop that first: guild control stop.")
        at = found.campaign.archived_at or stamp(clock.now())
        update_campaign(found.path, {"status": "archived", "archived_at": at})
        target = make_folder(places.archive / hero_id) / f"{id}-archived"
        _rename(found.path, target)
        return _read(target, archived=True)


def _held_in(places: Places, folder: CampaignFolder) -> str:
    """The name of a file that a process that may live trains in a campaign, or ""."""
    if not places.database.exists():
        return ""
    with open_guild(places, readonly=True) as db:
        held = jobs.list_jobs(db, kinds=("train_file",), states=HELD).jobs
    mine = (job for job in held if job.campaign == "/".join(folder.key) and job.owner is not None and liveness(job.owner) != "dead")
    return next((job.name or f"job {job.id}" for job in mine), "")


def known_skills(places: Places) -> tuple[str, ...]:
    """Ids of the built-in skills and of those in `configs/skills`."""
    return tuple(sorted(set(ALIASES.values()) | {path.stem for path in places.skills.glob("*.yaml")}))


def add_milestone(
    places: Places, folder: CampaignFolder, step: int, note: str, metrics: Mapping[str, Any] | None = None, *, clock: Clock = SYSTEM_CLOCK
) -> CampaignFolder:
    """Remember a moment in the campaign's document."""
    entry = {"step": step, "note": note, "date": stamp(clock.now()), "metrics": dict(metrics or {})}
    with campaigns_lock(places, "campaign milestone"):
        now = read_campaign(folder.path).campaign
        return update_campaign(folder.path, {"milestones": [*(item.model_dump() for item in now.milestones), entry]})


def record_progress(places: Places, folder: CampaignFolder, *, current_step: int, total_examples: int) -> CampaignFolder:
    """Write how far the campaign is: global step, and rows trained so far."""
    with campaigns_lock(places, "campaign progress"):
        return update_campaign(folder.path, {"current_step": current_step, "total_examples": total_examples})


# --- folders


def _appear(folder: Path, campaign: Campaign, clock: Clock) -> CampaignFolder:
    """Build the campaign under a hidden name and rename it into place."""
    staging = folder.parent / _STAGING  # one name is enough: this process holds the lock, so what lies there is of one that died
    if staging.exists():
        shutil.rmtree(staging)
    for name in SUBFOLDERS:
        make_folder(staging / name)
    for name, content in empty_status(campaign, clock.now()).items():
        write_json(staging / "status" / name, content)
    write_json(staging / DOCUMENT, campaign.model_dump(mode="json"))
    fsync_directory(staging)
    target = folder / campaign.id
    _rename(staging, target)
    return CampaignFolder(target, campaign)


def _rename(source: Path, target: Path) -> None:
    if target.exists():
        raise RefusedError(f"{target} is there already. Move it away.")
    try:
        os.rename(source, target)
    except OSError as error:
        raise storage_error(error, target, "create") from error
    for folder in dict.fromkeys((target.parent, source.parent)):
        fsync_directory(folder)


def _next_number(places: Places, hero_id: str) -> int:
    used = [_last(places.campaigns / hero_id)]
    for folder in (places.campaigns / hero_id, places.archive / hero_id):
        used += [number for path in _entries(folder) if (number := campaign_number(path.name)) is not None]
    active = active_key(places)
    if active is not None and active.hero_id == hero_id:
        used.append(campaign_number(active.campaign_id) or 0)
    return max(used) + 1


def _last(folder: Path) -> int:
    last = _counter(folder).get("last", 0)
    if isinstance(last, bool) or not isinstance(last, int) or last < 0:
        raise DamagedFileError(folder / COUNTER, f"last: found {last!r}", "the greatest campaign number so far, a whole number")
    return last


def _counter(folder: Path) -> dict[str, Any]:
    path = folder / COUNTER
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"found a {type(content).__name__}", "an object with last")
    return content


def _read(folder: Path, *, archived: bool = False) -> CampaignFolder:
    """The campaign of a folder, which must be the one its place says."""
    found = read_campaign(folder, archived=archived)
    expected = (folder.parent.name, archived_id(folder.name) if archived else folder.name)
    faults = [
        Fault(f"{folder}/{DOCUMENT} {key}", repr(value), repr(wanted), "correct it, or move the folder to where it belongs")
        for key, value, wanted in zip(("hero_id", "id"), found.key, expected, strict=True)
        if value != wanted
    ]
    if faults:
        raise ConfigError(faults)
    return found


def _hero_folders(root: Path) -> Iterator[Path]:
    for path in _entries(root):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".") and path.name not in RESERVED_IDS:
            yield path


def _campaign_folders(root: Path, hero_id: str | None, *, archived: bool = False) -> Iterator[Path]:
    for hero in _hero_folders(root):
        if hero_id is not None and hero.name != hero_id:
            continue
        for path in _entries(hero):
            fits = archived_id(path.name) is not None if archived else campaign_number(path.name) is not None
            if fits and path.is_dir() and (archived or not path.name.endswith("-archived")):
                yield path


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
