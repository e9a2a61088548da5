"""Muon: momentum whose update is orthogonalised, for the hidden matrices of a network.

Written out here because `torch.optim.Muon` computes in bfloat16, which a CPU without bfloat16 instructions does about
a hundred times slower than float32. Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks"
(2024); the quintic's coefficients are theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalise(update: torch.Tensor, iterations: int = ITERATIONS) -> torch.Tensor:
    """The nearest semi-orthogonal matrices to a stack `[N, R, C]`, approximately: singular values land between about
    0.7 and 1.2. Computed in the precision of `update`.
    """
    a, b, c = COEFFICIENTS
    x = update.transpose(-2, -1) if update.size(-2) > update.size(-1) else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.transpose(-2, -1)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(-2, -1) if update.size(-2) > update.size(-1) else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; parameters must be matrices `[R, C]`.

    The update is scaled by ``sqrt(max(1, R / C))`` so that one learning rate fits all shapes. Matrices of one shape
    are orthogonalised in one batched product.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        """Raises ValueError for a parameter that is not a matrix."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon takes matrices; a parameter of shape {tuple(parameter.shape)} belongs to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                self._update(group, shape, parameters)
        return loss

    def _update(self, group: dict[str, Any], shape: torch.Size, parameters: list[torch.nn.Parameter]) -> None:
        momentum = group["momentum"]
        updates = []
        for parameter in parameters:
            assert parameter.grad is not None
            buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - momentum)
            updates.append(parameter.grad.lerp(buffer, momentum))
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        for parameter, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * scale)
