"""Scaling templates, and which of them suits a use case and a machine.

The order of candidates and the six templates are the seed's (specs/scaler.md section 3.8). Two things differ on purpose: a
template that needs more memory than is free is never returned (the adjusted `budget_context` or a refusal is), and alpha
shrinks with the rank. Without a GPU memory means available RAM. Memory is in GB as the templates state it. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from modelwright.errors import ConfigError, Fault, ModelwrightError
from scaler_wizard.adaptive_scaling import HardwareProfile

if TYPE_CHECKING:
    from modelwright.gpus import Gpu
    from modelwright.hardware import HardwareInventory

TELEMETRY_PROFILES = ("standard", "high_resolution", "detailed", "exploratory")
SMALLEST_GB = 1.0  # the adjusted budget_context is not offered below this
_ORDERS = {
    "long_context": ("max_context", "balanced_scaling", "budget_context"),
    "reasoning": ("max_parameters", "reasoning_boost", "balanced_scaling"),
    "creative": ("creative_fusion", "balanced_scaling"),
    "default": ("balanced_scaling", "budget_context"),
}
_FALLBACK = "budget_context"


class NothingFitsError(ModelwrightError):
    """No template can run on this machine (exit 4)."""

    exit_code = 4


@dataclass(frozen=True)
class ScalingTemplate:
    """One entry of scaling_profiles.yaml."""

    id: str
    description: str
    lora_rank: int
    lora_alpha: int
    context_multiplier: int
    use_distillation: bool
    telemetry_profile: str
    min_vram_gb: float


@dataclass(frozen=True)
class Recommendation:
    """The chosen template (its values adjusted when `adjusted`) and why."""

    template: ScalingTemplate
    adjusted: bool
    rationale: str


_FIELDS: dict[str, tuple[type, ...]] = {
    "description": (str,),
    "lora_rank": (int,),
    "lora_alpha": (int,),
    "context_multiplier": (int,),
    "use_distillation": (bool,),
    "telemetry_profile": (str,),
    "min_vram_gb": (int, float),
}


def packaged_templates() -> dict[str, ScalingTemplate]:
    """The six templates that come with the package, in file order."""
    text = resources.files("scaler_wizard").joinpath("templates/scaling_profiles.yaml").read_text(encoding="utf-8")
    return parse_templates(text, "scaling_profiles.yaml")


def load_templates(user_folder: Path | None = None) -> dict[str, ScalingTemplate]:
    """Packaged templates, then those of every YAML file in `user_folder`, which may replace a packaged one by its id.

    `user_folder` defaults to the folder `templates` in MODELWRIGHT_HOME. Raises ConfigError with every fault of a file.
    """
    templates = packaged_templates()
    folder = user_folder if user_folder is not None else _user_folder()
    for path in sorted(folder.glob("*.yaml")) if folder.is_dir() else []:
        templates.update(parse_templates(path.read_text(encoding="utf-8"), str(path)))
    return templates


def _user_folder() -> Path:
    from modelwright.home import home

    return home() / "templates"


def parse_templates(text: str, where: str) -> dict[str, ScalingTemplate]:
    """Parse and check one templates file. Raises ConfigError listing every fault as `file: template.key`."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError([Fault(where, str(error).replace("\n", " "), "valid YAML")]) from error
    if not isinstance(document, dict) or not document:
        raise ConfigError([Fault(where, type(document).__name__, "a mapping of template ids to their values")])
    faults: list[Fault] = []
    templates: dict[str, ScalingTemplate] = {}
    for name, values in document.items():
        found = _template_faults(f"{where}: {name}", values)
        faults += found
        if not found:
            templates[str(name)] = ScalingTemplate(id=str(name), **values)
    if faults:
        raise ConfigError(faults)
    return templates


def _template_faults(where: str, values: object) -> list[Fault]:
    if not isinstance(values, dict):
        return [Fault(where, type(values).__name__, "a mapping of " + ", ".join(_FIELDS))]
    faults = [Fault(f"{where}.{key}", "an unknown key", "one of " + ", ".join(_FIELDS)) for key in values if key not in _FIELDS]
    for key, kinds in _FIELDS.items():
        value = values.get(key)
        words = " or ".join(kind.__name__ for kind in kinds)
        if key not in values:
            faults.append(Fault(f"{where}.{key}", "nothing", words, f"add {key}"))
        elif not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            faults.append(Fault(f"{where}.{key}", repr(value), words))
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value <= 0:
            faults.append(Fault(f"{where}.{key}", repr(value), "a value above 0"))
        elif key == "telemetry_profile" and value not in TELEMETRY_PROFILES:
            faults.append(Fault(f"{where}.{key}", repr(value), "one of " + ", ".join(TELEMETRY_PROFILES)))
    return faults


