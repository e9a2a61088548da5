"""Measuring how far the next-token logits drift when the cache is disturbed a little. (specs/medic.md, 5.1, 5.2; [C18] [C19] [C20])

    bench = StabilityBench(model, setup, {"cachemedic": operator}, prompts)
    bench.curve(1.0)               # drift of every variant under the same perturbations, by prompt
    bench.amplification(3, 1.0)    # drift per unit of perturbation in layer 3, by KV head

Prompts are prefilled once and go through the model in batches, one row for each prompt and direction (and head). The model is
to be loaded in float32: at delta = 1 an element moves by less than a bfloat16 step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cachemedicpp.evaluation.defences import KEPT_BYTES, tensors_of
from cachemedicpp.repair.operator import layout_of
from cachemedicpp.sensitivity.passes import PLAIN, Passes, Place, StabilitySetup, State, Variant
from cachemedicpp.sensitivity.perturbations import drifts, gain, lower_median
from cachemedicpp.sensitivity.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cachemedicpp.repair.operator import RepairOperator

BASELINE, HEURISTIC, REPAIRED, NO_CONTRACTION = PLAIN.name, "heuristics", "cachemedic", "cachemedic_no_contr"
CURVES = (BASELINE, HEURISTIC, REPAIRED, NO_CONTRACTION)
ROWS = 64
"""Rows of one pass at most."""
PASS_BYTES = 1 << 30
"""Keys and values of one pass at most, for the longest prompt."""

Between = Callable[[], None]


@dataclass(frozen=True)
class Drifts:
    """One variant at one delta: means over the directions, one number for each prompt in order of the index.

    value: from the clean unrepaired logits, `||z_v(S + D) - z(S)||`. at_zero: the same without perturbation. response: from the
    variant's own undisturbed logits, `||z_v(S + D) - z_v(S)||`.
    """

    value: tuple[float, ...]
    at_zero: tuple[float, ...]
    response: tuple[float, ...]


@dataclass(frozen=True)
class CurvePoint:
    """All variants under the same perturbations. norms: sizes of D in one layer, means over prompts, directions and layers."""

    delta: float
    variants: Mapping[str, Drifts]
    norms: Mapping[str, float]


@dataclass(frozen=True)
class AmplificationRow:
    """One layer of the map, by head: lower medians over prompts and directions.

    repaired: `||z_r(S + D) - z(S)|| / ||D||`, in which the clean drift of the repair stands too. response: without it,
    `||z_r(S + D) - z_r(S)|| / ||D||`.
    """

    layer: int
    baseline: tuple[float | None, ...]
    repaired: tuple[float | None, ...]
    response: tuple[float | None, ...]


class StabilityBench:
    """The curves and the map of one model. operators: `cachemedic`, and `cachemedic_no_contr` where there is a counterpart."""

    def __init__(
        self, model: PreTrainedModel, setup: StabilitySetup, operators: Mapping[str, RepairOperator], prompts: Sequence[Prompt]
    ) -> None:
        self.setup, self.passes = setup, Passes(model, setup)
        self.repaired = Variant(REPAIRED, operators[REPAIRED])
        others = [Variant(NO_CONTRACTION, operators[NO_CONTRACTION])] if NO_CONTRACTION in operators else []
        self.variants = (PLAIN, Variant(HEURISTIC, heuristic=True), self.repaired, *others)
        self.rows = _rows_of_a_pass(model, max(len(prompt.ids) for prompt in prompts))
        size = 1 if setup.inline else max(1, self.rows // setup.directions)
        ordered = sorted(prompts, key=lambda prompt: (len(prompt.ids), prompt.index))  # little padding
        self.batches = [tuple(ordered[first : first + size]) for first in range(0, len(ordered), size)]
        self._states: dict[int, State] = {}
        self._kept_bytes = 0

    @torch.no_grad()
    def curve(self, delta: float, between: Between | None = None) -> CurvePoint:
        """The drift of every variant at `delta`. between: called before every pass of a variant; may raise."""
        setup, passes = self.setup, self.passes
        found: dict[str, dict[int, list[tuple[float, float, float]]]] = {variant.name: {} for variant in self.variants}
        norms: list[Mapping[str, float]] = []
        for state, places in self._passes([(number, None) for number in range(setup.directions)]):
            changes = {layer: passes.change(state, layer, places, delta) for layer in setup.layers}
            norms += [size for layer, change in changes.items() for size in passes.sizes(state, layer, len(places), change)]
            clean = passes.undisturbed(state, places, PLAIN)
            for variant in self.variants:
                if between is not None:
                    between()
                own = passes.undisturbed(state, places, variant)
                moved = passes.logits(state, places, variant, changes)
                rows = zip(drifts(clean, moved), drifts(clean, own), drifts(own, moved), strict=True)
                for row, three in enumerate(rows):
                    found[variant.name].setdefault(state.prompts[row // len(places)].index, []).append(three)
        means = {name: sum(size[name] for size in norms) / len(norms) for name in norms[0]}
        return CurvePoint(delta, {name: _over_directions(prompts) for name, prompts in found.items()}, means)

    @torch.no_grad()
    def amplification(self, layer: int, delta: float, between: Between | None = None) -> AmplificationRow:
        """The row of one layer: only it is disturbed and only it is repaired. between: called before every batch; may raise."""
        passes, heads = self.passes, self.setup.heads
        repaired = replace(self.repaired, name=f"{REPAIRED} in layer {layer}", layers=(layer,))
        gains: dict[int | None, list[tuple[float, float, float]]] = {head: [] for head in heads}
        undisturbed: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for state, places in self._passes([(number, head) for head in heads for number in range(self.setup.directions)]):
            if between is not None:
                between()
            shape = (state.prompts[0].index, len(places))  # without perturbation all places of a prompt are one
            if shape not in undisturbed:
                undisturbed = {shape: (passes.logits(state, places, PLAIN), passes.logits(state, places, repaired))}
            clean, own = undisturbed[shape]
            change = passes.change(state, layer, places, delta)
            plain = passes.logits(state, places, PLAIN, {layer: change})
            moved = passes.logits(state, places, repaired, {layer: change})
            rows = zip(drifts(clean, plain), drifts(clean, moved), drifts(own, moved), change.norms, strict=True)
            for row, (first, second, third, norm) in enumerate(rows):
                gains[places[row % len(places)][1]].append((gain(first, norm), gain(second, norm), gain(third, norm)))
        columns = [tuple(lower_median(three[part] for three in gains[head]) for head in heads) for part in range(3)]
        return AmplificationRow(layer, columns[0], columns[1], columns[2])

    def _passes(self, places: Sequence[Place]) -> Iterator[tuple[State, tuple[Place, ...]]]:
        """Every batch of prompts with as many of `places` at once as a pass has rows for."""
        for number in range(len(self.batches)):
            state = self._state(number)
            count = max(1, self.rows // len(state.prompts))
            for first in range(0, len(places), count):
                yield state, tuple(places[first : first + count])

    def _state(self, number: int) -> State:
        """The clean state of a batch, kept in memory as far as there is room for it and for what is remembered of its passes."""
        if number in self._states:
            return self._states[number]
        state = self.passes.prefilled(self.batches[number])
        logits = len(state.prompts) * self.setup.directions * self.setup.topk * len(self.variants)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(state.clean.cache)) + 4 * logits
        if self._kept_bytes + size <= KEPT_BYTES:
            self._states[number], self._kept_bytes = state, self._kept_bytes + size
        return state


def _rows_of_a_pass(model: PreTrainedModel, longest: int) -> int:
    """How many copies of the cache of a prompt of `longest` tokens a pass may hold."""
    layout, layers = layout_of(model), model.config.get_text_config().num_hidden_layers
    of_a_row = 2 * layers * layout.kv_heads * layout.head_dim * longest * 4
    return max(1, min(ROWS, PASS_BYTES // of_a_row))


def _over_directions(found: Mapping[int, Sequence[tuple[float, float, float]]]) -> Drifts:
    means = [tuple(sum(part) / len(part) for part in zip(*found[index], strict=True)) for index in sorted(found)]
    value, at_zero, response = zip(*means, strict=True)
    return Drifts(value, at_zero, response)
