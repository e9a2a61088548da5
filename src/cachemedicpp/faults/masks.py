"""Where a corruption strikes: the layer, head and time masks of one sequence, and the two draws they need.

Both draws are made whatever the modes are, and struck steps are always one span. (specs/medic.md, 2.2)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cachemedicpp.faults.events import Axes


@dataclass(frozen=True)
class MaskDraws:
    """Uniform numbers in [0, 1): `layer` for the layer, `heads` `[Hkv]` float32 on CPU for its heads."""

    layer: float
    heads: torch.Tensor


def mask_draws(num_heads: int, generator: torch.Generator) -> MaskDraws:
    """The first draws of an event in one layer: one for the layer, then `num_heads` for the KV heads."""
    layer = float(torch.rand((), generator=generator))
    return MaskDraws(layer, torch.rand(num_heads, generator=generator))


def layer_active(axes: Axes, layer: int, draws: MaskDraws) -> bool:
    """Whether the protected layer with this number is struck."""
    if axes.layer_mode == "bernoulli":
        return draws.layer < axes.p_layer
    if axes.layer_mode == "targeted":
        return layer in (axes.layers or ())
    return True


def head_mask(axes: Axes, draws: MaskDraws) -> torch.Tensor:
    """The struck KV heads, bool `[Hkv]` on CPU. Listed heads that do not exist are ignored."""
    count = draws.heads.numel()
    if axes.head_mode == "bernoulli":
        return draws.heads < axes.p_head
    if axes.head_mode == "targeted":
        mask = torch.zeros(count, dtype=torch.bool)
        mask[[head for head in axes.heads or () if 0 <= head < count]] = True
        return mask
    return torch.ones(count, dtype=torch.bool)


def time_mask(axes: Axes, length: int) -> torch.Tensor:
    """The struck steps of a sequence of `length` cached tokens (padding excluded), bool `[length]` on CPU."""
    first, last = 0, length
    if axes.time_mode == "old_only":
        last = max(0, length - axes.N_recent)
    elif axes.time_mode == "window" and axes.window is not None:
        first, last = max(0, axes.window[0]), min(length, axes.window[1])
    steps = torch.arange(length)
    return (steps >= first) & (steps < last)
