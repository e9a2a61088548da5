"""Which parameter is trained how, by its name and its dimensions alone. (specs/guild.md 2.2.2)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Parameter

NOT_MUON = ("embed", "wte", "wpe", "lm_head", "head", "norm", "layernorm", "ln_", "bias")
"""Parts of names whose tensors AdamW trains even when they are matrices."""
NOT_DECAYED = ("bias", "norm", "ln_")


@dataclass(frozen=True)
class ParameterGroups:
    """Trainable parameters in the model's order. muon: hidden matrices. decayed, undecayed: AdamW's, with and without weight decay."""

    muon: tuple[Parameter, ...]
    decayed: tuple[Parameter, ...]
    undecayed: tuple[Parameter, ...]


def takes_muon(name: str, dimensions: int) -> bool:
    """Whether a tensor goes to Muon: two or more dimensions, and a name of a hidden weight."""
    return dimensions >= 2 and not any(part in name.lower() for part in NOT_MUON)


def takes_decay(name: str) -> bool:
    """Whether AdamW decays a tensor: all but biases and norms."""
    return not any(part in name.lower() for part in NOT_DECAYED)


def split(parameters: Iterable[tuple[str, Parameter]], *, muon: bool) -> ParameterGroups:
    """Split named parameters; frozen ones are left out. Without `muon` its tensors are AdamW's."""
    matrices: list[Parameter] = []
    decayed: list[Parameter] = []
    undecayed: list[Parameter] = []
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        if muon and takes_muon(name, parameter.ndim):
            matrices.append(parameter)
        else:
            (decayed if takes_decay(name) else undecayed).append(parameter)
    return ParameterGroups(tuple(matrices), tuple(decayed), tuple(undecayed))
