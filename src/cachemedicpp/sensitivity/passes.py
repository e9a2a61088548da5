"""The passes behind the stability metrics: one token decoded on many disturbed copies of a clean cache. (specs/medic.md, 5.1; [C5] [C6])

    passes = Passes(model, setup)
    state = passes.prefilled(prompts)                          # clean caches of everything but the last tokens
    change = passes.change(state, layer, places, delta)        # D of every row, the same whatever variant runs on it
    passes.logits(state, places, variant, {layer: change})     # next-token logits of every row

A prompt has one row for each place. With `inject: inline` (reproduction) a row is the whole prompt in one pass, disturbed
inside attention, and a state holds one prompt.

Letters: P prompts of a batch, n places, Hkv KV heads, T cached tokens, V vocabulary, k logits that count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cachemedicpp import seeds
from cachemedicpp.evaluation.defences import Prefilled, prefill, stored_logits
from cachemedicpp.faults.corruption import DrawCounter, LayerTensors
from cachemedicpp.faults.events import Axes
from cachemedicpp.faults.injection import fork_cache, layer_state, stored_starts
from cachemedicpp.faults.masks import time_mask
from cachemedicpp.inputs.tasks import Example
from cachemedicpp.repair.attention import CorruptionHook, protecting
from cachemedicpp.repair.forms import Form
from cachemedicpp.repair.heuristics import HeuristicSettings, defend, region_mask
from cachemedicpp.sensitivity.perturbations import (
    EPS,
    Perturbation,
    curve_perturbation,
    head_perturbation,
    kept_logits,
    perturbed,
    top_logits,
)
from cachemedicpp.sensitivity.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cachemedicpp.repair.cache import Checks
    from cachemedicpp.repair.operator import RepairOperator

Place = tuple[int, int | None]
"""The number of a direction, and the KV head it is confined to (None: all heads)."""


@dataclass(frozen=True)
class StabilitySetup:
    """What stays the same over a measurement.

    layers, heads: that are disturbed (heads in the map only). axes: the time region. topk: logits that count. heuristic: the
    defence of the second curve, which acts in the disturbed region, at delta = 0 too. form: how the repair runs, None for the
    form that serves. inline: `inject: inline`.
    """

    seed: int
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    directions: int
    topk: int
    axes: Axes
    heuristic: str
    heuristics: HeuristicSettings = field(default_factory=HeuristicSettings)
    form: Form | None = None
    inline: bool = False


@dataclass(frozen=True)
class Variant:
    """A way to run the model. layers: where the operator works, None for all it protects. heuristic: whether it acts."""

    name: str
    operator: RepairOperator | None = None
    layers: tuple[int, ...] | None = None
    heuristic: bool = False


PLAIN = Variant("baseline")


@dataclass
class State:
    """A batch of prompts, their clean cache, the logits that count (`[P, k]`, None for all), and what is remembered of passes."""

    prompts: tuple[Prompt, ...]
    clean: Prefilled
    kept: Tensor | None = None
    undisturbed: dict[tuple[str, tuple[Place, ...]], Tensor] = field(default_factory=dict)


class Passes:
    """Runs one model, in eval mode and float32, under one setup. Call its methods without gradients."""

    def __init__(self, model: PreTrainedModel, setup: StabilitySetup) -> None:
        self.model, self.setup = model, setup

    def prefilled(self, prompts: tuple[Prompt, ...]) -> State:
        """The clean state of a batch of prompts (one prompt when inline)."""
        cut = None if self.setup.inline else -1
        # The last token stands behind the cache; nothing is scored, which an example has no way to say.
        examples = [
            Example("stability", prompt.index, prompt.item, prompt.ids[:cut], prompt.ids[-1:], (prompt.ids[-1:],)) for prompt in prompts
        ]
        state = State(prompts, prefill(self.model, examples))
        # By a pass of its own, whichever unit a session begins with: a resume must count the very same logits.
        state.kept = top_logits(self.logits(state, ((0, None),), PLAIN), self.setup.topk)
        return state

    def undisturbed(self, state: State, places: tuple[Place, ...], variant: Variant) -> Tensor:
        """`logits` without perturbation, remembered: by a pass of the same shape, so that a drift holds no rounding of shapes."""
        name = (variant.name, places)
        if name not in state.undisturbed:
            state.undisturbed[name] = self.logits(state, places, variant)
        return state.undisturbed[name]

    def logits(self, state: State, places: Sequence[Place], variant: Variant, changes: Mapping[int, Perturbation] | None = None) -> Tensor:
        """The next-token logits that count, `[P n, k]`, rows of a prompt together. changes: by layer, of those of the setup."""

        def disturbed(layer: int, key: Tensor, value: Tensor, starts: Tensor | None) -> LayerTensors:
            if changes and layer in changes:
                key, value = perturbed((key, value), changes[layer])
            if variant.heuristic:
                key, value = self._defended(state, places, layer, key, value, starts)
            return key, value

        count = len(places)
        logits = self._inline(state, count, variant, disturbed) if self.setup.inline else self._stored(state, count, variant, disturbed)
        return kept_logits(logits, None if state.kept is None else state.kept.repeat_interleave(count, dim=0))

    # --- perturbations

    def change(self, state: State, layer: int, places: Sequence[Place], delta: float) -> Perturbation:
        """D of one layer for every row, `[P n, Hkv, T, d]`, 0 in the padding."""
        setup = self.setup
        key, value = layer_state(state.clean.cache, layer)
        rows: list[Perturbation] = []
        for row, (prompt, start) in enumerate(zip(state.prompts, _first_tokens(state, layer), strict=True)):
            pair = (key[row : row + 1, :, start:], value[row : row + 1, :, start:])
            mask = time_mask(setup.axes, key.shape[2] - start).expand(key.shape[1], -1)
            for number, head in places:
                where: dict[str, Any] = {"seed": setup.seed, "prompt": prompt.index, "number": number, "layer": layer}
                if head is None:
                    change = curve_perturbation(*pair, mask, delta, **where)
                else:
                    change = head_perturbation(*pair, mask, delta, **where, head=head)
                rows.append(Perturbation(F.pad(change.key, (0, 0, start, 0)), F.pad(change.value, (0, 0, start, 0))))
        return Perturbation(torch.cat([change.key for change in rows]), torch.cat([change.value for change in rows]))

    def sizes(self, state: State, layer: int, count: int, change: Perturbation) -> list[dict[str, float]]:
        """How large D is in every row of a layer: K and V jointly, and relative to what is stored. count: of places."""
        first = _first_tokens(state, layer)
        stored = layer_state(state.clean.cache, layer)
        whole = [[max(EPS, float(x[row, :, start:].double().norm())) for row, start in enumerate(first)] for x in stored]
        sizes = []
        for row, (k, v) in enumerate(zip(*change.side_norms, strict=True)):
            of_key, of_value = whole[0][row // count], whole[1][row // count]
            pair, stored_pair = math.hypot(k, v), math.hypot(of_key, of_value)
            relative = {"delta_pair_rel_norm": pair / stored_pair, "delta_k_rel_norm": k / of_key, "delta_v_rel_norm": v / of_value}
            sizes.append({"delta_pair_norm": pair, **relative})
        return sizes

    # --- the two places where a perturbation can enter

    def _stored(self, state: State, count: int, variant: Variant, disturbed: CorruptionHook) -> Tensor:
        """The last tokens on the stored cache, `[P n, V]`."""
        rows = _widened(state.clean, count)
        checks = _checks(variant.operator, rows.cache)
        for layer in self.setup.layers:
            held = rows.cache.layers[layer]
            held.keys, held.values = disturbed(layer, *layer_state(rows.cache, layer), stored_starts(rows.cache, layer, rows.starts))
        repairing: AbstractContextManager[None] = nullcontext()
        if variant.operator is not None:
            repairing = protecting(self.model, variant.operator, self.setup.form, layers=variant.layers, checks=checks)
        with repairing:
            tails = [prompt.ids[-1:] for prompt in state.prompts for _ in range(count)]
            return stored_logits(self.model, rows, rows.cache)(tails)[:, -1]

    def _inline(self, state: State, count: int, variant: Variant, disturbed: CorruptionHook) -> Tensor:
        """The whole prompt in one pass, disturbed where attention reads, `[n, V]`."""
        (prompt,) = state.prompts

        def hook(layer: int, key: Tensor, value: Tensor, starts: Tensor | None) -> LayerTensors:
            return disturbed(layer, key, value, None) if layer in self.setup.layers else (key, value)

        layers = self.setup.layers if variant.operator is None else variant.layers
        with protecting(self.model, variant.operator, self.setup.form if variant.operator else None, corrupt=hook, layers=layers):
            ids = torch.tensor([prompt.ids] * count, device=self.model.device)
            found: Tensor = self.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return found[:, -1]

    def _defended(
        self, state: State, places: Sequence[Place], layer: int, key: Tensor, value: Tensor, starts: Tensor | None
    ) -> LayerTensors:
        """The heuristic on one layer, in the region that is disturbed. [C18] [C24]"""
        setup, (batch, heads, length) = self.setup, key.shape[:3]
        mask = region_mask(setup.axes, batch, heads, length, starts).to(key.device)
        if setup.heuristic == "masking_dropout":  # its draws have a stream of their own here, one for each direction
            rows = [(prompt.index, number) for prompt in state.prompts for number, _ in places]
            dropped = torch.zeros(batch, heads, length, max(key.shape[-1], value.shape[-1]), dtype=torch.bool)
            for row, (prompt, number) in enumerate(rows):
                start = 0 if starts is None else int(starts[row])
                draws = seeds.generator(setup.seed, seeds.HEURISTIC_DIRECTION, prompt, number, layer)
                dropped[row, :, start:] = torch.rand(heads, length - start, dropped.shape[-1], generator=draws) < setup.heuristics.dropout_p
            struck = dropped.to(key.device) & mask[..., None]
            return key.masked_fill(struck[..., : key.shape[-1]], 0), value.masked_fill(struck[..., : value.shape[-1]], 0)
        nobody = DrawCounter(seeds.STABILITY, 0, (0,) * batch)  # the other heuristics draw nothing
        return defend(setup.heuristic, setup.heuristics, key, value, mask, seed=setup.seed, counter=nobody, layer=layer, starts=starts)


def _first_tokens(state: State, layer: int) -> list[int]:
    """The first real token of every prompt in what the layer stores."""
    starts = stored_starts(state.clean.cache, layer, state.clean.starts)
    return [0] * len(state.prompts) if starts is None else [int(start) for start in starts]


def _widened(clean: Prefilled, count: int) -> Prefilled:
    """A copy in which every row stands `count` times, rows of a prompt together."""
    cache = fork_cache(clean.cache)
    cache.batch_repeat_interleave(count)
    examples = tuple(example for example in clean.examples for _ in range(count))
    starts = None if clean.starts is None else clean.starts.repeat_interleave(count)
    return Prefilled(examples, cache, clean.mask.repeat_interleave(count, dim=0), starts)


def _checks(operator: RepairOperator | None, cache: Any) -> Checks | None:
    """The checksums that a checksum gate kept when the clean tokens were cached; None where there is no such gate."""
    gated = None if operator is None else operator.spec.token_gate
    if operator is None or gated is None or not gated.checksum:
        return None
    return {layer: operator.checks(layer, *layer_state(cache, layer)) for layer in operator.spec.protect_layers}
