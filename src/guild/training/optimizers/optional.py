"""Optimizers of packages that not everyone has: 8-bit and paged states (bitsandbytes), projected gradients (galore_torch).

Nothing stands in for a missing package: a run that asked for an 8-bit state would not fit its memory with another. (specs/guild.md 10.1)
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from guild.training.optimizers.groups import ParameterGroups, split
from guild.training.optimizers.settings import AdamW, OptimizerSettings
from modelwright.errors import LoadError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

PACKAGES = {
    "adamw_8bit": ("bitsandbytes",),
    "paged_adamw_8bit": ("bitsandbytes",),
    "galore": ("bitsandbytes", "galore_torch"),  # galore_torch imports bitsandbytes whatever is used of it
    "galore_8bit": ("bitsandbytes", "galore_torch"),
}
_INSTALL = {"bitsandbytes": "bitsandbytes", "galore_torch": "galore-torch"}


def missing_packages(kind: str) -> list[str]:
    """Names, as pip knows them, of the packages that an optimizer type needs and that are not installed."""
    return [_INSTALL[name] for name in PACKAGES.get(kind, ()) if importlib.util.find_spec(name) is None]


def require_packages(kind: str) -> None:
    """Raises LoadError when a package of an optimizer type is missing, naming all of them."""
    missing = missing_packages(kind)
    if missing:
        raise LoadError(
            f"optimizer {kind}: found no package {' and no package '.join(missing)}; allowed: an installation that has it. "
            f"Install it by pip install {' '.join(missing)}, or choose the optimizer adamw."
        )


def build_8bit(model: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """bitsandbytes' AdamW with 8-bit states, paged or not. Embeddings keep 32-bit states, as bitsandbytes advises for their stability."""
    from torch import nn

    library = _import("bitsandbytes", settings.type)
    manager = library.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    made = library.optim.PagedAdamW8bit if settings.type == "paged_adamw_8bit" else library.optim.AdamW8bit
    groups = split(model.named_parameters(), muon=False)
    optimizer: Optimizer = made(adamw_groups(groups, settings.adamw.weight_decay), **_adamw(settings.adamw))
    return optimizer


def load_paged(optimizer: Any, state: dict[str, Any]) -> None:
    """Load a checkpoint's state into a paged optimizer of bitsandbytes, into pages. Its own way puts the moments into plain GPU memory,
    where a model that needs the pages has no room for them: such a campaign could be begun and never gone on with."""
    optimizer.load_state_dict(state, move_to_device=False)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = optimizer.state.get(parameter, {})
            for name in ("state1", "state2"):
                if name in kept:  # what lies beside them is small, and moved to the device before the first step
                    pages = optimizer.get_state_buffer(parameter, dtype=kept[name].dtype)
                    pages.copy_(kept[name])
                    kept[name] = pages


def build_galore(model: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """GaLore's AdamW, with 32-bit or 8-bit states. The matrices that Muon would take are projected."""
    import torch

    library = _import("galore_torch", settings.type)
    projector = importlib.import_module("galore_torch.galore_projector").GaLoreProjector
    torch.serialization.add_safe_globals([projector])  # it lies in the state, and checkpoints are read back as data, not as code
    groups = split(model.named_parameters(), muon=True)
    options = {**settings.galore.model_dump(), "proj_type": "std", "weight_decay": settings.adamw.weight_decay}
    matrices = [parameter for parameter in groups.muon if parameter.ndim == 2]  # a stack of them has no single projection
    others = tuple(parameter for parameter in groups.muon if parameter.ndim > 2)
    projected = [{"params": matrices, **options}] if matrices else []
    rest = adamw_groups(ParameterGroups((), (*others, *groups.decayed), groups.undecayed), settings.adamw.weight_decay)
    made = library.GaLoreAdamW8bit if settings.type == "galore_8bit" else library.GaLoreAdamW
    quiet = {} if settings.type == "galore_8bit" else {"no_deprecation_warning": True}
    optimizer: Optimizer = made([*projected, *rest], **_adamw(settings.adamw), **quiet)
    return optimizer


def adamw_groups(groups: ParameterGroups, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups, with and without weight decay; empty ones are left out."""
    made: Sequence[tuple[tuple[Any, ...], float]] = ((groups.decayed, weight_decay), (groups.undecayed, 0.0))
    return [{"params": list(parameters), "weight_decay": decay} for parameters, decay in made if parameters]


def _adamw(settings: AdamW) -> dict[str, Any]:
    return {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps}


def _import(name: str, kind: str) -> ModuleType:
    require_packages(kind)
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        raise LoadError(
            f"optimizer {kind}: the package {name} is there and cannot be imported ({str(error).splitlines()[0]}); allowed: one that fits "
            "this machine. Install it again, or choose the optimizer adamw."
        ) from error