def candidate_order(use_case: str, model_size: str = "") -> tuple[str, ...]:
    """Template ids in the order they are tried; `model_size == "large"` puts max_parameters first."""
    order = _ORDERS.get(use_case, _ORDERS["default"])
    return tuple(dict.fromkeys(("max_parameters", *order))) if model_size == "large" else order


def recommend(
    use_case: str,
    hardware: HardwareProfile,
    templates: Mapping[str, ScalingTemplate] | None = None,
    model_size: str = "",
) -> Recommendation:
    """The first candidate whose `min_vram_gb` is free; else the adjusted `budget_context`.

    Raises NothingFitsError with the shortfall when less than 1 GB is free.
    """
    known = templates if templates is not None else load_templates()
    free = hardware.free_gb
    kind = "VRAM" if hardware.gpu_count > 0 else "available RAM (no GPU)"
    tried: list[str] = []
    for name in candidate_order(use_case, model_size):
        template = known.get(name)
        if template is None:
            continue
        if free >= template.min_vram_gb:
            skipped = f" after {', '.join(tried)}" if tried else ""
            return Recommendation(
                template, False, f"{name} for {use_case}: needs {template.min_vram_gb:g} GB, {free:.1f} GB {kind} free{skipped}"
            )
        tried.append(f"{name} (needs {template.min_vram_gb:g} GB)")
    if free < SMALLEST_GB:
        raise NothingFitsError(
            f"No template fits: {free:.1f} GB {kind} is free and even the smallest plan needs {SMALLEST_GB:g} GB; "
            f"free {SMALLEST_GB - free:.1f} GB more or use a larger machine."
        )
    template = adjust(known.get(_FALLBACK) or _smallest(known.values()), free)
    return Recommendation(
        template,
        True,
        f"{template.id} with halved rank and context for {use_case}: {free:.1f} GB {kind} free is less than "
        f"{', '.join(tried) or 'every template'} wants; the memory plan says whether the run fits",
    )


def adjust(template: ScalingTemplate, free_gb: float) -> ScalingTemplate:
    """The template for a machine below its minimum: rank and alpha halved (rank at least 4), context halved (at least x2)."""
    if free_gb >= template.min_vram_gb:
        return template
    rank = max(4, template.lora_rank // 2)
    alpha = max(1, round(template.lora_alpha * rank / template.lora_rank))
    return replace(
        template,
        lora_rank=rank,
        lora_alpha=alpha,
        context_multiplier=max(2, template.context_multiplier // 2),
        min_vram_gb=min(free_gb, template.min_vram_gb),
    )


def _smallest(templates: Iterable[ScalingTemplate]) -> ScalingTemplate:
    return min(templates, key=lambda template: template.min_vram_gb)


def profile_of(inventory: HardwareInventory) -> HardwareProfile:
    """The kernel's inventory as the rules' profile: VRAM of the largest GPU (sums count only under sharding).

    What could not be found counts as none: no GPU when GPUs could not be read, no RAM when RAM could not.
    """
    largest = max(inventory.gpus, key=lambda gpu: gpu.vram_total_gb, default=None)
    ram_free = inventory.ram_free if inventory.ram_free is not None else inventory.ram_total
    return HardwareProfile(
        total_vram_gb=largest.vram_total_gb if largest else 0.0,
        gpu_count=len(inventory.gpus),
        cpu_mem_gb=inventory.ram_total or 0.0,
        gpu_name=largest.name if largest else "none",
        vram_free_gb=_free(largest) if largest else 0.0,
        ram_free_gb=ram_free or 0.0,
    )


def _free(gpu: Gpu) -> float:
    return gpu.vram_total_gb if gpu.vram_free_gb is None else gpu.vram_free_gb


def snapshot(hardware: HardwareProfile, templates: Mapping[str, ScalingTemplate] | None = None) -> str:
    """JSON text of the hardware and every template."""
    known = templates if templates is not None else load_templates()
    return json.dumps({"hardware": hardware.as_dict(), "profiles": {name: asdict(item) for name, item in known.items()}}, indent=2)
