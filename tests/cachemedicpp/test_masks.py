"""The rules of the three masks (specs/medic.md, 2.2)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachemedicpp.faults.events import Axes
from cachemedicpp.faults.masks import head_mask, layer_active, mask_draws, time_mask

NUMBERS = st.integers(-5, 60)


def draws(seed: int, heads: int = 16):
    return mask_draws(heads, torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 80))
def test_old_only_strikes_all_but_the_recent_steps(length: int, recent: int) -> None:
    mask = time_mask(Axes(time_mode="old_only", N_recent=recent), length)
    assert mask.tolist() == [t < max(0, length - recent) for t in range(length)]


@settings(deadline=None)
@given(st.integers(0, 60), NUMBERS, NUMBERS)
def test_window_is_cut_to_the_sequence(length: int, start: int, end: int) -> None:
    mask = time_mask(Axes(time_mode="window", window=(start, end)), length)
    assert mask.tolist() == [max(0, start) <= t < min(length, end) for t in range(length)]


def test_all_past_and_absent_n_recent_strike_everything() -> None:
    assert time_mask(Axes(), 7).all() and time_mask(Axes(time_mode="old_only"), 7).all()


@settings(deadline=None)
@given(st.integers(0, 2**30), st.floats(0, 1))
def test_bernoulli_masks_are_the_draws_below_p(seed: int, p: float) -> None:
    made = draws(seed)
    axes = Axes(layer_mode="bernoulli", p_layer=p, head_mode="bernoulli", p_head=p)
    assert torch.equal(head_mask(axes, made), made.heads < p)
    assert layer_active(axes, 3, made) == (made.layer < p)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 0), (1.0, 16)])
def test_bernoulli_at_its_ends(p: float, expected: int) -> None:
    for seed in range(50):
        axes = Axes(head_mode="bernoulli", p_head=p, layer_mode="bernoulli", p_layer=p)
        assert int(head_mask(axes, draws(seed)).sum()) == expected
        assert layer_active(axes, 0, draws(seed)) == bool(expected)


def test_bernoulli_strikes_a_quarter_at_a_quarter() -> None:
    axes = Axes(head_mode="bernoulli", p_head=0.25)
    share = torch.stack([head_mask(axes, draws(seed)) for seed in range(1000)]).float().mean()
    assert float(share) == pytest.approx(0.25, abs=0.015)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 20), max_size=6), st.integers(1, 12))
def test_listed_heads_outside_the_range_are_ignored(listed: list[int], count: int) -> None:
    mask = head_mask(Axes(head_mode="targeted", heads=tuple(listed)), draws(0, count))
    assert mask.nonzero().flatten().tolist() == sorted({head for head in listed if 0 <= head < count})


def test_targeted_layers_are_the_listed_ones() -> None:
    axes = Axes(layer_mode="targeted", layers=(2, 5))
    assert [layer_active(axes, layer, draws(0)) for layer in range(6)] == [False, False, True, False, False, True]


def test_a_mode_does_not_change_what_is_drawn_afterwards() -> None:
    after = []
    for axes in (Axes(), Axes(head_mode="bernoulli", p_head=0.3), Axes(head_mode="targeted", heads=(1,))):
        generator = torch.Generator().manual_seed(4)
        head_mask(axes, mask_draws(8, generator))
        after.append(torch.randn(20, generator=generator))
    assert torch.equal(after[0], after[1]) and torch.equal(after[0], after[2])
