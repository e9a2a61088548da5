"""Which model a campaign's training begins with, and why. (specs/guild.md 2.1.1 start step 3, 10.1 no. 1, G1)

In this order, and the first that is there is taken:

1. the newest whole checkpoint of the campaign itself;
2. the checkpoint that it was opened from;
3. `current_model/`: the newest whole checkpoint in it that is this campaign's, else the model that lies directly in it;
4. the newest of `snapshots/20*` that is this campaign's;
5. the base model of its hero.

The original began with `current_model/` whatever the campaign said. Here that folder and the snapshots serve one campaign each: what
says whose it is belongs to that one, what does not belongs to the oldest campaign, as in the ledger. A model of another architecture or
vocabulary than the hero's, or one that is not whole, is passed over with a sentence. Models are read where they lie; nothing here
writes, and nothing is copied into `current_model/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.checkpoints import Checkpoint, check_fits, locate
from guild.campaigns.heroes import Hero
from guild.errors import RefusedError
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_marks import (
    SIDECAR_NAME,
    TRAINER_STATE,
    checkpoint_folders,
    latest_resumable,
    model_faults,
    usable_checkpoint,
)
from guild.records.checkpoint_places import campaign_of, loose_owner
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId, CheckpointRecord, parse_record
from guild.records.status_documents import read_document
from modelwright.errors import MissingFileError, ModelwrightError
from modelwright.files import read_json

Source = Literal["campaign", "opened from", "current_model", "snapshot", "base"]
SNAPSHOTS = "20*"


@dataclass(frozen=True)
class StartModel:
    """What training begins with. path: a folder, None for the base model. step: optimizer steps of the campaign in it. why: words for
    people. passed_over: a sentence for each candidate before it that cannot serve."""

    source: Source
    path: Path | None
    step: int
    why: str
    passed_over: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """One line: what, from which step, and why."""
        what = "the hero's base model" if self.path is None else str(self.path)
        return f"Its model: {what}, step {self.step:,}, {self.why}."


def start_model(places: Places, folder: CampaignFolder, hero: Hero, overrides: Mapping[str, Any] | None = None) -> StartModel:
    """What the next training of a campaign begins with. overrides: of the campaign's settings, by default its own. Raises StorageError."""
    newest = latest_resumable(folder.checkpoints)
    if newest.path is not None:
        return StartModel("campaign", newest.path, newest.step or 0, "the newest checkpoint of the campaign", newest.skipped)
    named = folder.campaign.starting_checkpoint
    if named:
        path, step = locate(places, named), folder.campaign.starting_step
        return StartModel("opened from", path, step, "from which the campaign was opened", newest.skipped)
    found = house_model(places, folder, hero, overrides)
    skipped = (*newest.skipped, *found.passed_over)
    return StartModel(found.source, found.path, found.step, found.why, skipped)


def house_model(places: Places, folder: CampaignFolder, hero: Hero, overrides: Mapping[str, Any] | None = None) -> StartModel:
    """What the house holds for a campaign that has no checkpoint and was opened from none: `current_model/`, a snapshot, or nothing, which
    is the base model."""
    passed_over: list[str] = []
    settings = folder.campaign.config_overrides if overrides is None else overrides
    for candidate in _candidates(places, folder):
        assert candidate.path is not None
        faults = _faults(candidate, hero, settings)
        if not faults:
            return StartModel(candidate.source, candidate.path, candidate.step, candidate.why, tuple(passed_over))
        passed_over += faults
    why = "since the campaign has no checkpoint and the house holds none for it"
    return StartModel("base", None, 0, why, tuple(passed_over))


def _candidates(places: Places, folder: CampaignFolder) -> Iterator[StartModel]:
    """What is this campaign's in `current_model/` and `snapshots/`, the best first."""
    me, current = CampaignId(*folder.key), places.current_model
    for path in sorted(checkpoint_folders(current), key=lambda one: (checkpoint_step(one.name) or 0, one.name), reverse=True):
        if campaign_of(places, path, _record(path)) == me:
            step = checkpoint_step(path.name) or 0
            yield StartModel("current_model", path, step, "the newest of this campaign in current_model/")
    if (current / "config.json").is_file() and _owner(places, current) == me:
        yield StartModel("current_model", current, _step(current, folder), "the model in current_model/")
    for path in sorted(places.snapshots.glob(SNAPSHOTS), reverse=True):
        if (path / "config.json").is_file() and _owner(places, path) == me:
            yield StartModel("snapshot", path, _step(path, folder), f"the snapshot of {path.name}")


def _faults(candidate: StartModel, hero: Hero, overrides: Mapping[str, Any]) -> list[str]:
    """Why a candidate cannot serve; empty when it can."""
    path = candidate.path
    assert path is not None
    faults = model_faults(path) if checkpoint_step(path.name) is None else usable_checkpoint(path)
    if faults:
        return faults
    try:
        check_fits(Checkpoint(path, candidate.step, str(path)), hero, overrides)
    except RefusedError as error:
        return [str(error)]
    return []


def _owner(places: Places, path: Path) -> CampaignId:
    """The campaign of a model that lies in no campaign: the one that its record names, else the oldest."""
    record = _record(path)
    return record.campaign if record is not None and record.campaign != NO_CAMPAIGN else loose_owner(places)


def _record(path: Path) -> CheckpointRecord | None:
    """The ledger's record beside a model; None where there is none, or one that cannot be read: its own commands name the damage."""
    file = path / SIDECAR_NAME
    try:
        return parse_record(read_document(file), str(file))
    except ModelwrightError:
        return None


def _step(path: Path, folder: CampaignFolder) -> int:
    """The step of a model whose folder does not name it: as its record or its trainer's state says, else where the campaign is."""
    record = _record(path)
    if record is not None:
        return record.step
    try:
        state = read_json(path / TRAINER_STATE)
    except MissingFileError:
        return folder.campaign.current_step
    found = state.get("global_step") if isinstance(state, dict) else None
    return found if isinstance(found, int) else folder.campaign.current_step
