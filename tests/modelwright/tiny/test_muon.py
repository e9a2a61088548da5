"""Muon: the update is nearly orthogonal, and the optimizer finds a minimum."""

from __future__ import annotations

import pytest
import torch

from modelwright.tiny.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 8, 24), (3, 24, 8)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(update))
    assert orthogonalise(update).shape == update.shape
    assert float(values.max()) < 1.3
    assert float(values.median()) > 0.6


def test_stacking_matrices_changes_nothing() -> None:
    update = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(1))
    alone = torch.stack([orthogonalise(matrix[None])[0] for matrix in update])
    assert torch.allclose(orthogonalise(update), alone, atol=1e-5)


def test_it_minimises_a_least_squares_problem() -> None:
    generator = torch.Generator().manual_seed(2)
    x, target = torch.randn(64, 12, generator=generator), torch.randn(12, 8, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(12, 8))
    optimizer = Muon([weight], lr=0.05)
    losses = []
    for step in range(300):
        loss = (x @ weight - x @ target).square().mean()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 1000


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="AdamW"):
        Muon([torch.nn.Parameter(torch.zeros(4))])
