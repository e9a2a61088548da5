"""Corrupt the keys and values of one layer, with draws that depend on nothing but their counter.

    key    [B, Hkv, T, dk]  as cached (after rotation and key normalisation)
    value  [B, Hkv, T, dv]
    starts [B] int64, the first real token of each left-padded row; None when no row is padded

A row is corrupted exactly as it would be alone: masks, windows and quantisation scales count from its own first real
token, and its draws come from `(seed, stream, phase, unit, example, layer)`. All draws are made in float32 on the CPU,
K first, V second. (specs/medic.md, section 2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cachemedicpp import seeds
from cachemedicpp.faults import operators
from cachemedicpp.faults.events import Axes, Event, OperatorParams, Severity, severity_share, unwrap
from cachemedicpp.faults.masks import head_mask, layer_active, mask_draws, time_mask
from modelwright.errors import UsageError

LayerTensors = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class DonorCache:
    """What `contiguous_overwrite` copies: per protected layer the clean K and V of the donor prompt, `[Hkv, T, d]`.

    Copying starts at donor step 0, whatever the position in the sequence; `as_dict` says so in the log.
    """

    prompt: str
    tokens: int
    layers: Mapping[int, LayerTensors] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        return {"donor_prompt": self.prompt, "donor_tokens": self.tokens, "donor_first_index": 0}


@dataclass(frozen=True)
class Corruption:
    """What stays the same over a run: seed, protected layers, and the `corruption` part of the configuration."""

    seed: int
    protected: tuple[int, ...]
    axes: Axes = field(default_factory=Axes)
    params: OperatorParams = field(default_factory=OperatorParams)
    severity: Severity = "scaled"
    donor: DonorCache | None = None


@dataclass(frozen=True)
class DrawCounter:
    """Which draws: the phase (constants of `seeds`), the unit (a training step, or `seeds.unit_number` of a named unit),
    and the example number of every batch row. The defence must not be part of it.
    """

    phase: int
    unit: int
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Corrupted:
    """Keys and values after corruption, and where it struck.

    mask: bool `[B, Hkv, T]` on the device of `key` (head mask AND time mask), None when nothing was struck: then `key`
    and `value` are the very tensors that came in. heads, steps: per row, how many KV heads and steps were struck.
    """

    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    heads: tuple[int, ...]
    steps: tuple[int, ...]


def corrupt(
    corruption: Corruption,
    event: Event,
    counter: DrawCounter,
    layer: int,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor | None = None,
) -> Corrupted:
    """Apply `event` to one layer. Elements outside the masks keep their bits, and the inputs are never changed in place.

    Raises UsageError when the batch does not match the counter or `starts`, or when an overwrite has no donor for this
    layer; ConfigError when `targeted` has no target.
    """
    nothing = (0,) * key.shape[0]
    event, axes = unwrap(event, corruption.axes, corruption.params)
    if event.harmless or layer not in corruption.protected:
        return Corrupted(key, value, None, nothing, nothing)
    rows = _rows(corruption, axes, counter, layer, key, starts)
    mask = torch.zeros(key.shape[:3], dtype=torch.bool)
    for index, row in enumerate(rows):
        mask[index, :, row.start :] = row.heads[:, None] & row.steps
    heads = tuple(int(row.heads.sum()) for row in rows)
    steps = tuple(int(row.steps.sum()) for row in rows)
    if not mask.any():
        return Corrupted(key, value, None, heads, steps)
    damaged_key, damaged_value, reach = _damaged(corruption, axes, event, layer, key, value, rows)
    mask = mask.to(key.device)
    struck = mask[..., None] if reach is None else (mask & reach.to(key.device))[..., None]
    return Corrupted(torch.where(struck, damaged_key, key), torch.where(struck, damaged_value, value), mask, heads, steps)


def event_record(event: Event, results: Iterable[Corrupted]) -> dict[str, Any]:
    """The event as the training log shows it: type, epsilon, mean struck heads and steps over layers and rows."""
    found = list(results)
    heads = [count for result in found for count in result.heads]
    steps = [count for result in found for count in result.steps]
    return {
        "type": event.type,
        "epsilon": event.epsilon,
        "head_count_mean": sum(heads) / max(1, len(heads)),
        "time_count_mean": sum(steps) / max(1, len(steps)),
    }


@dataclass(frozen=True)
class _Row:
    """One sequence of the batch: its first real token, its masks (`[Hkv]`, `[length]`), and its generator, which stands
    behind the mask draws.
    """

    start: int
    length: int
    heads: torch.Tensor
    steps: torch.Tensor
    generator: torch.Generator


def _rows(
    corruption: Corruption, axes: Axes, counter: DrawCounter, layer: int, key: torch.Tensor, starts: torch.Tensor | None
) -> Sequence[_Row]:
    batch, num_heads, total, _ = key.shape
    if len(counter.examples) != batch:
        raise UsageError(f"The batch has {batch} rows and the counter {len(counter.examples)} example numbers; give one per row.")
    first = [0] * batch if starts is None else [int(start) for start in starts.tolist()]
    if len(first) != batch or not all(0 <= start <= total for start in first):
        raise UsageError(f"starts is {first} for {batch} rows of {total} tokens; give the first real token of every row, 0 to {total}.")
    rows = []
    for example, start in zip(counter.examples, first, strict=True):
        generator = seeds.generator(corruption.seed, seeds.CORRUPTION, counter.phase, counter.unit, example, layer)
        draws = mask_draws(num_heads, generator)
        length = total - start
        heads, steps = head_mask(axes, draws), time_mask(axes, length)
        if not layer_active(axes, layer, draws):
            heads, steps = torch.zeros_like(heads), torch.zeros_like(steps)
        rows.append(_Row(start, length, heads, steps, generator))
    return rows


def _damaged(
    corruption: Corruption, axes: Axes, event: Event, layer: int, key: torch.Tensor, value: torch.Tensor, rows: Sequence[_Row]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Keys and values damaged everywhere, and where beyond the masks the damage ends (bool `[B, 1, T]`, or None)."""
    params, share = corruption.params, severity_share(event.epsilon, corruption.severity)
    if event.type == "gaussian":
        noise_key, noise_value = _drawn(rows, key, value, torch.randn)
        return operators.add_noise(key, noise_key, event.epsilon), operators.add_noise(value, noise_value, event.epsilon), None
    if event.type == "dropout_zero":
        widest = key if key.shape[-1] >= value.shape[-1] else value
        dropped = _placed(rows, widest, lambda row, shape: torch.rand(shape, generator=row.generator) < params.dropout_p * share)
        return operators.zero_out(key, dropped[..., : key.shape[-1]]), operators.zero_out(value, dropped[..., : value.shape[-1]]), None
    if event.type == "orthogonal_rotation":
        return operators.rotate(key, params.rotation_seed, share), operators.rotate(value, params.rotation_seed, share), None
    if event.type == "bitflipish_sparse":
        choice_key, choice_value = _drawn(rows, key, value, _flip_choice(params.bitflip_p * share))
        return _flipped(key, choice_key, params.bitflip_eps_jump), _flipped(value, choice_value, params.bitflip_eps_jump), None
    if event.type == "quant_noise":
        real = _real(rows, key.shape[2])
        quantised = [operators.quantise(x, params.quant_bits, share, real) for x in (key, value)]
        return quantised[0], quantised[1], None
    window = params.overwrite_window
    if axes.time_mode == "window" and axes.window is not None:
        window = (axes.window[0], axes.window[1])
    return _overwritten(corruption.donor, window, share, layer, key, value, rows)


