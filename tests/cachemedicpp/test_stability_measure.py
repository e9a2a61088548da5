"""Curves and map against a plain loop of single passes, on several models and forms (specs/medic.md, 5.1, 5.2; acceptance 38)."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from cachemedicpp.faults.corruption import DrawCounter
from cachemedicpp.faults.events import Axes
from cachemedicpp.faults.injection import fork_cache, layer_state
from cachemedicpp.faults.masks import time_mask
from cachemedicpp.repair.attention import protecting
from cachemedicpp.repair.heuristics import HeuristicSettings, defend, region_mask
from cachemedicpp.repair.operator import RepairOperator, layout_of
from cachemedicpp.repair.spec import OperatorSpec, TokenGateSpec
from cachemedicpp.sensitivity import measure as stability_measure
from cachemedicpp.sensitivity.measure import BASELINE, HEURISTIC, NO_CONTRACTION, REPAIRED, StabilityBench
from cachemedicpp.sensitivity.passes import StabilitySetup
from cachemedicpp.sensitivity.perturbations import Perturbation, curve_perturbation, head_perturbation, perturbed
from cachemedicpp.sensitivity.prompts import Prompt
from cachemedicpp.sensitivity.records import sensitivity, standard_error
from helpers.tiny_random import random_gpt2, random_llama, random_qwen3

AXES = Axes(time_mode="old_only", N_recent=8)
SETUP = StabilitySetup(7, (0, 1), (0, 1), directions=2, topk=50, axes=AXES, heuristic="smoothing")
PROMPTS = tuple(
    Prompt(index, index, tuple(torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(index)).tolist()))
    for index, length in enumerate((40, 28, 33))
)


def trained(model: Any, family: str = "A", scale: float = 0.2, **spec: Any) -> RepairOperator:
    operator = RepairOperator(OperatorSpec(family, 4, (0, 1), **spec), layout_of(model)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * scale)
    return operator


def cached(model: Any, prompt: Prompt) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([prompt.ids[:-1]]), past_key_values=cache, use_cache=True)
    return cache


def decoded(model: Any, prompt: Prompt, cache: DynamicCache, changes: dict[int, Perturbation] | None = None) -> Tensor:
    """One pass for one prompt, `[V]`."""
    state = fork_cache(cache)
    for layer, change in (changes or {}).items():
        state.layers[layer].keys, state.layers[layer].values = perturbed(layer_state(state, layer), change)
    logits: Tensor = model(input_ids=torch.tensor([prompt.ids[-1:]]), past_key_values=state, use_cache=True).logits[0, -1]
    return logits


def change_of(cache: DynamicCache, prompt: Prompt, layer: int, number: int, delta: float, head: int | None = None) -> Perturbation:
    pair = layer_state(cache, layer)
    mask = time_mask(AXES, pair[0].shape[2]).expand(pair[0].shape[1], -1)
    where: dict[str, Any] = {"seed": SETUP.seed, "prompt": prompt.index, "number": number, "layer": layer}
    return curve_perturbation(*pair, mask, delta, **where) if head is None else head_perturbation(*pair, mask, delta, **where, head=head)


def smoothed(cache: DynamicCache, changes: dict[int, Perturbation]) -> DynamicCache:
    state = fork_cache(cache)
    for layer in (0, 1):
        key, value = perturbed(layer_state(state, layer), changes[layer])
        mask = region_mask(AXES, 1, key.shape[1], key.shape[2])
        pair = defend("smoothing", HeuristicSettings(), key, value, mask, seed=0, counter=DrawCounter(0, 0, (0,)), layer=layer)
        state.layers[layer].keys, state.layers[layer].values = pair
    return state


@pytest.mark.parametrize("make", [random_llama, random_qwen3, random_gpt2], ids=["llama", "qwen3", "gpt2"])
def test_batched_curves_equal_single_passes(make: Any) -> None:
    model = make()
    operator, other = trained(model), trained(model, scale=0.3)
    bench = StabilityBench(model, SETUP, {REPAIRED: operator, NO_CONTRACTION: other}, PROMPTS)
    assert len(bench.batches) == 1  # prompts of three lengths go through together
    point = bench.curve(1.5)
    expected: dict[str, list[list[float]]] = {name: [] for name in (BASELINE, HEURISTIC, REPAIRED, NO_CONTRACTION)}
    with torch.no_grad():
        for prompt in PROMPTS:
            cache = cached(model, prompt)
            clean = decoded(model, prompt, cache)
            kept = clean.topk(50).indices
            found: dict[str, list[float]] = {name: [] for name in expected}
            for number in range(2):
                changes = {layer: change_of(cache, prompt, layer, number, 1.5) for layer in (0, 1)}
                found[BASELINE].append(float((decoded(model, prompt, cache, changes) - clean)[kept].norm()))
                found[HEURISTIC].append(float((decoded(model, prompt, smoothed(cache, changes)) - clean)[kept].norm()))
                for name, repair in ((REPAIRED, operator), (NO_CONTRACTION, other)):
                    with protecting(model, repair):
                        found[name].append(float((decoded(model, prompt, cache, changes) - clean)[kept].norm()))
            for name, values in found.items():
                expected[name].append(values)
    for name, prompts in expected.items():
        assert point.variants[name].value == pytest.approx([statistics.fmean(values) for values in prompts], rel=1e-3), name
    assert point.norms["delta_k_rel_norm"] == pytest.approx(point.norms["delta_v_rel_norm"], rel=0.2)
    assert point.norms["delta_pair_norm"] > 0


def test_the_map_equals_single_passes_and_repairs_one_layer_only() -> None:
    model = random_llama()
    operator = trained(model)
    row = StabilityBench(model, SETUP, {REPAIRED: operator}, PROMPTS).amplification(1, 0.5)
    for head in (0, 1):
        plain, repaired, response = [], [], []
        with torch.no_grad():
            for prompt in PROMPTS:
                cache = cached(model, prompt)
                clean = decoded(model, prompt, cache)
                kept = clean.topk(50).indices
                for number in range(2):
                    change = change_of(cache, prompt, 1, number, 0.5, head)
                    norm = change.norms[0]
                    plain.append(float((decoded(model, prompt, cache, {1: change}) - clean)[kept].norm()) / norm)
                    with protecting(model, operator, layers=(1,)):
                        moved, own = decoded(model, prompt, cache, {1: change}), decoded(model, prompt, cache)
                    repaired.append(float((moved - clean)[kept].norm()) / norm)
                    response.append(float((moved - own)[kept].norm()) / norm)
        assert row.baseline[head] == pytest.approx(statistics.median_low(plain), rel=1e-3)
        assert row.repaired[head] == pytest.approx(statistics.median_low(repaired), rel=1e-3)
        assert row.response[head] == pytest.approx(statistics.median_low(response), rel=1e-3)


def test_small_passes_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llama()
    setup = replace(SETUP, heuristic="masking_dropout")
    whole = StabilityBench(model, setup, {REPAIRED: trained(model)}, PROMPTS)
    monkeypatch.setattr(stability_measure, "ROWS", 1)
    monkeypatch.setattr(stability_measure, "KEPT_BYTES", 0)
    single = StabilityBench(model, setup, {REPAIRED: trained(model)}, PROMPTS)
    assert len(single.batches) == 3
    first, second = whole.curve(1.0), single.curve(1.0)
    for name, drifts in first.variants.items():
        assert drifts.value == pytest.approx(second.variants[name].value, rel=1e-3, abs=1e-4)
        assert drifts.response == pytest.approx(second.variants[name].response, rel=1e-3, abs=1e-4)
    assert first.norms == pytest.approx(second.norms, rel=1e-5)
    assert min(first.variants[HEURISTIC].at_zero) > 0  # the heuristic acts where nothing was disturbed, too
    ours, theirs = whole.amplification(0, 1.0), single.amplification(0, 1.0)
    assert ours.baseline == pytest.approx(theirs.baseline, rel=1e-3) and ours.repaired == pytest.approx(theirs.repaired, rel=1e-3)


def test_at_zero_the_drift_is_measured_and_a_small_delta_doubles() -> None:
    """Acceptance 38: the clean drift of a repair stands at delta = 0; undefended, twice a small delta drifts twice as far."""
    model = random_llama()
    bench = StabilityBench(model, SETUP, {REPAIRED: trained(model)}, PROMPTS)
    zero, small, double = (bench.curve(delta).variants for delta in (0.0, 0.05, 0.1))
    for repeated in (small, double):
        assert repeated[REPAIRED].at_zero == zero[REPAIRED].value and repeated[HEURISTIC].at_zero == zero[HEURISTIC].value
    assert min(zero[REPAIRED].value) > 0.01 and max(zero[BASELINE].value) == 0.0
    for one, two in zip(small[BASELINE].value, double[BASELINE].value, strict=True):
        assert one > 0 and two / one == pytest.approx(2.0, rel=0.05)
    fresh = StabilityBench(model, SETUP, {REPAIRED: RepairOperator(OperatorSpec("A", 4, (0, 1)), layout_of(model)).eval()}, PROMPTS)
    untrained = fresh.curve(1.0).variants
    assert max(untrained[REPAIRED].at_zero) < 1e-4
    assert untrained[REPAIRED].value == pytest.approx(untrained[BASELINE].value, rel=1e-4)


@pytest.mark.parametrize("form", ["extended", "materialised"])
def test_a_checksum_gate_compares_with_the_undisturbed_cache(form: Any) -> None:
    model, prompt = random_llama(), PROMPTS[0]
    operator = trained(model, "D", token_gate=TokenGateSpec(neighbour=True, checksum=True))
    bench = StabilityBench(model, replace(SETUP, form=form, directions=1), {REPAIRED: operator}, PROMPTS)
    with torch.no_grad():
        cache = cached(model, prompt)
        clean = decoded(model, prompt, cache)
        checks = {layer: operator.checks(layer, *layer_state(cache, layer)) for layer in (0, 1)}
        changes = {layer: change_of(cache, prompt, layer, 0, 20.0) for layer in (0, 1)}
        with protecting(model, operator, "extended", checks=checks):
            moved = decoded(model, prompt, cache, changes)
        with protecting(model, operator, "extended"):
            unchecked = decoded(model, prompt, cache, changes)
    kept = clean.topk(50).indices
    expected = float((moved - clean)[kept].norm())
    assert bench.curve(20.0).variants[REPAIRED].value[0] == pytest.approx(expected, rel=1e-3)
    assert float((unchecked - clean)[kept].norm()) != pytest.approx(expected, rel=1e-3)


def test_inline_disturbs_every_row_of_the_prompt() -> None:
    model, prompt = random_llama(), PROMPTS[0]
    operator = trained(model)
    bench = StabilityBench(model, replace(SETUP, inline=True), {REPAIRED: operator}, PROMPTS)
    point = bench.curve(1.0)
    ids = torch.tensor([prompt.ids])
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        clean = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1]
        changes = {layer: change_of(cache, prompt, layer, 1, 1.0) for layer in (0, 1)}
        kept = clean.topk(50).indices

        def hook(layer: int, key: Tensor, value: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
            return perturbed((key, value), changes[layer])

        with protecting(model, operator, corrupt=hook):
            moved = model(input_ids=ids, use_cache=False).logits[0, -1]
        with protecting(model, operator):
            own = model(input_ids=ids, use_cache=False).logits[0, -1]
    assert point.variants[REPAIRED].at_zero[0] == pytest.approx(float((own - clean)[kept].norm()), rel=1e-3)
    one = StabilityBench(model, replace(SETUP, inline=True), {REPAIRED: operator}, PROMPTS[:1])
    places = ((0, None), (1, None))
    with torch.no_grad():
        rows = one.passes.prefilled((prompt,))
        again = {layer: one.passes.change(rows, layer, places, 1.0) for layer in (0, 1)}
        logits = one.passes.logits(rows, places, one.repaired, again)
    assert float((logits[1] - clean[rows.kept[0]]).norm()) == pytest.approx(float((moved - clean)[kept].norm()), rel=1e-3)  # type: ignore[index]


def test_the_spread_counts_prompts_of_one_line_once() -> None:
    values = [1.0, 2.0, 4.0]
    assert standard_error(values, [0, 1, 2]) == pytest.approx(statistics.stdev(values) / 3**0.5)
    assert standard_error([1.0, 1.0, 4.0, 4.0], [0, 0, 1, 1]) == pytest.approx(statistics.stdev([1.0, 4.0]) / 2**0.5)
    assert standard_error([1.0, 2.0], [5, 5]) is None and standard_error([1.0, float("nan")], [0, 1]) is None
    drifts = stability_measure.Drifts((3.0, 5.0), (1.0, 2.0), (2.5, 4.0))
    record = sensitivity(drifts, [0, 1])
    assert record["value"] == 4.0 and record["value_at_zero"] == 1.5 and record["excess"] == 2.5 and record["response"] == 3.25
    assert record["excess_standard_error"] == pytest.approx(0.5) and record["per_prompt"] == [3.0, 5.0]
