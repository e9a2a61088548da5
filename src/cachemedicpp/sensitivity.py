"""Perturbations of a stored cache and the drift of the next-token logits they cause: the arithmetic of the stability metrics.

    D_K = delta * RMS(K[l]) * u_K,  u_K normal inside the mask, 0 outside, Frobenius norm 1 over the mask;  V alike

Every draw is named by (prompt, direction, layer), so all variants of a measurement see the same D. Keys and values
`[1, Hkv, T, d]`: one prompt at a time. (specs/medic.md, 5.1 and 5.2)
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cachemedicpp import seeds
from cachemedicpp.corruption import LayerTensors

EPS = 1e-8


@dataclass(frozen=True)
class Perturbation:
    """What is added to the keys and values of one layer, `[1, Hkv, T, d]`, the same dtype and device."""

    key: Tensor
    value: Tensor

    @property
    def norm(self) -> float:
        """Frobenius norm over keys and values jointly."""
        return float((self.key.double().square().sum() + self.value.double().square().sum()).sqrt())


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
    parts = (prompt, number, layer)
    return _scaled(key, value, mask, delta, seed, seeds.SENSITIVITY, parts)


def head_perturbation(
    key: Tensor, value: Tensor, mask: Tensor, delta: float, *, seed: int, prompt: int, number: int, layer: int, head: int
) -> Perturbation:
    """The perturbation of one KV head for the amplification map; `mask` is cut down to that head."""
    only = torch.zeros_like(mask)
    only[head] = mask[head]
    return _scaled(key, value, only, delta, seed, seeds.AMPLIFICATION, (prompt, number, layer, head))


def perturbed(pair: LayerTensors, change: Perturbation) -> LayerTensors:
    """Keys and values after the perturbation, new tensors."""
    return pair[0] + change.key, pair[1] + change.value


def top_logits(clean: Tensor, count: int) -> Tensor | None:
    """Indices of the `count` largest clean logits `[V]`; None when that is all of them."""
    return None if count >= clean.shape[-1] else clean.topk(count).indices


def drift(clean: Tensor, changed: Tensor, kept: Tensor | None) -> float:
    """`||changed - clean||_2` over the logits `kept` (all for None); logits `[V]`, taken in float32."""
    difference = changed.float() - clean.float()
    return float((difference if kept is None else difference[kept]).double().norm())


def gain(change: float, norm: float) -> float:
    """Drift per unit of perturbation, `drift / max(||D||, 1e-8)`."""
    return change / max(norm, EPS)


def lower_median(values: Iterable[float]) -> float | None:
    """The middle value, the lower one of two; None of nothing."""
    found: Sequence[float] = sorted(values)
    return statistics.median_low(found) if found else None


def _scaled(key: Tensor, value: Tensor, mask: Tensor, delta: float, seed: int, stream: int, parts: tuple[int, ...]) -> Perturbation:
    pair = []
    for offset, x in enumerate((key, value)):
        unit = direction(x, mask, seeds.generator(seed, stream, *parts, offset=offset))
        pair.append((unit * (delta * whole_rms(x))).to(x))
    return Perturbation(*pair)
