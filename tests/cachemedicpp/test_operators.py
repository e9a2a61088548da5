"""The arithmetic of the six operators against loops and closed forms (acceptance 4 and 5)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cachemedicpp.faults import operators


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(dtype)


def test_rotation_matrix_is_orthogonal_and_the_same_twice() -> None:
    first, again = operators.rotation_matrix(16, 999), operators.rotation_matrix(16, 999)
    assert torch.equal(first, again)
    assert (first.T @ first - torch.eye(16)).abs().max() <= 1e-5
    assert not torch.equal(first, operators.rotation_matrix(16, 998))
    first.zero_()  # the caller's own copy
    assert torch.equal(again, operators.rotation_matrix(16, 999))


def test_rotation_keeps_norms_and_scales_with_its_share() -> None:
    x = normal(1, 2, 5, 16)
    whole = operators.rotate(x, 999, 1.0)
    assert torch.allclose(whole, x @ operators.rotation_matrix(16, 999), atol=1e-6)
    assert torch.allclose(whole.norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    assert torch.allclose(operators.rotate(x, 999, 0.25), x + 0.25 * (whole - x), atol=1e-6)


def test_rms_and_noise_follow_the_formula() -> None:
    x, noise = normal(1, 1, 2, 4), normal(1, 1, 2, 4, seed=1)
    damaged = operators.add_noise(x, noise, 0.16)
    for t in range(2):
        row = x[0, 0, t].tolist()
        size = math.sqrt(sum(value * value for value in row) / 4 + 1e-8)
        for d in range(4):
            assert float(damaged[0, 0, t, d]) == pytest.approx(row[d] + 0.16 * size * float(noise[0, 0, t, d]), abs=1e-6)


def test_flip_negates_or_jumps() -> None:
    x = torch.tensor([[[[2.0, 2.0, -3.0, 0.0]]]])
    negated = torch.tensor([[[[True, False, False, False]]]])
    sign = torch.tensor([[[[0, 1, -1, 1]]]], dtype=torch.int8)
    assert operators.flip(x, negated, sign, 8.0).flatten().tolist() == pytest.approx([-2.0, 18.0, -27.0, 0.008])


@settings(deadline=None)
@given(st.integers(2, 16), st.integers(0, 200), st.floats(0.01, 50))
def test_quantisation_moves_no_element_by_more_than_half_a_step(bits: int, seed: int, size: float) -> None:
    x = size * normal(2, 3, 9, 8, seed=seed)
    highest = 2 ** (bits - 1) - 1
    scale = (x.abs().amax(dim=(-2, -1), keepdim=True) + 1e-8) / highest
    quantised = operators.quantise(x, bits, 1.0)
    assert ((quantised - x).abs() <= scale / 2 * (1 + 1e-4) + 1e-6 * size).all()
    steps = quantised / scale
    assert (steps - steps.round()).abs().max() < 1e-2 and steps.abs().max() <= highest + 1e-2


def test_eight_bit_quantisation_against_a_loop_over_heads() -> None:
    x = normal(1, 4, 20, 16, seed=3)
    x[0, 0, 0, 0] = 9.0  # one outlier widens its own head's scale and no other
    quantised = operators.quantise(x, 8, 1.0)
    for head in range(4):
        scale = (float(x[0, head].abs().max()) + 1e-8) / 127
        assert float((quantised[0, head] - x[0, head]).abs().max()) <= scale / 2 * (1 + 1e-4)
    assert torch.equal(quantised[0, 1:], operators.quantise(x[:, 1:], 8, 1.0)[0])


def test_quantisation_scale_leaves_padding_out() -> None:
    x = normal(1, 1, 6, 4)
    padded = torch.cat([torch.full((1, 1, 3, 4), 1000.0), x], dim=2)
    real = torch.tensor([[False] * 3 + [True] * 6])
    assert torch.equal(operators.quantise(padded, 4, 1.0, real)[:, :, 3:], operators.quantise(x, 4, 1.0))


@pytest.mark.parametrize(
    ("window", "length", "donor", "share", "span"),
    [
        ((16, 48), 100, 80, 1.0, (16, 48)),
        ((16, 48), 100, 10, 1.0, (16, 26)),
        ((16, 48), 30, 80, 1.0, (16, 30)),
        ((16, 48), 10, 80, 1.0, (16, 16)),
        ((16, 48), 100, 80, 0.5, (16, 32)),
        ((16, 48), 100, 80, 0.01 / 0.16, (16, 18)),
        ((16, 48), 100, 80, 0.001, (16, 17)),
        ((48, 16), 100, 80, 1.0, (48, 48)),
        ((-8, 8), 100, 80, 1.0, (0, 8)),
    ],
)
def test_overwrite_span(window: tuple[int, int], length: int, donor: int, share: float, span: tuple[int, int]) -> None:
    assert operators.overwrite_span(window, length, donor, share) == span


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_rounded_once(dtype: torch.dtype) -> None:
    x, noise = normal(1, 2, 6, 8, dtype=dtype), normal(1, 2, 6, 8, seed=1)
    assert torch.equal(operators.add_noise(x, noise, 0.1), operators.add_noise(x.float(), noise, 0.1).to(dtype))
    assert torch.equal(operators.rotate(x, 999, 0.3), operators.rotate(x.float(), 999, 0.3).to(dtype))
    assert torch.equal(operators.quantise(x, 3, 1.0), operators.quantise(x.float(), 3, 1.0).to(dtype))
