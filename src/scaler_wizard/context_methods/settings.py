"""What a model's configuration says about its rotary embedding, read before any weight is.

`read_settings` takes a transformers configuration or the dictionary of a `config.json`, in any of the forms met in the
wild: legacy `rope_scaling` and `rope_theta`, current `rope_parameters`, a base that is already scaled, a base that this
package stretched before. It answers with the ORIGINAL base and the ORIGINAL context, because every method composes from
those and never from a scaled state.

A model stretched by this package carries a `context_extension` record in its configuration: with the `ntk` method,
where the file is otherwise an ordinary unscaled one, nothing else could tell what it was stretched from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelwright.errors import ConfigError, Fault, UsageError
from scaler_wizard.context_methods.validation import is_whole, rope_faults, rope_type_of

RECORD = "context_extension"
_ALIBI_MODELS = frozenset({"bloom", "mpt"})


class UnsupportedContextError(UsageError):
    """The context of this model cannot be stretched by the method asked for; raised before any weight is loaded (exit
    2).
    """


@dataclass(frozen=True)
class RopeSettings:
    """The rotary embedding of one model, as pretrained.

    Lengths are in tokens. `dimensions` is the number of rotated dimensions per head (`head_dim *
    partial_rotary_factor`), `theta` the pretrained base. `original_context` is the window of pretraining,
    `current_context` the one the configuration states now, and `rope_type` what it uses now. `extra` holds the keys
    every new `rope_parameters` must keep (a partial rotary factor).
    """

    model_type: str
    theta: float
    dimensions: int
    original_context: int
    current_context: int
    rope_type: str
    record: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    sliding_window: int | None = None

    @property
    def already_scaled(self) -> bool:
        return self.rope_type != "default" or self.record is not None


def read_settings(config: Any, original_context: int | None = None) -> RopeSettings:
    """Read `config` (transformers configuration, or mapping of a config.json) into `RopeSettings`.

    `original_context` (tokens) overrides what the configuration says about pretraining; it is needed for a base scaled
    with `linear` whose file does not state its original context. Nothing is modified. Raises UnsupportedContextError
    for a model without RoPE, with RoPE per layer type or with a rotary scheme that cannot be swapped, and ConfigError
    with every fault found in the RoPE values.
    """
    if isinstance(config, Mapping):
        config = _configuration_from(config)
    name = getattr(config, "model_type", "") or type(config).__name__
    parameters = _parameters_of(config, name)
    faults = rope_faults(parameters)
    current: Any = getattr(config, "max_position_embeddings", None)
    if not is_whole(current):
        faults.append(Fault("max_position_embeddings", repr(current), "a whole positive number of tokens", "correct config.json"))
    if original_context is not None and not is_whole(original_context):
        faults.append(Fault("original_context", repr(original_context), "a whole positive number of tokens", "give an integer"))
    if faults:
        raise ConfigError(faults)
    kind = rope_type_of(parameters)
    record = _record_of(config, parameters, kind)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    partial = parameters.get("partial_rotary_factor")
    theta: Any = parameters.get("rope_theta") or getattr(config, "default_theta", 10_000.0)
    return RopeSettings(
        model_type=name,
        theta=float(record["original_rope_theta"] if record else theta),
        dimensions=int(head_size * (1.0 if partial is None else partial)),
        original_context=original_context or _original_context(config, parameters, kind, record, name),
        current_context=current,
        rope_type=kind,
        record=record,
        extra={} if partial is None else {"partial_rotary_factor": partial},
        sliding_window=_sliding_window(config),
    )


def _configuration_from(document: Mapping[str, Any]) -> Any:
    """The transformers configuration of a config.json, after its RoPE values were checked by us."""
    import copy

    from transformers import CONFIG_MAPPING

    model_type = document.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UnsupportedContextError(
            f"config.json names the model type {model_type!r}, which the installed transformers does not know: "
            "use an architecture it implements, or a newer transformers."
        )
    for key in ("rope_parameters", "rope_scaling"):
        parameters = document.get(key)
        if isinstance(parameters, Mapping) and not any(isinstance(value, Mapping) for value in parameters.values()):
            faults = rope_faults(parameters, key)
            if faults:
                raise ConfigError(faults)
    return CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(dict(document)))


def _parameters_of(config: Any, name: str) -> dict[str, Any]:
    """The flat RoPE dictionary of a configuration, or a refusal that names what the model has instead."""
    if getattr(config, "alibi", False) or name in _ALIBI_MODELS:
        raise UnsupportedContextError(
            f"The model type {name!r} uses ALiBi biases and no rotary embedding: its window is a length limit, not something to rescale."
        )
    if getattr(config, "text_config", None) is not None:
        raise UnsupportedContextError(f"The model type {name!r} is multimodal: only text-only causal language models can be stretched.")
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        fixed = getattr(config, "rotary_dim", None)
        detail = "a fixed rotary table" if fixed is not None else "no rotary position embedding"
        raise UnsupportedContextError(
            f"The model type {name!r} has {detail}: linear, ntk, dynamic_ntk and yarn need rope_parameters in the configuration."
        )
    nested = sorted(key for key, value in parameters.items() if isinstance(value, Mapping) or value is None)
    nested = [key for key in nested if key in (getattr(config, "layer_types", None) or ()) or isinstance(parameters[key], Mapping)]
    if nested:
        raise UnsupportedContextError(
            f"The model type {name!r} has a RoPE per layer type ({', '.join(nested)}): stretching one of them alone "
            "is not supported, "
            "use a model with a single rope_parameters dictionary."
        )
    return dict(parameters)


def _record_of(config: Any, parameters: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Our own record in the configuration, refused when the RoPE values beside it were changed afterwards."""
    record = getattr(config, RECORD, None)
    if record is None:
        return None
    faults = []
    for key in ("original_context", "target_context", "original_rope_theta", "method", "rope_type", "rope_theta"):
        if not isinstance(record, Mapping) or key not in record:
            faults.append(
                Fault(
                    f"{RECORD}.{key}",
                    "nothing",
                    "the value that was written when the model was stretched",
                    "restore it",
                )
            )
    if not faults:
        for key, now in (("rope_type", kind), ("rope_theta", parameters.get("rope_theta"))):
            if record[key] != now:
                todo = f"restore it, or delete {RECORD} from config.json if the model was retrained"
                faults.append(Fault(f"rope_parameters.{key}", repr(now), f"{record[key]!r} as {RECORD} says", todo))
    if faults:
        raise ConfigError(faults)
    return record


def _original_context(config: Any, parameters: Mapping[str, Any], kind: str, record: Mapping[str, Any] | None, name: str) -> int:
    """The window of pretraining, in tokens."""
    if record is not None:
        return int(record["original_context"])
    stated: Any = parameters.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    if is_whole(stated):
        return int(stated)
    if kind == "linear" and parameters["factor"] > 1:
        raise UnsupportedContextError(
            f"The base model ({name}) is already scaled by linear x{parameters['factor']} and does not say from which "
            "context: "
            "pass original_context, the number of tokens it was pretrained on."
        )
    return int(config.max_position_embeddings)


def _sliding_window(config: Any) -> int | None:
    """The attention window of a sliding-window model in tokens, or None when attention reaches everywhere."""
    window = getattr(config, "sliding_window", None)
    if not is_whole(window) or getattr(config, "use_sliding_window", True) is False:
        return None
    return window
