"""A model's `config.json` in the words of GGUF: architecture, sizes, rotary positions. Pure.

Key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. How llama.cpp reads the YaRN factors is noted at `_yarn`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelwright.errors import ModelwrightError
from modelwright.model_shape import ModelShape

FAMILIES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
"""Class of transformers → architecture of GGUF."""
INTERLEAVED = frozenset({"llama"})
"""Architectures whose rotary pairs are neighbours in GGUF: rows (2i, 2i+1) of a head, where transformers pairs (i, i + h/2)."""


class ExportError(ModelwrightError):
    """A model that cannot be written as GGUF; one sentence."""

    exit_code = 1


@dataclass(frozen=True)
class GgufModel:
    """What GGUF says about a model beside its tensors and tokenizer. metadata: key → int, float or string. frequency_divisors: one
    for each rotary pair of a head (Llama 3's scaling), empty for none.
    """

    architecture: str
    shape: ModelShape
    metadata: dict[str, int | float | str]
    frequency_divisors: tuple[float, ...] = field(default=())

    @property
    def interleaved(self) -> bool:
        return self.architecture in INTERLEAVED


def describe(config: Mapping[str, Any], name: str) -> GgufModel:
    """The GGUF description of the model that `config` describes. Raises ExportError for what GGUF's readers would not compute as
    transformers does.
    """
    found = [str(entry) for entry in config.get("architectures") or ()]
    architecture = next((FAMILIES[entry] for entry in found if entry in FAMILIES), None)
    if architecture is None:
        raise ExportError(
            f"{name}: found a model of {', '.join(found) or config.get('model_type')!s}; allowed for GGUF: {', '.join(FAMILIES)}."
        )
    _refuse_unusual(config, name)
    shape = ModelShape.from_config(config)
    values: dict[str, int | float | str] = {
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "block_count": shape.layers,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "rope.dimension_count": shape.head_dim,
        "vocab_size": shape.vocabulary,
    }
    rope, divisors = _rope(_rope_parameters(config), shape, architecture, name)
    return GgufModel(architecture, shape, {f"{architecture}.{key}": value for key, value in {**values, **rope}.items()}, divisors)


def _refuse_unusual(config: Mapping[str, Any], name: str) -> None:
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ExportError(f"{name}: found the activation {activation!r}; allowed for GGUF: 'silu'.")
    if config.get("use_sliding_window") or any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise ExportError(f"{name}: found sliding-window attention; allowed for GGUF: full attention in every layer.")
    if config.get("quantization_config") or config.get("quantization"):
        raise ExportError(
            f"{name}: found quantised weights; allowed for GGUF: weights in float32, float16 or bfloat16. Export the original."
        )


def _rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings in the form of transformers 5, also from an older config."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    found.setdefault("rope_type", found.get("type", "default"))
    found.setdefault("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    if config.get("partial_rotary_factor") is not None:
        found.setdefault("partial_rotary_factor", config["partial_rotary_factor"])
    return found


def _rope(
    rope: Mapping[str, Any], shape: ModelShape, architecture: str, name: str
) -> tuple[dict[str, int | float | str], tuple[float, ...]]:
    """(keys, frequency divisors)."""
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ExportError(f"{name}: found rotary positions on a part of each head; allowed for GGUF: on all of it.")
    keys: dict[str, int | float | str] = {"rope.freq_base": float(rope["rope_theta"])}
    kind = str(rope["rope_type"])
    if kind == "default":
        return keys, ()
    if kind in ("llama3", "longrope"):
        if architecture not in INTERLEAVED:
            raise ExportError(f"{name}: found the rotary scaling {kind!r} in a {architecture} model; allowed for GGUF: none, linear, yarn.")
        return (keys, _llama3_divisors(rope, shape)) if kind == "llama3" else _longrope(rope, shape, keys, name)
    if kind not in ("linear", "yarn"):
        raise ExportError(
            f"{name}: found the rotary scaling {kind!r}; allowed for GGUF: none, linear, yarn, llama3, longrope with one set of factors."
        )
    keys["rope.scaling.type"] = kind
    keys["rope.scaling.factor"] = float(rope["factor"])
    if kind == "yarn":
        keys |= _yarn(rope, shape, name)
    return keys, ()


def _yarn(rope: Mapping[str, Any], shape: ModelShape, name: str) -> dict[str, int | float | str]:
    """YaRN beyond its factor. llama.cpp multiplies its own 1 + 0.1 ln(factor) by `attn_factor`, so that only a deviation is written.

    (YaRN, arXiv 2309.00071, section 3.4)
    """
    factor = float(rope["factor"])
    keys: dict[str, int | float | str] = {}
    original = rope.get("original_max_position_embeddings") or round(shape.context / factor)
    keys["rope.scaling.original_context_length"] = int(original)
    if rope.get("truncate") is False:
        raise ExportError(f"{name}: found YaRN with truncate false; allowed for GGUF: correction bounds rounded to whole dimensions.")
    if rope.get("mscale") or rope.get("mscale_all_dim"):
        raise ExportError(f"{name}: found YaRN with mscale; allowed for GGUF: attention_factor alone.")
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    given = rope.get("attention_factor")
    if given is not None and not math.isclose(float(given), usual, rel_tol=1e-6):
        keys["rope.scaling.attn_factor"] = float(given) / usual
    for ours, theirs in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if rope.get(ours) is not None:
            keys[f"rope.scaling.{theirs}"] = float(rope[ours])
    return keys


def _longrope(
    rope: Mapping[str, Any], shape: ModelShape, keys: dict[str, int | float | str], name: str
) -> tuple[dict[str, int | float | str], tuple[float, ...]]:
    """One set of factors for every length, which is how any fixed rescaling of frequencies is written down.

    (LongRoPE, arXiv 2402.13753; the factor of the attention is that of transformers.)
    """
    divisors = tuple(float(factor) for factor in rope["long_factor"])
    if divisors != tuple(float(factor) for factor in rope["short_factor"]):
        raise ExportError(
            f"{name}: found longrope with other factors for short texts; allowed for GGUF: the same factors for every length."
        )
    original = float(rope.get("original_max_position_embeddings") or shape.context)
    factor = float(rope.get("factor") or shape.context / original)
    attention = rope.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    if not math.isclose(float(attention), 1.0):
        keys["rope.scaling.attn_factor"] = float(attention)
    return keys, divisors


def _llama3_divisors(rope: Mapping[str, Any], shape: ModelShape) -> tuple[float, ...]:
    """What Llama 3.1 divides each frequency by: 1 for short wavelengths, `factor` for long ones, smooth between.

    (Llama 3.1's reference code, `apply_scaling`)
    """
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"] or 8192)
    divisors = []
    for pair in range(shape.head_dim // 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (2 * pair / shape.head_dim)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(divisors)
