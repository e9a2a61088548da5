"""The two measurements that read weights: on which checkpoint, against which base, and when. (specs/guild.md 2.9)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guild.analytics import drift, stability
from guild.analytics.documents import document, read_or_none
from guild.analytics.sources import campaign_id
from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.effective_config import build_effective
from guild.naming import checkpoint_step
from guild.places import Places
from guild.records.checkpoint_marks import usable_checkpoint
from guild.records.ledger import list_all
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.errors import LoadError, UsageError


def measure_drift(db: Database, places: Places, folder: CampaignFolder, options: dict[str, Any], clock: Clock) -> dict[str, Any] | None:
    """`layer_drift.json` of the newest checkpoint, or of `options["checkpoint"]` against `options["base"]`; None when the document stands
    already, which `options["force"]` overrules. Raises what reading the folders raises."""
    former = read_or_none(folder.status / drift.NAME)
    chosen = _checkpoint(db, folder, options)
    if chosen is None:
        return _nothing(former, clock)
    path, step = chosen
    if former is not None and former.get("step") == step and not options.get("force"):
        return None
    base = Path(str(options["base"])) if options.get("base") else base_folder(places, folder)
    found = drift.layer_drift(base, path)
    return drift.drift_document(found, former, step=step, base=str(base), checkpoint=str(path), clock=clock)


def measure_stability(db: Database, places: Places, folder: CampaignFolder, options: dict[str, Any], clock: Clock) -> dict[str, Any] | None:
    """`parameter_stability.json` likewise; None when it is not due: the same step, or less than 600 s ago."""
    former = read_or_none(folder.status / stability.NAME)
    chosen = _checkpoint(db, folder, options)
    if chosen is None:
        return _nothing(former, clock)
    path, step = chosen
    if not options.get("force") and not stability.due(former, step, clock.now()):
        return None
    return stability.stability_document(stability.measure(path), former, step=step, checkpoint=str(path), clock=clock)


def base_folder(places: Places, folder: CampaignFolder) -> Path:
    """The folder of the campaign's base model; a hub id's is the one in the local cache. Raises what `build_effective` raises, LoadError
    when the model is not here."""
    from modelwright.loading import resolve_model

    name = build_effective(places, folder).value.model_path
    source = resolve_model(name, offline=True)
    if source.path is not None:
        return Path(source.path)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise LoadError(f"The base model {name} is a hub id, and huggingface_hub is not installed. Name a folder by --base.") from error
    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=["*.safetensors", "*.json"]))
    except LocalEntryNotFoundError as error:
        raise LoadError(f"The base model {name} is not in the local cache. Name a folder by --base.") from error


def _checkpoint(db: Database, folder: CampaignFolder, options: dict[str, Any]) -> tuple[Path, int] | None:
    """(folder, step) of the checkpoint that is asked for, else of the newest whole one in the ledger; None without any."""
    if options.get("checkpoint"):
        path = Path(str(options["checkpoint"]))
        step = options.get("step", checkpoint_step(path.name))
        if not isinstance(step, int):
            raise UsageError(f"checkpoint: found {path.name!r}; allowed: a folder named checkpoint-<step>, or one with its step given.")
        return path, step
    for record in list_all(db, campaign_id(folder)):
        if not usable_checkpoint(Path(record.path)):
            return Path(record.path), record.step
    return None


def _nothing(former: dict[str, Any] | None, clock: Clock) -> dict[str, Any] | None:
    """What a campaign without checkpoints says, unless a measurement stands."""
    if former is not None and former.get("step") is not None:
        return None
    return document("no data", clock, reason="The campaign has no whole checkpoint.", history=[])
