"""Which checkpoint a session asks, where, and under which prompt. (specs/guild.md 6.4 steps 1 and 2, 5.4, 8.2)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath

from guild.campaigns.effective_config import build_effective
from guild.campaigns.pointer import active_campaign
from guild.evaluation.api import ServedModel, api_key, choose_model, served_models
from guild.evaluation.prompting import plain_prompt, profile_prompt, prompt_day
from guild.hosts.registry import load_registry
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records import ledger
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId
from guild.training.profiles import get_profile
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.errors import UsageError

SERVICE = "inference"


@dataclass(frozen=True)
class Partner:
    """The model to ask. url: of the inference host. model: its name there. checkpoint: the checkpoint's name, the model's when it is none.
    step: None when it is no checkpoint. campaign: the active one. profile, system_prompt: as that campaign trains."""

    url: str
    model: str
    checkpoint: str
    step: int | None
    campaign: CampaignId
    profile: str
    system_prompt: str


def find_partner(db: Database, places: Places, *, url: str | None, model: str | None, checkpoint: str | None, clock: Clock) -> Partner:
    """Ask the inference host what it serves, and choose. url: instead of the registry's. model: its name there. checkpoint: its folder's
    name or its step.

    Raises ApiError when the host does not answer, UsageError when what is asked for is not served or leaves open which one.
    """
    address = url or load_registry(places).get_service_url(SERVICE)
    key = api_key()
    chosen = _of_checkpoint(served_models(address, key), address, checkpoint) if checkpoint and not model else None
    chosen = chosen or choose_model(address, key, model)
    if checkpoint and not _is(chosen, checkpoint):
        raise UsageError(f"--checkpoint: found {checkpoint!r}; allowed: {_names([chosen])}, which the model {chosen.id} is.")
    folder = active_campaign(places)
    campaign = NO_CAMPAIGN if folder is None else CampaignId(*folder.key)
    profile = "none" if folder is None else build_effective(places, folder).value.profile
    day = _day(db, campaign, chosen.step, clock.now().date())
    prompt = plain_prompt(day) if folder is None else profile_prompt(get_profile(profile), day)
    return Partner(address, chosen.id, _checkpoint_name(chosen), chosen.step, campaign, profile, prompt)


def _of_checkpoint(models: Sequence[ServedModel], url: str, wanted: str) -> ServedModel:
    found = next((model for model in models if _is(model, wanted)), None)
    if found is None:
        raise UsageError(f"--checkpoint: found {wanted!r}; allowed: what {url} serves: {_names(models)}.")
    return found


def _is(model: ServedModel, wanted: str) -> bool:
    """Whether a served model is the checkpoint of that name, path or step."""
    name = PurePosixPath(wanted).name
    if name in (model.id, _checkpoint_name(model)):
        return True
    step = int(name) if name.isdecimal() else None
    return step is not None and step == model.step


def _checkpoint_name(model: ServedModel) -> str:
    names = (PurePosixPath(model.path).name, PurePosixPath(model.id).name)
    return next((name for name in names if checkpoint_step(name) is not None), model.id)


def _names(models: Sequence[ServedModel]) -> str:
    return ", ".join(_checkpoint_name(model) for model in models) or "none"


def _day(db: Database, campaign: CampaignId, step: int | None, today: date) -> date:
    """The day in the prompts that the checkpoint was trained with, where the ledger knows it."""
    record = None if step is None else ledger.get(db, step, campaign)
    return today if record is None else prompt_day(Path(record.path), today)
