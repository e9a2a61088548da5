"""The effective configuration of a campaign: layers merged, checked, with the origin of every value. (specs/guild.md 2.1.5)

From below: schema defaults, `config.json` (what hero and campaign leave open), hero, campaign overrides, this machine, command line.
A fault never falls back to defaults: all faults are raised together.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.checkpoints import locate
from guild.campaigns.config_file import read_config_file
from guild.campaigns.config_lock import check_lock, ensure_lock
from guild.campaigns.config_schema import IDENTITY, PLACES_OF_THIS_MACHINE, EffectiveConfig
from guild.campaigns.heroes import OPTIMIZERS, PROFILES, Hero, get_hero
from guild.campaigns.layers import config_file_layer, flat, hero_layer, local_model
from guild.campaigns.pointer import require_active
from guild.campaigns.start_model import house_model
from guild.errors import UnknownOptimizerError, UnknownProfileError
from guild.hosts.registry import HostRegistry, load_registry
from guild.places import Places
from guild.records.checkpoint_marks import latest_resumable
from modelwright.config import Layer, Resolved, override_layer, resolve
from modelwright.errors import ConfigError, DamagedFileError, Fault, LoadError
from modelwright.files import read_json, write_json

CONFIG_FILE, HERO, CAMPAIGN, MACHINE, COMMAND_LINE = "config.json", "hero", "campaign", "machine", "command line"
"""Names of the layers, ascending, as origins give them; below them all is `default`."""
FILE_NAME = "effective_config.json"

Effective = Resolved[EffectiveConfig]
"""`.value` is the typed configuration, `.origins` maps each dot path to the layer that set it."""


def build_effective(
    places: Places, folder: CampaignFolder | None = None, *, sets: Sequence[str] = (), registry: HostRegistry | None = None
) -> Effective:
    """The effective configuration of a campaign (the active one by default).

    sets: texts like `learning_rate=1e-5` or `optimizer_settings.muon.hidden_lr=0.01`. registry: of hosts, read when not given. Raises
    NoActiveCampaignError, UnknownHeroError, UnknownProfileError or UnknownOptimizerError when that name is the only fault, and
    ConfigError with every fault: values outside their ranges with the field named, unknown names with the nearest one.
    """
    folder = folder or require_active(places)
    hero = get_hero(places, folder.campaign.hero_id)
    faults: list[Fault] = []
    layers = [
        Layer(CONFIG_FILE, config_file_layer(read_config_file(places))),
        Layer(HERO, hero_layer(places, hero)),
        Layer(CAMPAIGN, _settable(flat(folder.campaign.config_overrides), CAMPAIGN, faults)),
        Layer(MACHINE, {}),
        Layer(COMMAND_LINE, _settable(flat(override_layer(sets).values), COMMAND_LINE, faults)),
    ]
    layers[3] = Layer(MACHINE, _settable(_machine(places, registry, layers), MACHINE, faults))
    layers = [Layer(layer.name, _with_model_path(places, layer.values)) for layer in layers]
    layers.append(Layer(CAMPAIGN, _identity(places, folder, hero, faults)))
    try:
        effective = resolve(EffectiveConfig, layers)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise _typed(faults, layers)
    return effective


def start_config(places: Places, folder: CampaignFolder, *, sets: Sequence[str] = (), registry: HostRegistry | None = None) -> Effective:
    """The configuration that a training starts with: `build_effective`, the model found, the lock kept, or set at the first start.

    Raises besides LockMismatchError, and ConfigError when there is no model at `model_path`.
    """
    effective = build_effective(places, folder, sets=sets, registry=registry)
    check_lock(folder, effective.value)
    faults = [*model_faults(effective), *untrainable_faults(effective.value)]
    if faults:
        raise ConfigError(faults)
    ensure_lock(places, folder, effective.value)
    return effective


def model_faults(effective: Effective) -> list[Fault]:
    """Whether there is a model at `model_path`; reads no weights and opens no connection. A hub id counts when it may be fetched."""
    from modelwright.loading import resolve_model

    try:
        resolve_model(effective.value.model_path)
    except LoadError as error:
        found = f"{effective.value.model_path!r} (from {effective.origins['model_path']})"
        return [Fault("model_path", found, "a model that is there", str(error))]
    return []


def untrainable_faults(value: EffectiveConfig) -> list[Fault]:
    """What is asked for that this installation cannot train: better said at the start than by a trainer that ends again and again."""
    from guild.training.optimizers.optional import missing_packages

    faults = []
    if value.qlora_enabled or value.load_in_4bit:
        faults.append(Fault("qlora_enabled", "true", "false, because the guild trains whole weights"))
    if value.chat_template != "chatml":
        allowed = "chatml, which stands in where the model's own template is absent or injects thinking"
        faults.append(Fault("chat_template", repr(value.chat_template), allowed))
    if value.preview_backend != "local":
        faults.append(Fault("preview_backend", repr(value.preview_backend), "local, the model that is being trained"))
    if missing := missing_packages(value.optimizer):
        todo = f"pip install {' '.join(missing)}, or choose the optimizer adamw"
        faults.append(Fault("optimizer", f"{value.optimizer}, which needs {' and '.join(missing)}", "an optimizer that is installed", todo))
    if value.liger_kernel.enabled:
        without = "or set liger_kernel.enabled=false, which takes more memory"
        if importlib.util.find_spec("liger_kernel") is None:
            found, todo = "true, which needs liger-kernel", f"pip install liger-kernel, {without}"
            faults.append(Fault("liger_kernel.enabled", found, "fused kernels that are installed", todo))
        elif value.device == "cpu":
            faults.append(Fault("liger_kernel.enabled", "true on a processor", "true on a GPU", f"Train on a GPU, {without}"))
    return faults


def config_digest(effective: Effective) -> str:
    """SHA-256 of what is trained how; paths of this machine and progress stay out of it."""
    return effective.digest(exclude=PLACES_OF_THIS_MACHINE)


def write_effective(path: str | Path, effective: Effective) -> None:
    """Write the configuration beside a run: `config`, `origins` by dot path, `digest`. A folder gets `effective_config.json`."""
    target = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    content = {"schema_version": 1, "digest": config_digest(effective), "config": effective.as_dict(), "origins": effective.origins}
    write_json(target, content)


def read_effective(path: str | Path) -> Effective:
    """What `write_effective` wrote. Raises MissingFileError, DamagedFileError when file and digest disagree, or ConfigError."""
    source = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    content = read_json(source)
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict) or not isinstance(content.get("origins"), dict):
        raise DamagedFileError(source, "it has no config or no origins", "an object with config, origins and digest")
    effective = Resolved(resolve(EffectiveConfig, [Layer(source.name, content["config"])]).value, dict(content["origins"]))
    if config_digest(effective) != content.get("digest"):
        raise DamagedFileError(source, f"its digest is {content.get('digest')!r}", f"{config_digest(effective)!r}, that of its config")
    return effective


# --- layers


def _settable(values: dict[str, Any], layer: str, faults: list[Fault]) -> dict[str, Any]:
    """The values without the fields that the campaign's own document decides; each of those is a fault."""
    for name in IDENTITY:
        if name in values:
            faults.append(Fault(name, f"a value from the {layer}", "what the campaign says", "leave it out; open another campaign"))
    return {name: value for name, value in values.items() if name not in IDENTITY}


