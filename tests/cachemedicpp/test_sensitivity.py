"""Perturbations of unit norm and the drift they cause on a real model, in float32 (specs/medic.md, 5.1, 5.2)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from cachemedicpp.faults.injection import fork_cache, layer_state
from cachemedicpp.sensitivity.perturbations import (
    Perturbation,
    curve_perturbation,
    direction,
    drifts,
    gain,
    head_perturbation,
    kept_logits,
    lower_median,
    perturbed,
    top_logits,
    whole_rms,
)
from helpers.tiny_random import random_llama

WHERE: dict[str, Any] = {"seed": 7, "prompt": 3, "number": 1, "layer": 1}


def old_only(heads: int, length: int, recent: int) -> torch.Tensor:
    return (torch.arange(length) < length - recent).expand(heads, -1)


def test_a_direction_has_norm_one_over_its_mask_and_nothing_outside() -> None:
    x, mask = torch.randn(1, 2, 30, 16), old_only(2, 30, 8)
    unit = direction(x, mask, torch.Generator().manual_seed(1))
    assert unit.shape == x.shape and float(unit.norm()) == pytest.approx(1.0, abs=1e-6)
    assert not unit[:, :, 22:].any() and unit[:, :, :22].all()
    assert not direction(x, torch.zeros_like(mask), torch.Generator().manual_seed(1)).any()


def test_perturbations_scale_with_delta_and_are_named_by_their_place() -> None:
    key, value, mask = torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16) * 3, old_only(2, 30, 8)
    one, two = (curve_perturbation(key, value, mask, delta, **WHERE) for delta in (1.0, 2.0))
    assert torch.allclose(2 * one.key, two.key) and torch.allclose(2 * one.value, two.value)
    assert float(one.key.norm()) == pytest.approx(whole_rms(key), rel=1e-5)
    assert float(one.value.norm()) == pytest.approx(whole_rms(value), rel=1e-5)
    assert one.norms == [pytest.approx((whole_rms(key) ** 2 + whole_rms(value) ** 2) ** 0.5, rel=1e-5)]
    again = curve_perturbation(key, value, mask, 1.0, **WHERE)
    assert torch.equal(one.key, again.key) and torch.equal(one.value, again.value)
    assert not torch.equal(one.key / one.key.norm(), one.value / one.value.norm())
    for name in WHERE:
        other = curve_perturbation(key, value, mask, 1.0, **{**WHERE, name: WHERE[name] + 1})
        assert not torch.equal(one.key, other.key), name


def test_a_head_perturbation_touches_its_head_only() -> None:
    key, value, mask = torch.randn(1, 3, 20, 8), torch.randn(1, 3, 20, 8), old_only(3, 20, 4)
    change = head_perturbation(key, value, mask, 1.0, **WHERE, head=1)
    assert change.key[:, 1].any() and not change.key[:, [0, 2]].any() and not change.value[:, [0, 2]].any()
    assert not change.key[:, :, 16:].any() and float(change.key.norm()) == pytest.approx(whole_rms(key), rel=1e-5)
    assert torch.equal(perturbed((key, value), change)[0][:, 0], key[:, 0])


def test_a_perturbation_of_a_shorter_cache_changes_the_last_tokens() -> None:
    key, value = torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 5, 2)
    changed, _ = perturbed((key, value), Perturbation(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2)))
    assert changed[0, 0, :, 0].tolist() == [0, 0, 1, 1, 1]


def test_drift_counts_the_largest_clean_logits_and_the_median_is_the_lower_one() -> None:
    clean, changed = torch.tensor([[1.0, 9.0, 5.0, 0.0]]), torch.tensor([[4.0, 9.0, 9.0, 9.0]])
    kept = top_logits(clean, 2)
    assert top_logits(clean, 4) is None and kept is not None and sorted(kept[0].tolist()) == [1, 2]
    assert drifts(clean, changed) == [pytest.approx((9 + 16 + 81) ** 0.5)]
    assert drifts(kept_logits(clean, kept), kept_logits(changed, kept)) == [4.0]
    assert gain(3.0, 1.5) == pytest.approx(2.0) and gain(1.0, 0.0) == pytest.approx(1e4)  # 1e-8 stands under the root of the norm
    assert lower_median([4.0, 1.0, 3.0, 2.0]) == 2.0 and lower_median([]) is None
    pair = Perturbation(torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 4.0))
    assert pair.norms == [5.0] and pair.side_norms == ([3.0], [4.0])


def test_doubling_a_small_delta_in_float32_doubles_the_undefended_drift() -> None:
    model, tokens = random_llama(), torch.randint(0, 256, (1, 60), generator=torch.Generator().manual_seed(4))
    cache = DynamicCache(config=model.config)
    found = []
    with torch.no_grad():
        model(input_ids=tokens[:, :-1], past_key_values=cache, use_cache=True)
        clean = model(input_ids=tokens[:, -1:], past_key_values=fork_cache(cache), use_cache=True).logits[:, -1]
        for delta in (0.05, 0.1):
            state = fork_cache(cache)
            for layer in (0, 1):
                pair = layer_state(state, layer)
                change = curve_perturbation(*pair, old_only(2, 59, 8), delta, seed=7, prompt=0, number=0, layer=layer)
                state.layers[layer].keys, state.layers[layer].values = perturbed(pair, change)
            logits = model(input_ids=tokens[:, -1:], past_key_values=state, use_cache=True).logits[:, -1]
            found += drifts(clean, logits)
    assert found[0] > 0 and found[1] / found[0] == pytest.approx(2.0, rel=0.05)
