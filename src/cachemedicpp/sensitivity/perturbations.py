"""Perturbations of a stored cache and the drift of the next-token logits they cause: the arithmetic of the stability metrics.

    D_K = delta * RMS(K[l]) * u_K,  u_K normal inside the mask, 0 outside, Frobenius norm 1 over the mask;  V alike

Every draw is named by (prompt, direction, layer), so all variants of a measurement see the same D. Keys and values
`[1, Hkv, T, d]`: one prompt at a time; drifts are taken for many rows at once. (specs/medic.md, 5.1 and 5.2)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cachemedicpp import seeds
from cachemedicpp.faults.corruption import LayerTensors

EPS = 1e-8


@dataclass(frozen=True)
class Perturbation:
    """What is added to the keys and values of one layer, `[1, Hkv, T, d]` (`[n, Hkv, T, d]` for n rows), of their dtype and device."""

    key: Tensor
    value: Tensor

    @property
    def side_norms(self) -> tuple[list[float], list[float]]:
        """Frobenius norm of every row, of the keys and of the values."""
        key, value = ([float(norm) for norm in x.double().flatten(1).norm(dim=1)] for x in (self.key, self.value))
        return key, value

    @property
    def norms(self) -> list[float]:
        """Frobenius norm of every row over keys and values jointly."""
        return [math.hypot(key, value) for key, value in zip(*self.side_norms, strict=True)]


def whole_rms(x: Tensor) -> float:
    """`sqrt(mean x^2 + 1e-8)` over the whole tensor."""
    return float((x.float().square().mean() + EPS).sqrt())


def direction(like: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise where `mask` (bool `[Hkv, T]`) is set, 0 elsewhere, Frobenius norm 1; zeros for an empty mask. Float32 on CPU."""
    noise = torch.randn(like.shape[1:], generator=generator) * mask[..., None]
    norm = noise.double().square().sum().sqrt()
    return (noise / norm if norm > 0 else noise)[None]


def curve_perturbation(
    key: Tensor, value: Tensor, mask: Tensor, delta: float, *, seed: int, prompt: int, number: int, layer: int
) -> Perturbation:
    """The perturbation of one layer for the sensitivity curve. number: of the direction. delta: relative to the RMS."""
    pair = []
    for offset, x in enumerate((key, value)):
        unit = direction(x, mask, seeds.generator(seed, seeds.SENSITIVITY, prompt, number, layer, offset=offset))
        pair.append((unit * (delta * whole_rms(x))).to(x))
    return Perturbation(*pair)


def head_perturbation(
    key: Tensor, value: Tensor, mask: Tensor, delta: float, *, seed: int, prompt: int, number: int, layer: int, head: int
) -> Perturbation:
    """The perturbation of one KV head for the amplification map, scaled by the RMS over all heads; `mask` `[Hkv, T]`.

    Drawn for that head alone: `(prompt, direction, layer, head)` names it, so the other heads need no numbers.
    """
    parts = (prompt, number, layer, head)
    pair = []
    for offset, x in enumerate((key, value)):
        own = slice(head, head + 1)
        unit = direction(x[:, own], mask[own], seeds.generator(seed, seeds.AMPLIFICATION, *parts, offset=offset))
        whole = torch.zeros_like(x)
        whole[:, own] = (unit * (delta * whole_rms(x))).to(x)
        pair.append(whole)
    return Perturbation(*pair)


def perturbed(pair: LayerTensors, change: Perturbation) -> LayerTensors:
    """Keys and values after the perturbation, new tensors; a perturbation of fewer tokens changes the last ones."""
    key, value = pair
    before = key.shape[2] - change.key.shape[2]  # a sliding window stores fewer than one pass over the prompt reads
    return key + F.pad(change.key, (0, 0, before, 0)), value + F.pad(change.value, (0, 0, before, 0))


def top_logits(clean: Tensor, count: int) -> Tensor | None:
    """Indices of the `count` largest clean logits of each row, `[n, count]`; None when that is all of `[n, V]`."""
    return None if count >= clean.shape[-1] else clean.topk(count).indices


def kept_logits(logits: Tensor, kept: Tensor | None) -> Tensor:
    """The logits that count, `[n, k]`: those at `kept` `[n, k]`, all of them for None; logits `[n, V]`."""
    return logits if kept is None else logits.gather(-1, kept)


def drifts(reference: Tensor, changed: Tensor) -> list[float]:
    """`||changed - reference||_2` of every row; logits `[n, k]` in float32, their norm in float64."""
    return [float(norm) for norm in (changed.float() - reference.float()).double().norm(dim=-1)]


def gain(change: float, norm: float) -> float:
    """Drift per unit of perturbation, `drift / max(||D||_F, 1e-8)`, `||D||_F` with 1e-8 under the root."""
    return change / max(math.sqrt(norm**2 + EPS), EPS)


def lower_median(values: Iterable[float]) -> float | None:
    """The middle value, the lower one of two; None of nothing."""
    found: Sequence[float] = sorted(values)
    return statistics.median_low(found) if found else None
