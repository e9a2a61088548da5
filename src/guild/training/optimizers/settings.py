"""Optimizer settings by type, checked before anything is built; importable without torch. (specs/guild.md 2.2.2)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from guild.errors import UnknownOptimizerError
from modelwright.config import Layer, resolve

TYPES = ("adamw", "muon", "paged_adamw_8bit", "adamw_8bit", "galore", "galore_8bit")
ALIASES = {"adamw_bnb_8bit": "adamw_8bit"}


Beta = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, le=1)]
AboveZero = Annotated[float, Field(gt=0)]
Positive = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdamW(_Section):
    """AdamW in every precision of its state, and the AdamW inside GaLore. lr: None takes the configuration's learning rate."""

    lr: Rate | None = None
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: AboveZero = 1e-8
    weight_decay: Decay = 0.01


class Muon(_Section):
    """hidden_lr: of hidden matrices. aux_lr: of the rest, by AdamW. ns_steps: iterations of the orthogonalisation."""

    hidden_lr: Rate = 0.02
    aux_lr: Rate = 3e-4
    momentum: Beta = 0.95
    weight_decay: Decay = 0.0
    aux_betas: tuple[Beta, Beta] = (0.9, 0.95)
    aux_eps: AboveZero = 1e-10
    ns_steps: Annotated[int, Field(ge=1, le=20)] = 5


class Galore(_Section):
    """rank: of the projected gradient. update_proj_gap: steps between new projections. scale: of the projected update."""

    rank: Positive = 128
    update_proj_gap: Positive = 200
    scale: AboveZero = 0.25


class OptimizerParameters(_Section):
    """Parameters by kind of optimizer; only those of the chosen one are used."""

    adamw: AdamW = AdamW()
    muon: Muon = Muon()
    galore: Galore = Galore()


class OptimizerSettings(OptimizerParameters):
    """The section `optimizer` of a configuration: the kind, and the parameters."""

    type: str = "adamw"


ADAMW_LR = 4e-4


class _Configuration(BaseModel):
    optimizer: OptimizerSettings = OptimizerSettings()


def optimizer_type(name: str) -> str:
    """The type for a name or an alias. Raises UnknownOptimizerError."""
    plain = ALIASES.get(name, name)
    if plain not in TYPES:
        raise UnknownOptimizerError(name, (*TYPES, *ALIASES))
    return plain


def optimizer_settings(section: str | Mapping[str, Any], learning_rate: float | None = None) -> OptimizerSettings:
    """Settings with every value filled in.

    section: a type's name, or `{"type", "adamw"?, "muon"?, "galore"?}`. learning_rate: of the configuration; it is AdamW's unless
    the section names one, and muon has its own two. Raises UnknownOptimizerError, ConfigError with every fault.
    """
    values = {"type": section} if isinstance(section, str) else dict(section)
    name = optimizer_type(str(values.get("type", "adamw")))
    settings = resolve(_Configuration, [Layer("optimizer", {"optimizer": {**values, "type": name}})]).value.optimizer
    if settings.adamw.lr is not None:
        return settings
    adamw = settings.adamw.model_copy(update={"lr": ADAMW_LR if learning_rate is None else learning_rate})
    return settings.model_copy(update={"adamw": adamw})
