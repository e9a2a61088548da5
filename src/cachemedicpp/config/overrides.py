"""Dotted-key overrides of a plain configuration document. (specs/medic.md, 7.2)

Keys are applied in sorted order to a deep copy, so the order in which they were written means nothing. Missing objects on
the way are created; anything else on the way that is no object is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from modelwright.errors import ConfigError, Fault


def apply_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with every override applied; neither argument is changed.

    overrides: dotted path → any JSON value, which replaces what stood there whole. Raises ConfigError with every path that
    has an empty part or leads through a value that is no object.
    """
    merged, faults = merge_overrides(document, overrides)
    if faults:
        raise ConfigError(faults)
    return merged


def merge_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """As `apply_overrides`, with the faults beside the document in which all other overrides are applied."""
    merged, faults = deepcopy(dict(document)), []
    for path in sorted(overrides):
        fault = _set(merged, path, deepcopy(overrides[path]))
        if fault is not None:
            faults.append(fault)
    return merged, faults


def _set(document: dict[str, Any], path: str, value: Any) -> Fault | None:
    *way, last = path.split(".")
    if not all((*way, last)):
        return Fault(path or "(empty key)", "a key with an empty part", "key.subkey", "write the whole path")
    current = document
    for depth, part in enumerate(way, start=1):
        inner = current.setdefault(part, {})
        if not isinstance(inner, dict):
            through = ".".join(way[:depth])
            return Fault(path, f"{inner!r} at {through}", "an object there, or nothing", f"override {through} as a whole instead")
        current = inner
    current[last] = value
    return None
