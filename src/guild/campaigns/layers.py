"""One shape for settings from all sources: a hero's sections, the sections of `config.json`, and plain field names.

The result has the field names of `config_schema.EffectiveConfig`. What is unknown passes through and is refused there, with its nearest
name. (specs/guild.md 4.3, 4.12)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guild.campaigns.heroes import Hero
from guild.places import Places

_SPREAD = ("training_defaults", "hyperparams")
_RENAMED = {"lora_r": "qlora_r", "lora_alpha": "qlora_alpha", "lora_dropout": "qlora_dropout", "family": "model_family"}
CONFIG_FILE_FIELDS = (
    "batch_size", "gradient_accumulation", "learning_rate", "warmup_steps", "load_in_4bit", "eval_steps", "save_steps", "max_length",
    "lora_r", "lora_alpha", "lora_dropout", "profile", "hyperparams", "optimizer",
)  # fmt: skip
"""Fields of `config.json` that speak of training. Its model fields do not: the hero decides the model."""


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by field name. `training_defaults{…}` and `hyperparams{…}` are opened, fields beside them win; `qlora{r}` becomes
    `qlora_r`, `profile{name}` its name, `optimizer{type, adamw, muon}` the type and its settings."""
    result: dict[str, Any] = {}
    for section in _SPREAD:
        inner = values.get(section)
        if isinstance(inner, Mapping):
            _merge(result, flat(inner))
    for key, value in values.items():
        if key in _SPREAD and isinstance(value, Mapping):
            continue
        if key == "qlora" and isinstance(value, Mapping):
            result |= {f"qlora_{name}": item for name, item in value.items()}
        elif key == "profile" and isinstance(value, Mapping):
            _merge(result, {("profile" if name == "name" else f"profile.{name}"): item for name, item in value.items()})
        elif key == "optimizer" and isinstance(value, Mapping):
            _merge(result, _optimizer(value))
        else:
            _merge(result, {_RENAMED.get(key, key): value})
    return result


def _optimizer(section: Mapping[str, Any]) -> dict[str, Any]:
    """`optimizer{type, adamw, muon, galore}`; AdamW's `lr` is the learning rate."""
    result: dict[str, Any] = {"optimizer": section["type"]} if "type" in section else {}
    settings = {name: dict(item) if isinstance(item, Mapping) else item for name, item in section.items() if name != "type"}
    adamw = settings.get("adamw")
    if isinstance(adamw, dict) and "lr" in adamw:
        result["learning_rate"] = adamw.pop("lr")
    return {**result, "optimizer_settings": settings}


def hero_layer(places: Places, hero: Hero) -> dict[str, Any]:
    """What a hero says: its model, its training defaults, its adapters, its chat template."""
    defaults = hero.training_defaults.model_dump(exclude_none=True)
    return flat(
        {
            "training_defaults": defaults,
            "qlora": hero.qlora.model_dump(),
            "base_model": hero.model.hf_name,
            "model_path": local_model(places, hero.model.hf_name),
            "model_family": hero.model.family,
            "model_architecture": hero.model.architecture,
            "model_size_b": hero.model.size_b,
            "vocab_size": hero.model.vocab_size,
            "context_length": hero.model.context_length,
            "rope_scaling": hero.model.rope_scaling,
            "chat_template": hero.chat.template,
        }
    )


def local_model(places: Places, name: str) -> str:
    """The folder of a model by hub id or path: `models/<last part>` of the house when it is there, a path below the base directory as an
    absolute one, else the name as it is (a hub id, `modelwright/tiny-*`)."""
    for folder in (places.base / name, places.models / Path(name).name):
        if (folder / "config.json").is_file():
            return str(folder)
    return name


def config_file_layer(content: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` says of training."""
    return flat({key: content[key] for key in CONFIG_FILE_FIELDS if key in content})


def deep_merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`; mappings are merged key by key, everything else is replaced whole."""
    result = dict(old)
    _merge(result, new)
    return result


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        before = into.get(key)
        if isinstance(value, Mapping):
            into[key] = deep_merge(before, value) if isinstance(before, Mapping) else dict(value)
        else:
            into[key] = value