def _placed(rows: Sequence[_Row], like: torch.Tensor, make: Callable[[_Row, tuple[int, int, int]], torch.Tensor]) -> torch.Tensor:
    """What `make(row, (struck heads, struck steps, d))` draws for each row, put in its place: `[B, Hkv, T, d]` on CPU.

    Only struck elements are drawn, in canonical runs a quarter of all; the rest is zeros.
    """
    num_heads, total, width = like.shape[1:]
    placed: torch.Tensor | None = None
    for index, row in enumerate(rows):
        heads, steps = row.heads.nonzero().flatten(), row.steps.nonzero().flatten() + row.start
        if not heads.numel() or not steps.numel():
            continue
        part = make(row, (heads.numel(), steps.numel(), width))
        if placed is None:
            placed = torch.zeros(len(rows), num_heads, total, width, dtype=part.dtype)
        placed[index, heads, int(steps[0]) : int(steps[-1]) + 1] = part  # struck steps are one span
    return torch.zeros(len(rows), num_heads, total, width) if placed is None else placed


def _drawn(
    rows: Sequence[_Row], key: torch.Tensor, value: torch.Tensor, draw: Callable[..., torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`draw(shape, generator=…)` for K, then for V; every row's generator goes on from K to V."""

    def one(row: _Row, shape: tuple[int, int, int]) -> torch.Tensor:
        return draw(shape, generator=row.generator)

    return _placed(rows, key, one), _placed(rows, value, one)


_NEGATED = 2


def _flip_choice(probability: float) -> Callable[..., torch.Tensor]:
    """Draws `u1, u2, n` and returns per element what happens, int8: 0 nothing, 2 negation, -1 or 1 a jump of that sign."""

    def draw(shape: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
        selected = torch.rand(shape, generator=generator) < probability
        negated = torch.rand(shape, generator=generator) < 0.5
        sign = torch.randn(shape, generator=generator).sign().to(torch.int8)
        return torch.where(negated, torch.full_like(sign, _NEGATED), sign) * selected

    return draw


def _flipped(x: torch.Tensor, choice: torch.Tensor, jump: float) -> torch.Tensor:
    choice = choice.to(x.device)
    negated = choice == _NEGATED
    return operators.flip(x, negated, choice.masked_fill(negated, 0), jump)


def _real(rows: Sequence[_Row], total: int) -> torch.Tensor | None:
    """Which steps are no padding, bool `[B, T]` on CPU; None when all are real."""
    if not any(row.start for row in rows):
        return None
    return torch.arange(total) >= torch.tensor([row.start for row in rows])[:, None]


def _overwritten(
    donor: DonorCache | None,
    window: tuple[int, int],
    share: float,
    layer: int,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Sequence[_Row],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if donor is None or layer not in donor.layers:
        what = "no donor cache" if donor is None else f"a donor cache without layer {layer}"
        raise UsageError(f"contiguous_overwrite has {what}; build it for every protected layer with donor_cache first.")
    donor_key, donor_value = (part.to(key) for part in donor.layers[layer])
    new_key, new_value = key.clone(), value.clone()
    reach = torch.zeros(len(rows), 1, key.shape[2], dtype=torch.bool)
    for index, row in enumerate(rows):
        first, last = operators.overwrite_span(window, row.length, donor_key.shape[-2], share)
        place = slice(row.start + first, row.start + last)
        new_key[index, :, place] = donor_key[:, : last - first]
        new_value[index, :, place] = donor_value[:, : last - first]
        reach[index, :, place] = True
    return new_key, new_value, reach
