"""An optimizer by its type, with what it trains and how. (specs/guild.md 2.2.2)"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from guild.training.optimizers.groups import split
from guild.training.optimizers.muon import MuonWithAdamW
from guild.training.optimizers.optional import adamw_groups, build_8bit, build_galore, load_paged, require_packages
from guild.training.optimizers.settings import OptimizerSettings

FUSED_DEVICES = ("cuda", "cpu")


@dataclass(frozen=True)
class OptimizerInfo:
    """What was built. Counts are of numbers, not tensors; rates are the full ones, before any schedule. hidden_lr, aux_lr: of muon."""

    type: str
    learning_rate: float
    weight_decay: float
    total_params: int
    trainable_params: int
    muon_params: int
    adam_params: int
    hidden_lr: float | None = None
    aux_lr: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, for the run's record."""
        return asdict(self)


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> tuple[torch.optim.Optimizer, OptimizerInfo]:
    """The optimizer over a model's trainable parameters. Raises LoadError when a package that it needs is missing: nothing else is
    built in its place."""
    require_packages(settings.type)
    if settings.type == "muon":
        return _muon(model, settings)
    if settings.type in ("adamw_8bit", "paged_adamw_8bit"):
        optimizer = build_8bit(model, settings)
    elif settings.type in ("galore", "galore_8bit"):
        optimizer = build_galore(model, settings)
    else:
        optimizer = _adamw(model, settings)
    rate = settings.adamw.lr
    assert rate is not None
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return optimizer, OptimizerInfo(settings.type, rate, settings.adamw.weight_decay, _count(model), trained, 0, trained)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's state and keep the present settings of every group: torch would put the checkpoint's back, and a campaign's
    change of weight decay or betas would never reach training. Raises ValueError when the groups do not fit."""
    present = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    if getattr(optimizer, "is_paged", False):
        load_paged(optimizer, state)
    else:
        optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, present, strict=True):
        group.update(values)


def _adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    groups = split(model.named_parameters(), muon=False)
    chosen = settings.adamw
    return torch.optim.AdamW(
        adamw_groups(groups, chosen.weight_decay), lr=chosen.lr or 0.0, betas=chosen.betas, eps=chosen.eps, fused=_fusable(model) or None
    )


def _muon(model: nn.Module, settings: OptimizerSettings) -> tuple[torch.optim.Optimizer, OptimizerInfo]:
    groups = split(model.named_parameters(), muon=True)
    chosen = settings.muon
    aux = {"muon": False, "lr": chosen.aux_lr, "betas": chosen.aux_betas, "eps": chosen.aux_eps, "fused": _fusable(model)}
    hidden = {"muon": True, "lr": chosen.hidden_lr, "momentum": chosen.momentum, "ns_steps": chosen.ns_steps}
    parts = [{"params": list(groups.muon), "weight_decay": chosen.weight_decay, **hidden}] if groups.muon else []
    optimizer = MuonWithAdamW([*parts, *({**group, **aux} for group in adamw_groups(groups, chosen.weight_decay))])
    by_muon = sum(parameter.numel() for parameter in groups.muon)
    by_adam = sum(parameter.numel() for parameter in (*groups.decayed, *groups.undecayed))
    info = OptimizerInfo(
        "muon",
        chosen.hidden_lr,
        chosen.weight_decay,
        _count(model),
        by_muon + by_adam,
        by_muon,
        by_adam,
        hidden_lr=chosen.hidden_lr,
        aux_lr=chosen.aux_lr,
    )
    return optimizer, info


def _fusable(model: nn.Module) -> bool:
    """Whether torch's fused AdamW takes all trainable parameters: floating point, on a device that has it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return all(parameter.is_floating_point() and parameter.device.type in FUSED_DEVICES for parameter in trained)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
