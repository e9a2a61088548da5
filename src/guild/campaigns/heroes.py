"""The heroes registry: model profiles in `configs/heroes/*.yaml`. (specs/guild.md 2.3.1, 4.3)

One broken profile never hides the others: it is named when all are listed, and raised when it is the one asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from guild.errors import UnknownHeroError
from guild.places import Places
from modelwright.config import Layer, resolve
from modelwright.errors import ConfigError, DamagedFileError, Fault, ModelwrightError
from modelwright.files import read_yaml

CHECKPOINTING_SHARE = 0.35
"""Share of a row's activation memory that stays with gradient checkpointing. (specs/guild.md 2.3.1)"""

Precision = Literal["fp32", "bf16", "bf16_mixed"]
"""Weights and arithmetic in one type, or 32-bit weights with 16-bit arithmetic."""
OptimizerName = Literal["adamw", "muon", "paged_adamw_8bit", "adamw_8bit", "adamw_bnb_8bit", "galore", "galore_8bit"]
SchedulerName = Literal["cosine", "linear", "constant"]
ProfileName = Literal["regime3", "emoji_think", "none"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)
HERO_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
RESERVED_IDS = ("archive", "active")
"""Names under `campaigns/` that are no heroes."""

# Ranges that a start enforces. (specs/guild.md 2.1.1)
MaxLength = Annotated[int, Field(ge=128, le=32768)]
LearningRate = Annotated[float, Field(ge=1e-6, le=1e-2)]
BatchSize = Annotated[int, Field(ge=1, le=128)]
Accumulation = Annotated[int, Field(ge=1, le=128)]
LoraRank = Annotated[int, Field(ge=0, le=1024)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Gigabytes = Annotated[float, Field(ge=0)]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class HeroModel(BaseModel):
    """The base model. size_b: parameters in units of 10^9. context_length: tokens that the base was made for."""

    model_config = _STRICT

    hf_name: Annotated[str, Field(min_length=1)]
    family: str
    architecture: Annotated[str, Field(min_length=1)]
    size_b: Annotated[float, Field(gt=0)]
    vocab_size: Positive
    context_length: Positive
    rope_scaling: dict[str, Any] | None = None


class Liger(BaseModel):
    """Fused kernels; nothing is used unless `enabled`."""

    model_config = _STRICT

    enabled: bool = False
    fused_linear_cross_entropy: bool = True
    fused_rms_norm: bool = True
    fused_swiglu: bool = True
    fused_rope: bool = True


class TrainingDefaults(BaseModel):
    """How this model is trained unless a campaign says otherwise. max_length: tokens. profile: data profile, None when the hero has no
    opinion."""

    model_config = _STRICT

    precision: Precision
    load_in_4bit: bool = False
    batch_size: BatchSize
    gradient_accumulation: Accumulation
    learning_rate: LearningRate
    warmup_steps: Count
    lr_scheduler: SchedulerName
    max_length: MaxLength
    gradient_checkpointing: bool
    optimizer: OptimizerName
    liger_kernel: Liger = Liger()
    save_steps: Positive
    save_total_limit: Positive
    profile: ProfileName | None = None


class Qlora(BaseModel):
    """Low-rank adapters on a 4-bit base."""

    model_config = _STRICT

    enabled: bool = False
    r: LoraRank = 64
    alpha: Positive = 16
    dropout: Share = 0.05
    target_modules: tuple[str, ...] = ()


class ChatTokens(BaseModel):
    """How the model marks turns."""

    model_config = _STRICT

    template: str
    system_token: str
    user_token: str
    assistant_token: str
    end_token: str
    supports_system: bool = True


class Vram(BaseModel):
    """Estimates in GiB: what is always there, what one row takes, what the optimizer adds."""

    model_config = _STRICT

    base_memory_gb: Gigabytes
    per_batch_gb: Gigabytes
    optimizer_overhead_gb: Gigabytes


class Display(BaseModel):
    """What pages show."""

    model_config = _STRICT

    portrait: str = ""
    icon: str = ""
    color: str = ""
    emoji: str = ""


class Hero(BaseModel):
    """One model profile. skills_affinity: skills that suit it."""

    model_config = _STRICT

    schema_version: int = 1
    id: Annotated[str, Field(pattern=HERO_ID)]
    name: str
    rpg_name: str = ""
    description: str = ""
    model: HeroModel
    training_defaults: TrainingDefaults
    qlora: Qlora = Qlora()
    chat: ChatTokens
    vram: Vram
    display: Display = Display()
    skills_affinity: tuple[str, ...] = ()
    notes: str = ""

    @property
    def title(self) -> str:
        """`DIO, "The Skeptic"`."""
        return f'{self.name}, "{self.rpg_name}"' if self.rpg_name else self.name


@dataclass(frozen=True)
class HeroFiles:
    """What the folder holds. faults: file → what is wrong with it."""

    heroes: dict[str, Hero] = field(default_factory=dict)
    faults: dict[Path, ModelwrightError] = field(default_factory=dict)


def read_heroes(places: Places) -> HeroFiles:
    """Every profile in `configs/heroes`, by id, the broken ones beside. A missing folder holds none.

    Of two files with one id the one that bears its name is right, else the first; the other one is at fault.
    """
    found = HeroFiles()
    of: dict[str, Path] = {}
    for path in sorted(places.heroes.glob("*.yaml")):
        try:
            hero = read_hero(path)
        except ModelwrightError as error:
            found.faults[path] = error
            continue
        former = of.setdefault(hero.id, path)
        right = path if path.stem == hero.id else former
        if former != path:
            wrong = former if right == path else path
            allowed = f"an id that no other file of the folder uses, and {right.name} has this one"
            found.faults[wrong] = ConfigError([Fault("id", f"{hero.id!r} in {wrong.name}", allowed, f"Change it in {wrong.name}")])
        if right == path:
            of[hero.id], found.heroes[hero.id] = path, hero
    return found


def read_hero(path: Path) -> Hero:
    """The checked profile in one file. Raises StorageError, DamagedFileError, or ConfigError with every fault."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"found a {type(content).__name__}", "a mapping with id, model, training_defaults and more")
    hero = resolve(Hero, [Layer(path.name, content)]).value
    if hero.id in RESERVED_IDS:
        raise ConfigError([Fault("id", repr(hero.id), f"any name but {' and '.join(RESERVED_IDS)}, which name other folders")])
    return hero


def get_hero(places: Places, id: str) -> Hero:
    """The profile of that id. Raises UnknownHeroError with the known ids, or what is wrong with the file of that name."""
    found = read_heroes(places)
    if id in found.heroes:
        return found.heroes[id]
    broken = places.heroes / f"{id}.yaml"
    if broken in found.faults:
        raise found.faults[broken]
    raise UnknownHeroError(id, found.heroes, where=str(places.heroes))


def list_heroes(places: Places) -> tuple[Hero, ...]:
    """All profiles, by id. Raises ConfigError naming every broken file; `read_heroes` goes on without them."""
    found = read_heroes(places)
    if found.faults:
        lines = [f"{path.name}: {line}" for path, error in found.faults.items() for line in str(error).splitlines()]
        raise HeroFilesError("\n".join(lines))
    return tuple(found.heroes[id] for id in sorted(found.heroes))


class HeroFilesError(ModelwrightError):
    """Profiles that cannot be read, one line per fault, each with its file."""


def vram_estimate_gb(hero: Hero, *, batch_size: int | None = None, gradient_checkpointing: bool | None = None) -> float:
    """GiB that training takes: base + optimizer + rows x per_batch (x 0.35 with gradient checkpointing). (specs/guild.md 2.3.1)"""
    rows = hero.training_defaults.batch_size if batch_size is None else batch_size
    saving = hero.training_defaults.gradient_checkpointing if gradient_checkpointing is None else gradient_checkpointing
    per_row = hero.vram.per_batch_gb * (CHECKPOINTING_SHARE if saving else 1.0)
    return hero.vram.base_memory_gb + hero.vram.optimizer_overhead_gb + per_row * rows
