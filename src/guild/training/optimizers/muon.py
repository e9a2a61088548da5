"""Muon for the hidden matrices and AdamW for the rest, as one optimizer with one state, so that a checkpoint holds both.

Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the orthogonalisation is the kernel's
(`modelwright.tiny.muon`). AdamW: Loshchilov & Hutter, "Decoupled weight decay regularization" (2019), torch's own function. torch's
`torch.optim.Muon` is not used: it takes no stacks of matrices, cannot hold AdamW's part, and computes in bfloat16 on every device, which a
CPU without bfloat16 instructions does a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.adamw import adamw

from modelwright.tiny.muon import orthogonalise


class MuonWithAdamW(torch.optim.Optimizer):
    """Every group says by `muon` who trains it. Groups of Muon: `lr`, `momentum`, `weight_decay`, `ns_steps`; of AdamW: `lr`, `betas`,
    `eps`, `weight_decay`, `fused`. A tensor of Muon is a matrix `[R, C]` or a stack `[…, R, C]`, of four dimensions a filter `[R, …]`."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        """Raises ValueError for a Muon group with a tensor of fewer than two dimensions."""
        super().__init__(groups, {"muon": False})
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["muon"] and parameter.ndim < 2:
                    raise ValueError(f"Muon takes matrices; a parameter of shape {tuple(parameter.shape)} belongs to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["muon"]:
                self._muon(group, parameters)
            elif parameters:
                self._adamw(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        by_shape: dict[tuple[torch.Size, torch.dtype, torch.device], list[torch.Tensor]] = {}
        for parameter in parameters:
            by_shape.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(parameter)
        for alike in by_shape.values():
            updates = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in alike])
            stack = updates.flatten(2) if alike[0].ndim == 4 else updates  # [N, R, C] or [N, …, R, C]
            rows, columns = stack.shape[-2:]
            scale = max(1.0, rows / columns) ** 0.5
            for parameter, update in zip(alike, orthogonal(stack, group["ns_steps"]).view_as(updates), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)

    def _momentum(self, parameter: torch.Tensor, momentum: float) -> torch.Tensor:
        """Nesterov's momentum, moving the buffer on."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        assert gradient is not None
        state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum_buffer"], momentum)

    def _adamw(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                device = parameter.device if group["fused"] else torch.device("cpu")
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"] or None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(stack: torch.Tensor, steps: int) -> torch.Tensor:
    """The nearest semi-orthogonal matrices to a stack `[…, R, C]`, approximately: in bfloat16 on an accelerator, in the stack's own
    precision (float32 for half ones) on a CPU."""
    if stack.device.type != "cpu":
        return orthogonalise(stack.bfloat16(), steps)
    return orthogonalise(stack.float() if stack.dtype in (torch.bfloat16, torch.float16) else stack, steps)
