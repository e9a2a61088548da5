"""Run a model inside a training run without leaving a trace: modes, random state and RoPE state are put back exactly.

Training after a probe must be bit-identical to training without it. Gradients are off through `torch.no_grad`, not
inference mode: a tensor made in inference mode that stays behind in a module (dynamic NTK keeps its frequencies)
would break the next backward pass.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROPE_STATE = ("inv_freq", "max_seq_len_cached", "attention_scaling")


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; afterwards every module's mode, the RNG states and dynamic RoPE state are as
    before.
    """
    import numpy
    import torch

    training = [module for module in model.modules() if module.training]
    rope = [(module, _rope_state(module)) for module in dynamic_rope_modules(model)]
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        for module, state in rope:
            _set_rope_state(module, state)
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


def dynamic_rope_modules(model: torch.nn.Module) -> list[Any]:
    """Rotary modules whose frequencies depend on the sequence length (rope types `dynamic` and `longrope`)."""
    return [module for module in model.modules() if _is_dynamic(getattr(module, "rope_type", None))]


def start_afresh(model: torch.nn.Module) -> None:
    """Put dynamic NTK back to its state before any text, so that a batch does not inherit the frequencies of a longer
    one before it.
    """
    for module in dynamic_rope_modules(model):
        if isinstance(module.rope_type, str) and hasattr(module, "original_max_seq_len"):
            original = module.original_inv_freq.to(module.inv_freq.device, copy=True)
            state = {"inv_freq": original, "max_seq_len_cached": module.original_max_seq_len}
            _set_rope_state(module, state)


def _is_dynamic(rope_type: Any) -> bool:
    kinds = rope_type.values() if isinstance(rope_type, dict) else (rope_type,)
    return any(isinstance(kind, str) and ("dynamic" in kind or kind == "longrope") for kind in kinds)


def _rope_state(module: torch.nn.Module) -> dict[str, Any]:
    """Frequencies, cached length and scaling, also under the prefixes of models with one RoPE per layer type. Tensors
    are copied.
    """
    import torch

    names = [name for name in (*vars(module), *module._buffers) if name.endswith(_ROPE_STATE) and "original" not in name]
    values = {name: getattr(module, name) for name in names}
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()}


def _set_rope_state(module: torch.nn.Module, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if name in module._buffers:
            module._buffers[name] = value
        else:
            setattr(module, name, value)
