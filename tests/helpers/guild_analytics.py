"""Campaigns, evaluations, ledger records and weights for the tests of analytics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guild.campaigns.campaign import CampaignFolder, read_campaign
from guild.campaigns.pointer import write_pointers
from guild.places import Places
from guild.records.checkpoint_record import CampaignId, CheckpointRecord
from guild.records.checkpoint_sidecars import Found
from guild.records.evaluation_records import Evaluation, Passive, new_evaluation, new_passive
from guild.records.ledger import put
from helpers.guild_records import write_campaign
from modelwright.clock import ManualClock
from modelwright.database import Database
from modelwright.files import make_folder, write_json

HERO, NAME = "dio-qwen3-0.6b", "campaign-001"
DIO = CampaignId(HERO, NAME)
AT = "2026-01-01T00:00:00Z"


def house(base: Path) -> tuple[Places, CampaignFolder]:
    """A base directory with one campaign, the active one."""
    places = Places(base)
    folder = new_campaign(places, NAME)
    write_pointers(places, HERO, NAME, ManualClock())
    return places, folder


def new_campaign(places: Places, name: str) -> CampaignFolder:
    """One more campaign."""
    path = write_campaign(places.base, HERO, name)
    write_json(path / "campaign.json", {"id": name, "hero_id": HERO, "name": "Test", "created_at": AT})
    return read_campaign(path)


def evaluation(step: int, correct: int, total: int = 20, skill: str = "bin", level: int = 1, **further: Any) -> Evaluation:
    return new_evaluation(DIO, step, skill, level, correct=correct, total=total, timestamp=AT, **further)


def passive(step: int, correct: int, total: int = 5, name: str = "arithmetic", **further: Any) -> Passive:
    mode = "lite" if total == 5 else "full"
    return new_passive(DIO, step, name, mode, "1.0.0", correct=correct, total=total, timestamp=AT, **further)  # type: ignore[arg-type]


def recorded(step: int, val_loss: float | None, skill: str | None = None, level: int | None = None, **further: Any) -> CheckpointRecord:
    """A ledger record whose folder is nowhere: retention took it."""
    name = f"checkpoint-{step}"
    told = {"step": step, "timestamp": AT, "path": f"/gone/{name}", "canonical_name": name, "hero_id": HERO, "campaign_id": NAME}
    return CheckpointRecord.model_validate({**told, "val_loss": val_loss, "skill_name": skill, "skill_level": level, **further})


def enter(db: Database, *records: CheckpointRecord) -> None:
    """Index ledger records."""
    with db.transaction() as connection:
        for record in records:
            put(connection, Found(record, "sidecar"))


def save_weights(folder: Path, tensors: Mapping[str, Any], *, shards: Sequence[Sequence[str]] = ()) -> Path:
    """A checkpoint folder written by the safetensors library: one file, or one for each of `shards` with an index. Arrays of numpy, or
    tensors of torch for types that numpy lacks."""
    make_folder(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    torch_made = any(not isinstance(tensor, np.ndarray) for tensor in tensors.values())
    if torch_made:
        from safetensors.torch import save_file
    else:
        from safetensors.numpy import save_file  # type: ignore[assignment]
    if not shards:
        save_file(dict(tensors), folder / "model.safetensors")
        return folder
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder


def layered(layers: int, width: int = 8, *, scale: Mapping[int, float] | None = None, seed: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors named as in Llama; layer n is the same for a seed, times `scale[n]` (-1: the embeddings)."""
    draw = np.random.default_rng(seed)
    factors = dict(scale or {})

    def made(layer: int, *shape: int) -> Any:
        return (draw.normal(size=shape) * factors.get(layer, 1.0)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": made(-1, 3 * width, width)}
    for layer in range(layers):
        tensors[f"model.layers.{layer}.self_attn.q_proj.weight"] = made(layer, width, width)
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = made(layer, 2 * width, width)
    tensors["model.norm.weight"] = made(layers + 1, width)
    return tensors
