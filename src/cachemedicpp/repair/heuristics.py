"""The four heuristic defences on the keys and values of one layer. (specs/medic.md, 6.3)

    key    [B, Hkv, T, dk]    value [B, Hkv, T, dv]
    mask   [B, Hkv, T] bool   where the defence acts: the configured region, or the true corruption mask (`oracle`)
    starts [B] int64          the first real token of each left-padded row; None when no row is padded

Outside the mask every bit stays. Half types are computed in float32 and cast back. Inputs are never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cachemedicpp import seeds
from cachemedicpp.faults.corruption import DrawCounter
from cachemedicpp.faults.events import Axes
from cachemedicpp.faults.masks import time_mask
from cachemedicpp.repair.spec import HEURISTICS
from modelwright.errors import UsageError


@dataclass(frozen=True)
class HeuristicSettings:
    """`baseline.*`. smoothing_beta and dropout_p in 0..1; clip_val and target_rms in units of the tensor."""

    smoothing_beta: float = 0.3
    dropout_p: float = 0.02
    clip_val: float = 6.0
    target_rms: float = 1.0


def region_mask(axes: Axes, batch: int, heads: int, length: int, starts: torch.Tensor | None = None) -> torch.Tensor:
    """The region a defence knows without being told where the damage is: all heads, the configured time region. [C24]

    Bool `[B, Hkv, T]` on CPU; the region of a padded row counts from its own first token.
    """
    mask = torch.zeros(batch, heads, length, dtype=torch.bool)
    for row in range(batch):
        start = 0 if starts is None else int(starts[row])
        mask[row, :, start:] = time_mask(axes, length - start)
    return mask


def defend(
    name: str,
    settings: HeuristicSettings,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    seed: int,
    counter: DrawCounter,
    layer: int,
    starts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the heuristic `name` to K and V. `mask` None means that it acts nowhere: the very tensors come back.

    seed: the run's; only `masking_dropout` draws, from `seed + 333` and `(phase, unit, example, layer)` of the counter.
    Raises UsageError for an unknown name or a mask of a wrong shape.
    """
    if name not in HEURISTICS:
        raise UsageError(f"The heuristic {name!r} is unknown; allowed are {', '.join(HEURISTICS)}.")
    if mask is None:
        return key, value
    if mask.shape != key.shape[:3]:
        raise UsageError(f"The mask has the shape {list(mask.shape)} for keys of {list(key.shape)}; give [B, Hkv, T].")
    mask = mask.to(key.device)
    if name == "masking_dropout":
        dropped = _dropped(settings.dropout_p, key, value, seed, counter, layer, starts).to(key.device)
        return _zeroed(key, mask, dropped), _zeroed(value, mask, dropped)
    rules: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "reset_clear": torch.zeros_like,
        "smoothing": lambda x: smooth(x, _behind_first(mask, starts), settings.smoothing_beta),
        "clipping_renorm": lambda x: clip_and_renormalise(x, settings.clip_val, settings.target_rms),
    }
    rule = rules[name]
    return torch.where(mask[..., None], rule(key), key), torch.where(mask[..., None], rule(value), value)


def smooth(x: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    """`y_t = (1 - beta) x_t + beta y_{t-1}` for `t >= 1` in the mask, else `y_t = x_t`; the predecessor is the smoothed one.

    x `[B, H, T, d]`, mask `[B, H, T]`. A first-order recurrence `y_t = c_t + g_t y_{t-1}`, solved by doubling: after `k`
    rounds `c_t` holds the sum over the last `2^k` steps, in `log2 T` passes instead of `T` (Hillis and Steele 1986).
    """
    wide = x if x.dtype == torch.float64 else x.float()
    follows = mask.clone()  # whether step t still needs what stands before the steps it has summed
    follows[..., :1] = False
    total = torch.where(follows[..., None], (1 - beta) * wide, wide)
    reach = 1
    while reach < x.shape[2]:
        open_ = follows[..., reach:]
        behind = total[..., :-reach, :]
        # `where`, not a product with 0: a NaN or an infinity must not cross a step that the mask leaves alone.
        summed = torch.where(open_[..., None], total[..., reach:, :] + beta**reach * behind, total[..., reach:, :])
        total = torch.cat([total[..., :reach, :], summed], dim=2)
        follows = torch.cat([follows[..., :reach], open_ & follows[..., :-reach]], dim=2)
        reach *= 2
    return total.to(x.dtype)


def clip_and_renormalise(x: torch.Tensor, clip_val: float, target_rms: float) -> torch.Tensor:
    """Clamp to `[-clip_val, clip_val]`, then scale each step of each head to the RMS `target_rms`.

    `x * target_rms / (rms(x) + 1e-8)`, `rms(x) = sqrt(mean over d of x^2 + 1e-8)`, both of the clamped x.
    """
    wide = (x if x.dtype == torch.float64 else x.float()).clamp(-clip_val, clip_val)
    rms = (wide.pow(2).mean(dim=-1, keepdim=True) + 1e-8).sqrt()
    return (wide * (target_rms / (rms + 1e-8))).to(x.dtype)


def _behind_first(mask: torch.Tensor, starts: torch.Tensor | None) -> torch.Tensor:
    """`mask` without the first real token of every row, which has no predecessor to be smoothed with."""
    if starts is None:
        return mask
    steps = torch.arange(mask.shape[2], device=mask.device)
    return mask & (steps > starts.to(mask.device)[:, None])[:, None, :]


def _zeroed(x: torch.Tensor, mask: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    return x.masked_fill(mask[..., None] & dropped[..., : x.shape[-1]], 0)


def _dropped(
    p: float, key: torch.Tensor, value: torch.Tensor, seed: int, counter: DrawCounter, layer: int, starts: torch.Tensor | None
) -> torch.Tensor:
    """Where `u < p`, one `u` per (head, step, dim) for K and V together: bool `[B, Hkv, T, d]` on CPU."""
    batch, heads, length = key.shape[:3]
    width = max(key.shape[-1], value.shape[-1])
    if len(counter.examples) != batch:
        raise UsageError(f"The batch has {batch} rows and the counter {len(counter.examples)} example numbers; give one per row.")
    dropped = torch.zeros(batch, heads, length, width, dtype=torch.bool)
    for row, example in enumerate(counter.examples):
        start = 0 if starts is None else int(starts[row])
        generator = seeds.generator(seed + seeds.HEURISTIC_OFFSET, seeds.HEURISTIC, counter.phase, counter.unit, example, layer)
        dropped[row, :, start:] = torch.rand((heads, length - start, width), generator=generator) < p
    return dropped
