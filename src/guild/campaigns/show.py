"""What the campaign commands print: lines for people, plain dicts for programs. (specs/guild.md 3.4)"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.checkpoints import checkpoints_of
from guild.campaigns.heroes import Hero, vram_estimate_gb
from guild.campaigns.lineage import Ancestor

Key = tuple[str, str]
MILESTONES_SHOWN = 5


def campaign_json(folder: CampaignFolder) -> dict[str, Any]:
    """The document, and where it lies."""
    return {**folder.campaign.model_dump(mode="json"), "path": str(folder.path), "archived": folder.archived}


# --- list


def list_lines(campaigns: Sequence[CampaignFolder], heroes: Mapping[str, Hero], active: Key | None) -> list[str]:
    """Per hero its display name and id, per campaign id, name and step; `*` marks the active one; the total last."""
    lines = []
    width = max((len(folder.campaign.name) for folder in campaigns), default=0)
    for id in _hero_ids(campaigns, heroes):
        lines.append(f"{heroes[id].title} ({id})" if id in heroes else f"{id} (no profile)")
        own = [folder for folder in campaigns if folder.campaign.hero_id == id]
        for folder in own:
            campaign = folder.campaign
            mark = "*" if folder.key == active else " "
            lines.append(f"  {mark} {campaign.id}  {campaign.name:<{width}}  step {campaign.current_step:,}")
        if not own:
            lines.append("    no campaigns")
    return [*lines, f"Total: {len(campaigns)} campaign{'' if len(campaigns) == 1 else 's'}"]


def list_json(campaigns: Sequence[CampaignFolder], heroes: Mapping[str, Hero], active: Key | None) -> dict[str, Any]:
    """`heroes[{id, name, campaigns[…]}]` with `active` per campaign, and `total`."""
    by_hero = [
        {
            "id": id,
            "name": heroes[id].name if id in heroes else None,
            "campaigns": [{**campaign_json(f), "active": f.key == active} for f in campaigns if f.campaign.hero_id == id],
        }
        for id in _hero_ids(campaigns, heroes)
    ]
    return {"schema_version": 1, "heroes": by_hero, "total": len(campaigns)}


def _hero_ids(campaigns: Sequence[CampaignFolder], heroes: Mapping[str, Hero]) -> list[str]:
    return sorted({*heroes, *(folder.campaign.hero_id for folder in campaigns)})


# --- one campaign


def info_json(folder: CampaignFolder, hero: Hero) -> dict[str, Any]:
    """The campaign with its hero, its checkpoints and the optimizer that its overrides or its hero name."""
    checkpoints = checkpoints_of(folder)
    overrides = folder.campaign.config_overrides
    named = overrides.get("optimizer", (overrides.get("training_defaults") or {}).get("optimizer"))
    optimizer = named.get("type") if isinstance(named, Mapping) else named
    return {
        **campaign_json(folder),
        "hero": {"id": hero.id, "name": hero.name, "title": hero.title, "model": hero.model.hf_name, "size_b": hero.model.size_b},
        "optimizer": optimizer or hero.training_defaults.optimizer,
        "checkpoints": {"count": len(checkpoints), "latest": str(checkpoints[-1][1]) if checkpoints else None},
    }


def info_lines(data: Mapping[str, Any], *, full: bool) -> list[str]:
    """Hero, model, campaign, status, step, created, skills, overrides; with `full` also what `info` adds."""
    hero, parent = data["hero"], data["parent_campaign"]
    overrides = data["config_overrides"]
    rows = [
        ("Hero", f"{hero['title']} ({hero['id']})"),
        ("Model", f"{hero['model']} ({hero['size_b']:g}B)"),
        ("Campaign", data["name"]),
        ("ID", data["id"]),
        ("Status", data["status"]),
        ("Step", f"{data['current_step']:,}"),
        ("Created", data["created_at"] or "-"),
        ("Skills", ", ".join(data["skills_focus"]) or "-"),
        ("Overrides", json.dumps(overrides, ensure_ascii=False, sort_keys=True) if overrides else "-"),
    ]
    if not full:
        return _table(rows)
    latest = data["checkpoints"]["latest"]
    rows += [
        ("Description", data["description"] or "-"),
        ("Optimizer", data["optimizer"]),
        ("Examples", f"{data['total_examples']:,}"),
        (
            "Started from",
            f"{data['starting_checkpoint']} (step {data['starting_step']:,})" if data["starting_checkpoint"] else "base model",
        ),
        ("Parent", f"{parent['hero_id']}/{parent['campaign_id']} at step {parent['step']:,}" if parent else "-"),
        ("Checkpoints", f"{data['checkpoints']['count']:,}" + (f", latest {latest}" if latest else "")),
    ]
    milestones = data["milestones"][-MILESTONES_SHOWN:]
    lines = _table(rows)
    lines.append(f"Milestones (last {len(milestones)} of {len(data['milestones'])}):" if milestones else "Milestones: none")
    return lines + [f"  step {item['step']:,}  {item['date']}  {item['note']}" for item in milestones]


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows) + 1
    return [f"{name + ':':<{width}} {value}" for name, value in rows]


# --- lineage and heroes


def lineage_lines(chain: Sequence[Ancestor]) -> list[str]:
    """The root first, each generation indented further."""
    lines = []
    for depth, link in enumerate(chain):
        name = link.folder.campaign.name if link.folder else "no longer on disk"
        left = "" if link.step is None else f", left at step {link.step:,}"
        lines.append(f"{'  ' * depth}{link.hero_id}/{link.campaign_id}: {name}{left}")
    return lines


def lineage_json(chain: Sequence[Ancestor]) -> dict[str, Any]:
    """`ancestors[]`, root first, the campaign itself last."""
    links = [
        {
            "hero_id": link.hero_id,
            "campaign_id": link.campaign_id,
            "name": link.folder.campaign.name if link.folder else None,
            "on_disk": link.folder is not None,
            "left_at_step": link.step,
        }
        for link in chain
    ]
    return {"schema_version": 1, "ancestors": links}


def hero_lines(heroes: Mapping[str, Hero]) -> list[str]:
    """One block per hero."""
    lines = []
    for hero in heroes.values():
        how = hero.training_defaults
        lines += [
            f"{hero.title} ({hero.id})",
            f"  model {hero.model.hf_name} ({hero.model.size_b:g}B), {how.optimizer}, learning rate {how.learning_rate:g}, "
            f"batch {how.batch_size} x {how.gradient_accumulation}, {how.max_length} tokens, about {vram_estimate_gb(hero):.1f} GB",
        ]
        lines += [f"  {hero.description}"] if hero.description else []
    return lines


def heroes_json(heroes: Mapping[str, Hero]) -> dict[str, Any]:
    """`heroes[]` with `vram_estimate_gb` beside each profile."""
    found = [{**hero.model_dump(mode="json"), "vram_estimate_gb": round(vram_estimate_gb(hero), 3)} for hero in heroes.values()]
    return {"schema_version": 1, "heroes": found}