def _machine(places: Places, registry: HostRegistry | None, others: Sequence[Layer]) -> dict[str, Any]:
    """What the trainer's entry in the hosts registry says: its overrides, and the device unless somebody else names one."""
    registry = registry or load_registry(places)
    values = flat(registry.get_trainer().config_overrides)
    if "device" not in values and not any("device" in layer.values for layer in others):
        values["device"] = registry.device("trainer")
    return values


def _with_model_path(places: Places, values: Mapping[str, Any]) -> dict[str, Any]:
    """A layer that names another base model names its path too; a path below the base directory becomes absolute."""
    named = values.get("model_path", values.get("base_model"))
    return {**values, **({"model_path": local_model(places, named)} if isinstance(named, str) else {})}


def _identity(places: Places, folder: CampaignFolder, hero: Hero, faults: list[Fault]) -> dict[str, Any]:
    """What the campaign's document decides. Where to start without a checkpoint of its own: what it was opened from, else what the house
    holds for it (`start_model`)."""
    campaign = folder.campaign
    start: str | None = None
    if not campaign.starting_checkpoint:
        held = house_model(places, folder, hero).path if latest_resumable(folder.checkpoints).path is None else None
        start = None if held is None else str(held)
    else:
        found = locate(places, campaign.starting_checkpoint)
        if found is None:
            todo = "put it back; without it the campaign would begin from the base model"
            faults.append(
                Fault("starting_checkpoint", f"{campaign.starting_checkpoint}, which is not there", "a folder that is there", todo)
            )
        start = str(found)
    return {
        "hero_id": campaign.hero_id,
        "campaign_id": campaign.id,
        "campaign_name": campaign.name,
        "output_dir": str(folder.checkpoints),
        "starting_checkpoint": start,
        "current_step": campaign.current_step,
        "skills_focus": list(campaign.skills_focus),
    }


def _typed(faults: list[Fault], layers: Sequence[Layer]) -> ConfigError | UnknownProfileError | UnknownOptimizerError:
    """The error for the faults; an unknown profile or optimizer that is the only one has a type of its own."""
    if len(faults) == 1 and faults[0].path in ("profile", "optimizer"):
        name = faults[0].path
        value = next((layer.values[name] for layer in reversed(layers) if name in layer.values), "")
        if isinstance(value, str):
            return UnknownProfileError(value, PROFILES) if name == "profile" else UnknownOptimizerError(value, OPTIMIZERS)
    return ConfigError(sorted(set(faults), key=lambda fault: (fault.path, fault.found)))
