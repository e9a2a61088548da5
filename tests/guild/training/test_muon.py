"""Muon against an independent reference in numpy, written from the published algorithm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guild.training.optimizers.muon import MuonWithAdamW, orthogonal

Array = np.ndarray


def _reference(gradient: Array, steps: int = 5) -> Array:
    """Five steps of the quintic Newton–Schulz iteration on one matrix, in float64."""
    x = gradient.astype(np.float64)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x - 4.7750 * (a @ x) + 2.0315 * (a @ a @ x)
    return x.T if tall else x


@pytest.mark.parametrize("shape", [(16, 16), (24, 8), (8, 24), (1, 5), (5, 1)])
def test_orthogonalisation_is_the_references(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    ours = orthogonal(torch.tensor(matrix)[None], 5)[0].numpy()
    assert np.allclose(ours, _reference(matrix), atol=1e-5)
    values = np.linalg.svd(ours, compute_uv=False)
    assert values.min() > 0.3 and values.max() < 1.3


def test_half_precision_is_computed_in_float32_on_a_cpu() -> None:
    matrix = torch.randn(1, 12, 20, generator=torch.Generator().manual_seed(1)).bfloat16()
    made = orthogonal(matrix, 5)
    assert made.dtype == torch.float32
    assert np.allclose(made[0].numpy(), _reference(matrix[0].float().numpy()), atol=1e-4)


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (12, 12)])
def test_five_steps_of_the_optimizer_are_the_references(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(3)
    weights = random.normal(size=shape)
    parameter = torch.nn.Parameter(torch.tensor(weights))
    twin = torch.nn.Parameter(torch.tensor(weights * 2))
    options = {"muon": True, "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "ns_steps": 5}
    optimizer = MuonWithAdamW([{"params": [parameter, twin], **options}])
    momentum = np.zeros(shape)
    for _ in range(5):
        gradient = random.normal(size=shape)
        parameter.grad = torch.tensor(gradient)
        twin.grad = torch.tensor(gradient * 3)  # scale goes out in the normalisation
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        nesterov = 0.05 * gradient + 0.95 * momentum
        update = _reference(nesterov) * max(1.0, shape[0] / shape[1]) ** 0.5
        moved = -0.02 * update
        weights = weights * (1 - 0.02 * 0.1) + moved
        assert np.allclose(parameter.detach().numpy(), weights, atol=1e-5)


def test_it_is_torchs_own_muon_up_to_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(48, 16, generator=generator)
    gradients = [torch.randn(48, 16, generator=generator) for _ in range(3)]
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    first = MuonWithAdamW([{"params": [ours], "muon": True, "lr": 0.02, "momentum": 0.95, "weight_decay": 0.0, "ns_steps": 5}])
    second = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.0)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    moved = (theirs - start).detach()
    assert float((ours.detach() - theirs.detach()).norm() / moved.norm()) < 0.03


def test_stacks_and_filters_are_orthogonalised_matrix_by_matrix() -> None:
    random = np.random.default_rng(5)
    stack, filters = random.normal(size=(3, 6, 10)), random.normal(size=(8, 2, 3, 3))
    for values, expected in (
        (stack, np.stack([_reference(matrix) for matrix in stack])),
        (filters, _reference(filters.reshape(8, 18)).reshape(filters.shape)),
    ):
        parameter = torch.nn.Parameter(torch.zeros(values.shape, dtype=torch.float64))
        parameter.grad = torch.tensor(values)
        MuonWithAdamW([{"params": [parameter], "muon": True, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "ns_steps": 5}]).step()
        assert np.allclose(-parameter.detach().numpy(), expected, atol=1e-5)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to AdamW"):
        MuonWithAdamW(
            [{"params": [torch.nn.Parameter(torch.zeros(3))], "muon": True, "lr": 1, "momentum": 0, "weight_decay": 0, "ns_steps": 5}]
        )
