"""The heuristic defences against loops written from the specification."""

from __future__ import annotations

import pytest
import torch

from cachemedicpp import seeds
from cachemedicpp.evaluation.grid import HEURISTICS
from cachemedicpp.faults.corruption import DrawCounter
from cachemedicpp.faults.events import Axes
from cachemedicpp.repair.heuristics import HeuristicSettings, clip_and_renormalise, defend, region_mask, smooth
from modelwright.errors import UsageError

SETTINGS = HeuristicSettings(dropout_p=0.3)
COUNTER = DrawCounter(seeds.EVAL, 7, (0, 1, 2))


def tensors(dtype: torch.dtype = torch.float64, length: int = 21) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    key = torch.randn(3, 2, length, 8, generator=generator, dtype=torch.float64).to(dtype)
    value = torch.randn(3, 2, length, 6, generator=generator, dtype=torch.float64).to(dtype)
    return key, value, torch.rand(3, 2, length, generator=generator) < 0.7


def smoothed_by_loop(x: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    y = x.clone()
    for b in range(x.shape[0]):
        for h in range(x.shape[1]):
            for t in range(1, x.shape[2]):
                if mask[b, h, t]:
                    y[b, h, t] = (1 - beta) * x[b, h, t] + beta * y[b, h, t - 1]
    return y


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("length", [1, 2, 16, 21])
def test_smoothing_equals_the_recurrence(beta: float, length: int) -> None:
    key, _, mask = tensors(length=length)
    for region in (mask, torch.ones_like(mask), torch.zeros_like(mask)):
        torch.testing.assert_close(smooth(key, region, beta), smoothed_by_loop(key, region, beta), rtol=0, atol=1e-12)


def test_smoothing_does_not_carry_a_nan_past_a_step_it_leaves_alone() -> None:
    key, _, mask = tensors()
    mask[:] = True
    mask[:, :, 5] = False
    key[:, :, 2] = float("nan")
    found = smooth(key, mask, 0.3)
    assert found[:, :, 2:5].isnan().all() and found[:, :, 5:].isfinite().all()


@pytest.mark.parametrize("name", HEURISTICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_heuristic_leaves_what_is_outside_its_mask(name: str, dtype: torch.dtype) -> None:
    key, value, mask = tensors(dtype)
    before = key.clone(), value.clone()
    found = defend(name, SETTINGS, key, value, mask, seed=1, counter=COUNTER, layer=2)
    for old, new, kept in zip((key, value), found, before, strict=True):
        assert new.dtype == dtype and torch.equal(old, kept)
        assert torch.equal(new[~mask], old[~mask]) and not torch.equal(new[mask], old[mask])
    same = defend(name, SETTINGS, key, value, None, seed=1, counter=COUNTER, layer=2)
    assert same[0] is key and same[1] is value


def test_reset_clears_and_clipping_follows_its_formula() -> None:
    key, value, mask = tensors()
    cleared, _ = defend("reset_clear", SETTINGS, key, value, mask, seed=1, counter=COUNTER, layer=0)
    assert (cleared[mask] == 0).all()
    key = key * 10
    clipped = key.clamp(-6, 6)
    expected = clipped * 1.5 / ((clipped.pow(2).mean(-1, keepdim=True) + 1e-8).sqrt() + 1e-8)
    torch.testing.assert_close(clip_and_renormalise(key, 6.0, 1.5), expected, rtol=0, atol=1e-12)


def test_dropout_draws_once_for_both_sides_from_its_counter_alone() -> None:
    key, value, _ = tensors()
    everywhere = torch.ones(3, 2, 21, dtype=torch.bool)
    one, two = defend("masking_dropout", SETTINGS, key, value, everywhere, seed=1, counter=COUNTER, layer=2)
    assert torch.equal((one == 0)[..., :6], two == 0)
    assert (one == 0).double().mean() == pytest.approx(0.3, abs=0.05)
    alone, _ = defend(
        "masking_dropout", SETTINGS, key[2:], value[2:], everywhere[2:], seed=1, counter=DrawCounter(seeds.EVAL, 7, (2,)), layer=2
    )
    assert torch.equal(alone[0], one[2])
    other, _ = defend("masking_dropout", SETTINGS, key, value, everywhere, seed=1, counter=COUNTER, layer=3)
    assert not torch.equal(other, one)


@pytest.mark.parametrize("name", HEURISTICS)
def test_a_padded_row_is_defended_as_it_would_be_alone(name: str) -> None:
    key, value, _ = tensors()
    starts = torch.tensor([0, 6, 3])
    axes = Axes(time_mode="old_only", N_recent=4)
    mask = region_mask(axes, 3, 2, 21, starts)
    batch = defend(name, SETTINGS, key, value, mask, seed=1, counter=COUNTER, layer=1, starts=starts)
    for row, start in enumerate(starts.tolist()):
        own = key[row : row + 1, :, start:], value[row : row + 1, :, start:]
        region = region_mask(axes, 1, 2, 21 - start)
        alone = defend(name, SETTINGS, *own, region, seed=1, counter=DrawCounter(seeds.EVAL, 7, (row,)), layer=1)
        for side in (0, 1):
            torch.testing.assert_close(batch[side][row, :, start:], alone[side][0], rtol=0, atol=1e-12)


def test_region_is_all_heads_and_the_configured_steps() -> None:
    mask = region_mask(Axes(head_mode="bernoulli", p_head=0.25, time_mode="window", window=(1, 3)), 2, 3, 5, torch.tensor([0, 2]))
    assert mask[0].tolist() == [[False, True, True, False, False]] * 3
    assert mask[1].tolist() == [[False, False, False, True, True]] * 3


def test_wrong_names_and_shapes_are_refused() -> None:
    key, value, mask = tensors()
    with pytest.raises(UsageError, match="allowed are reset_clear"):
        defend("blur", SETTINGS, key, value, mask, seed=1, counter=COUNTER, layer=0)
    with pytest.raises(UsageError, match=r"\[3, 2, 20\]"):
        defend("smoothing", SETTINGS, key, value, mask[..., 1:], seed=1, counter=COUNTER, layer=0)
