"""Where a campaign came from, and campaigns that come from it: ancestors, root first; children by a new base or a new context length.

(specs/guild.md 2.3.2, 3.4.) Base model and context length are locked within a campaign, so changing one opens a child.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.campaigns.campaign import CampaignFolder, Parent
from guild.campaigns.checkpoints import find_checkpoint
from guild.campaigns.effective_config import build_effective
from guild.campaigns.layers import deep_merge
from guild.campaigns.store import add_milestone, create_campaign, find_campaign
from guild.errors import RefusedError, UnknownNameError
from guild.places import Places
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import UsageError


@dataclass(frozen=True)
class Ancestor:
    """One link of the chain. folder: None when the campaign is no longer on disk. step: where its child left it, None for the campaign
    that was asked about."""

    hero_id: str
    campaign_id: str
    folder: CampaignFolder | None
    step: int | None = None


def lineage(places: Places, folder: CampaignFolder) -> list[Ancestor]:
    """The chain of ancestors, root first, the campaign itself last. Raises RefusedError when the parents form a circle."""
    chain = [Ancestor(*folder.key, folder)]
    seen = {folder.key}
    current: CampaignFolder | None = folder
    while current is not None and (parent := current.campaign.parent_campaign) is not None:
        key = (parent.hero_id, parent.campaign_id)
        if key in seen:
            raise RefusedError(f"The parents of {'/'.join(folder.key)} form a circle at {'/'.join(key)}. Correct parent_campaign there.")
        seen.add(key)
        try:
            current = find_campaign(places, *key)
        except UnknownNameError:
            current = None
        chain.append(Ancestor(*key, current, parent.step))
    return chain[::-1]


def open_child(
    places: Places,
    parent: CampaignFolder,
    name: str,
    checkpoint: str | Path,
    *,
    hero_id: str | None = None,
    max_length: int | None = None,
    context_length: int | None = None,
    base_model: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    skills: Iterable[str] | None = None,
    note: str = "",
    clock: Clock = SYSTEM_CLOCK,
) -> CampaignFolder:
    """A campaign that goes on from another one's work under a new base model, another hero, or a new length; it is not activated.

    checkpoint: the folder it starts from, for example a merged model after a context stretch, named `checkpoint-<step>`. max_length,
    context_length: tokens. base_model: hub id or folder. The parent's overrides are inherited where they are not
    replaced, and not at all by another hero. Both
    documents remember it: the child by `parent_campaign`, the parent by a milestone. Raises UsageError when nothing that is locked
    changes, and what `create_campaign` and `build_effective` raise; nothing is made then.
    """
    changed = {"max_length": max_length, "context_length": context_length, "base_model": base_model}
    chosen = {key: value for key, value in changed.items() if value is not None}
    if not chosen and hero_id in (None, parent.campaign.hero_id):
        raise UsageError(
            "child campaign: found neither a new base model, hero nor length; allowed: at least one. Else train on in the parent."
        )
    start = find_checkpoint(places, checkpoint)
    hero = hero_id or parent.campaign.hero_id
    inherited = parent.campaign.config_overrides if hero == parent.campaign.hero_id else {}
    wanted = deep_merge(inherited, {**(overrides or {}), **chosen})
    trial = parent.campaign.model_copy(update={"hero_id": hero, "config_overrides": wanted, "starting_checkpoint": start.stored})
    build_effective(places, CampaignFolder(parent.path, trial))  # every fault, before anything is made
    link = Parent(hero_id=parent.campaign.hero_id, campaign_id=parent.campaign.id, checkpoint=start.stored, step=start.step)
    child = create_campaign(
        places,
        hero,
        name,
        description=note,
        checkpoint=start,
        parent=link,
        skills=parent.campaign.skills_focus if skills is None else skills,
        config_overrides=wanted,
        clock=clock,
    )
    what = ", ".join(f"{key} {value}" for key, value in chosen.items()) or f"hero {hero}"
    if not parent.archived:
        metrics = {"child_hero_id": child.campaign.hero_id, "child_campaign_id": child.campaign.id}
        add_milestone(places, parent, start.step, note or f"Child campaign {'/'.join(child.key)} opened: {what}", metrics, clock=clock)
    return child
