"""Checks of RoPE values that transformers only warns about, or answers with a bare KeyError.

A factor below 1 merely logs a warning there, an unknown type is a KeyError deep inside the model, and a missing base
silently becomes the default one: here each is a fault with its place and a remedy, found before any weight is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from modelwright.errors import Fault

SUPPORTED_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_REQUIRED_KEYS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_LEGACY_TYPES: Mapping[str, str] = {"su": "longrope"}


def rope_type_of(parameters: Mapping[str, Any]) -> str:
    """The RoPE type of a current or legacy dictionary, under its current name."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    return _LEGACY_TYPES.get(kind, kind) if isinstance(kind, str) else str(kind)


def is_whole(value: object) -> bool:
    """True for a positive int that is not a bool: what a length in tokens must be."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_number(value: object) -> bool:
    """True for a finite int or float that is not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def rope_faults(parameters: Mapping[str, Any], path: str = "rope_parameters") -> list[Fault]:
    """Everything wrong with a RoPE dictionary, where transformers itself would only warn or raise a bare KeyError.

    Checks the type's name, its required keys, factors >= 1, a base above 1 and whole original lengths. An empty list
    means none.
    """
    faults: list[Fault] = []
    kind = rope_type_of(parameters)
    if kind not in SUPPORTED_TYPES:
        return [
            Fault(
                f"{path}.rope_type",
                repr(kind),
                "one of " + ", ".join(SUPPORTED_TYPES),
                "use a base model with one of these",
            )
        ]
    for key in _REQUIRED_KEYS[kind]:
        if parameters.get(key) is None:
            faults.append(Fault(f"{path}.{key}", "nothing", f"a value, because rope_type is {kind!r}", "add it to config.json"))
    factor = parameters.get("factor")
    if factor is not None and (not is_number(factor) or factor < 1):
        faults.append(Fault(f"{path}.factor", repr(factor), "a number of at least 1", "divide the target by the original context"))
    theta = parameters.get("rope_theta")
    if theta is not None and (not is_number(theta) or theta <= 1):
        faults.append(Fault(f"{path}.rope_theta", repr(theta), "a number above 1", "take it from the base model's config.json"))
    original = parameters.get("original_max_position_embeddings")
    if original is not None and not is_whole(original):
        allowed = "a whole positive number of tokens"
        faults.append(Fault(f"{path}.original_max_position_embeddings", repr(original), allowed, "state it as an integer"))
    if "mrope_section" in parameters:
        faults.append(Fault(f"{path}.mrope_section", "a multimodal RoPE", "a plain text RoPE", "use a text-only base model"))
    return faults
