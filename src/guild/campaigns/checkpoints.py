"""What a campaign starts from: a checkpoint folder, its step, the campaign it belongs to, and whether it fits the hero.

(specs/guild.md 2.3.2.) A checkpoint is stored relative to the base directory, so that the house can be moved; one whose campaign was
archived since is found in the archive.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.campaigns.campaign import CampaignFolder, Parent, archived_id, campaign_number
from guild.campaigns.heroes import Hero
from guild.errors import RefusedError
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_places import all_checkpoints
from modelwright.errors import UsageError
from modelwright.files import read_json


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder. path: absolute. stored: what documents keep. parent: the campaign it belongs to, when it lies in one."""

    path: Path
    step: int
    stored: str
    parent: Parent | None = None


def find_checkpoint(places: Places, named: str | Path) -> Checkpoint:
    """The checkpoint that `named` means: a path, absolute or below the working or the base directory.

    Raises UsageError when there is no such folder, or when its name holds no step.
    """
    path = locate(places, str(named)) or _existing([Path.cwd() / Path(named).expanduser()])
    if path is None:
        raise UsageError(f"--checkpoint: found {named}, which is no folder; allowed: the folder of a checkpoint.")
    path = _behind_link(places, path)
    step = checkpoint_step(path.name)
    if step is None:
        raise UsageError(
            f"--checkpoint: found {path.name!r}; allowed: a folder named checkpoint-<step> or checkpoint-<step>-<date>-<time>."
        )
    stored = _stored(places, path)
    return Checkpoint(path, step, stored, _parent(places, path, stored, step))


def locate(places: Places, stored: str) -> Path | None:
    """The folder that a stored path means now, archived campaigns included; None when it is nowhere. The working directory has no say."""
    given = Path(stored).expanduser()
    candidates = [places.base / given]
    try:
        parts = (given.relative_to(places.base) if given.is_absolute() else given).parts
    except ValueError:
        parts = ()
    if len(parts) > 3 and parts[0] == "campaigns" and parts[1] != "archive":
        candidates.append(places.archive.joinpath(parts[1], f"{parts[2]}-archived", *parts[3:]))
    return _existing(candidates)


def checkpoints_of(campaign: CampaignFolder) -> list[tuple[int, Path]]:
    """(step, folder) of a campaign's checkpoints, each once, in the order of steps compared as numbers; plain and canonical names alike."""
    found = {path.resolve(): step for folder in campaign.checkpoint_folders for step, path in _checkpoints_in(folder)}
    return sorted((step, path) for path, step in found.items())


def any_checkpoint(places: Places) -> Path | None:
    """Some checkpoint of the installation, in a campaign or in `current_model`; None while there is none. (specs/guild.md G3)"""
    return next(iter(all_checkpoints(places)), None)


def _checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    return [(step, path) for path in folder.iterdir() if (step := checkpoint_step(path.name)) is not None and path.is_dir()]


def check_fits(checkpoint: Checkpoint, hero: Hero, overrides: Mapping[str, Any]) -> None:
    """Raise RefusedError when the checkpoint's `config.json` tells of another architecture or vocabulary than the campaign's model."""
    path = checkpoint.path / "config.json"
    if not path.is_file():
        return  # an adapter, or an adopted checkpoint without one: loading it tells
    config = read_json(path)
    if not isinstance(config, dict):
        return
    architecture = overrides.get("model_architecture", hero.model.architecture)
    vocabulary = overrides.get("vocab_size", hero.model.vocab_size)
    architectures = config.get("architectures")
    wrong = []
    if isinstance(architectures, list) and architectures and architecture not in architectures:
        wrong.append(f"architecture: found {', '.join(map(str, architectures))}; allowed: {architecture}")
    if isinstance(config.get("vocab_size"), int) and config["vocab_size"] != vocabulary:
        wrong.append(f"vocabulary: found {config['vocab_size']} tokens; allowed: {vocabulary}")
    if wrong:
        raise RefusedError(f"{checkpoint.path} does not fit hero {hero.id}. {'. '.join(wrong)}. Choose a checkpoint of this hero's model.")


def _existing(candidates: Iterable[Path]) -> Path | None:
    return next((Path(os.path.normpath(candidate)) for candidate in candidates if candidate.is_dir()), None)


def _behind_link(places: Places, path: Path) -> Path:
    """`campaigns/active/…` as the campaign's own path, which stays when another one is activated."""
    link = places.campaigns / "active"
    return places.campaigns / os.readlink(link) / path.relative_to(link) if link.is_symlink() and path.is_relative_to(link) else path


def _stored(places: Places, path: Path) -> str:
    return str(path.relative_to(places.base)) if path.is_relative_to(places.base) else str(path)


def _parent(places: Places, path: Path, stored: str, step: int) -> Parent | None:
    if not path.is_relative_to(places.campaigns):
        return None
    parts = path.relative_to(places.campaigns).parts
    if parts[0] == "archive":
        parts = parts[1:]
    if len(parts) < 3 or campaign_number(parts[1]) is None:
        return None
    return Parent(hero_id=parts[0], campaign_id=archived_id(parts[1]) or parts[1], checkpoint=stored, step=step)
