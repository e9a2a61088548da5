"""Switch the rotary embedding of a live model in place, and back, exactly.

A rotary module computes its frequencies once, when it is built. To switch it, a second module of the same class is
built from the patched configuration and its state (buffers, attention scaling, lengths, type) moves into the live one,
which keeps its identity: the result is bit for bit what loading a model with the patched configuration gives.
`revert_context` puts the saved tensors and configuration back.

Training code holds on to the model, its parameters and its optimizer: none of them is touched, since RoPE has no
parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelwright.errors import ModelwrightError
from scaler_wizard.context_methods.settings import RECORD, UnsupportedContextError, read_settings

if TYPE_CHECKING:
    from torch import Tensor

    from scaler_wizard.context_methods.base import ContextMethod

CONFIG_KEYS = ("rope_parameters", "max_position_embeddings", RECORD)
FREQUENCY_TOLERANCE = 1e-5


class ContextStateError(ModelwrightError):
    """The live model is not in the state that `apply` or `revert` needs, or did not end up in the one it promised."""


@dataclass(frozen=True)
class ModuleState:
    """One rotary module before the switch: `buffers` (tensors, cloned) and plain attributes by name."""

    name: str
    buffers: Mapping[str, Tensor]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class AppliedContext:
    """What `apply_context` changed, and all that `revert_context` needs. `params` are the keys now in the
    configuration.
    """

    method: str
    params: Mapping[str, Any]
    modules: tuple[ModuleState, ...]
    config_before: Mapping[str, Any]


def base_model_of(model: Any) -> Any:
    """The transformers model inside a PeftModel, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def rotary_modules(model: Any) -> list[tuple[str, Any]]:
    """Every module that turns positions into cos and sin by a RoPE type of the configuration, with its name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if hasattr(module, "inv_freq") and hasattr(module, "rope_type") and hasattr(module, "config")
    ]


def apply_context(model: Any, method: ContextMethod, params: Mapping[str, Any]) -> AppliedContext:
    """Switch `model` (a transformers model, or a PeftModel around one) to `params` in place.

    `params` come from `method.parameters` for this model. Frequencies end up in float32 on the device they were on and
    are compared with the method's reference. When anything fails the model is left as it was. Raises
    UnsupportedContextError when the model has no rotary module that can be rebuilt, ContextStateError when `params`
    belong to another model or the rebuilt frequencies differ from the reference.
    """
    base = base_model_of(model)
    config = base.config
    record = params[RECORD]
    _check_belongs(config, method, record)
    modules = rotary_modules(base)
    if not modules:
        raise UnsupportedContextError(f"The model {type(base).__name__} has no rotary module whose frequencies can be rebuilt.")
    before = {key: copy.deepcopy(getattr(config, key)) for key in CONFIG_KEYS if hasattr(config, key)}
    saved: list[ModuleState] = []
    try:
        _set_config(config, params)
        for name, module in modules:
            fresh = _built_fresh(module, config)
            saved.append(_state_of(name, module))
            _take_over(module, fresh)
        _verify(modules, method, config, record)
    except BaseException:
        _set_config(config, before)
        _restore(base, saved)
        raise
    return AppliedContext(method.id, copy.deepcopy(dict(params)), tuple(saved), before)


def revert_context(model: Any, applied: AppliedContext) -> None:
    """Undo `applied`: tensors, lengths and configuration are those of before, bit for bit.

    Extensions are undone in the reverse order of their application. Raises ContextStateError when another one lies on
    top.
    """
    base = base_model_of(model)
    if getattr(base.config, RECORD, None) != applied.params[RECORD]:
        raise ContextStateError(
            f"The model is not in the state that {applied.method} to {applied.params[RECORD]['target_context']} "
            "tokens left it in: "
            "revert the extension applied last first."
        )
    _set_config(base.config, applied.config_before)
    _restore(base, applied.modules)


def reset_dynamic_state(model: Any) -> int:
    """Forget the longest sequence seen, in every rotary module of type `dynamic`; returns how many there are.

    transformers keeps the base of the longest sequence until one shorter than the original context comes by. Call this
    before a sequence that must not depend on the one before it (probes, evaluation). Does nothing for other types.
    """
    reset = 0
    for _, module in rotary_modules(base_model_of(model)):
        if module.rope_type == "dynamic":
            module.inv_freq = module.original_inv_freq.to(module.inv_freq.device).clone()
            module.max_seq_len_cached = module.original_max_seq_len
            reset += 1
    return reset


def _check_belongs(config: Any, method: ContextMethod, record: Mapping[str, Any]) -> None:
    """Refuse parameters that were computed by another method or for another base."""
    if record["method"] != method.id:
        raise ContextStateError(f"The parameters were computed by {record['method']!r} and cannot be applied by {method.id!r}.")
    settings = read_settings(config, record["options"].get("original_context"))
    if (settings.theta, settings.original_context) != (record["original_rope_theta"], record["original_context"]):
        raise ContextStateError(
            f"The parameters were computed for a base with theta {record['original_rope_theta']} and "
            f"{record['original_context']} tokens, "
            f"this model has theta {settings.theta} and {settings.original_context} tokens: compute them from this "
            "model's configuration."
        )


def _set_config(config: Any, values: Mapping[str, Any]) -> None:
    """Make the context keys of `config` those of `values`, and no others."""
    for key in CONFIG_KEYS:
        if key in values:
            setattr(config, key, copy.deepcopy(values[key]))
        elif hasattr(config, key):
            delattr(config, key)


def _built_fresh(module: Any, config: Any) -> Any:
    """A new rotary module of the same class, computed on the CPU as loading a model does."""
    import torch

    if module.config is not config:
        raise UnsupportedContextError(
            f"The rotary module {type(module).__name__} reads a configuration of its own, not the model's: it cannot be switched in place."
        )
    try:
        with torch.device("cpu"):
            return type(module)(config=config)
    except TypeError as error:
        raise UnsupportedContextError(
            f"The rotary module {type(module).__name__} cannot be rebuilt from its configuration: {error}."
        ) from error


def _attribute_names(module: Any) -> set[str]:
    """Plain public attributes of a module (no submodules, buffers or hooks): lengths, type, attention scaling."""
    return {name for name in vars(module) if not name.startswith("_") and name not in ("training", "config", "forward")}


def _state_of(name: str, module: Any) -> ModuleState:
    attributes = {key: vars(module)[key] for key in _attribute_names(module)}
    buffers = {key: value.detach().clone() for key, value in module.named_buffers(recurse=False)}
    return ModuleState(name, buffers, attributes)


def _take_over(module: Any, fresh: Any) -> None:
    """Give `module` the state of `fresh`, on the device of `module`, dropping what only the old type kept (a long
    frequency set).
    """
    device = module.inv_freq.device
    for key in _attribute_names(module) - _attribute_names(fresh):
        delattr(module, key)
    for key in _attribute_names(fresh):
        setattr(module, key, vars(fresh)[key])
    for key, value in fresh.named_buffers(recurse=False):
        setattr(module, key, value.to(device))


def _restore(base: Any, states: Any) -> None:
    modules = dict(rotary_modules(base))
    for state in states:
        module = modules[state.name]
        device = module.inv_freq.device
        for key in _attribute_names(module) - set(state.attributes):
            delattr(module, key)
        for key, value in state.attributes.items():
            setattr(module, key, value)
        for key, value in state.buffers.items():
            setattr(module, key, value.to(device, copy=True))


def _verify(modules: list[tuple[str, Any]], method: ContextMethod, config: Any, record: Mapping[str, Any]) -> None:
    """Compare the rebuilt modules with our own arithmetic: every frequency (relative) and the attention factor."""
    expected, attention_factor = method.inv_freq(config, record["target_context"], **record["options"])
    for name, module in modules:
        found = module.inv_freq.detach().float().cpu()
        if found.shape != expected.shape:
            raise ContextStateError(f"{name} has {tuple(found.shape)} frequencies, {method.id} computes {tuple(expected.shape)}.")
        worst = float(((found - expected).abs() / expected).max())
        if not worst <= FREQUENCY_TOLERANCE or abs(float(module.attention_scaling) - attention_factor) > FREQUENCY_TOLERANCE:
            raise ContextStateError(
                f"{name} was rebuilt with frequencies off by {worst:.1e} and attention factor "
                f"{float(module.attention_scaling):.6f}; "
                f"{method.id} computes {attention_factor:.6f}, and at most {FREQUENCY_TOLERANCE:g} is allowed: the "
                "model was not changed."
            )
