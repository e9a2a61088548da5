"""Optimizer settings by type, checked before anything is built; importable without torch. (specs/guild.md 2.2.2)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from guild.errors import UnknownOptimizerError
from modelwright.config import Layer, resolve

TYPES = ("adamw", "muon", "paged_adamw_8bit", "adamw_8bit", "galore", "galore_8bit")
ALIASES = {"adamw_bnb_8bit": "adamw_8bit"}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdamW(_Section):
    """AdamW in every precision of its state, and the AdamW inside GaLore. lr: None takes the configuration's learning rate."""

    lr: float | None = Field(default=None, gt=0, le=1)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0, le=1)


class Muon(_Section):
    """hidden_lr: of hidden matrices. aux_lr: of the rest, by AdamW; None takes the configuration's learning rate. ns_steps: iterations of
    the orthogonalisation."""

    hidden_lr: float = Field(default=0.02, gt=0, le=1)
    aux_lr: float | None = Field(default=None, gt=0, le=1)
    momentum: float = Field(default=0.95, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    aux_betas: tuple[float, float] = (0.9, 0.95)
    aux_eps: float = Field(default=1e-10, gt=0)
    ns_steps: int = Field(default=5, ge=1, le=20)


class Galore(_Section):
    """rank: of the projected gradient. update_proj_gap: steps between new projections. scale: of the projected update."""

    rank: int = Field(default=128, ge=1)
    update_proj_gap: int = Field(default=200, ge=1)
    scale: float = Field(default=0.25, gt=0)


class OptimizerSettings(_Section):
    """The section `optimizer` of a configuration. Only the part of its type is used."""

    type: str = "adamw"
    adamw: AdamW = AdamW()
    muon: Muon = Muon()
    galore: Galore = Galore()


ADAMW_LR = 4e-4
MUON_AUX_LR = 3e-4


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

    section: a type's name, or `{"type", "adamw"?, "muon"?, "galore"?}`. learning_rate: of the configuration; it is AdamW's, in muon that
    of the part that AdamW trains, unless the section names one. Raises UnknownOptimizerError, ConfigError with every fault.
    """
    values = {"type": section} if isinstance(section, str) else dict(section)
    name = optimizer_type(str(values.get("type", "adamw")))
    settings = resolve(_Configuration, [Layer("optimizer", {"optimizer": {**values, "type": name}})]).value.optimizer
    adamw, muon = settings.adamw, settings.muon
    if adamw.lr is None:
        adamw = adamw.model_copy(update={"lr": ADAMW_LR if learning_rate is None else learning_rate})
    if muon.aux_lr is None:
        muon = muon.model_copy(update={"aux_lr": MUON_AUX_LR if learning_rate is None else learning_rate})
    return settings.model_copy(update={"adamw": adamw, "muon": muon})
