"""`recipe_hash`: which machine runs which model with which knobs, whatever was measured. (specs/autotune.md, 9.3)"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from macprovider.autotune.plan import Knobs

PREFIX = "sha256:"


def recipe(
    *,
    binary_version: str,
    candidate_models: Sequence[str],
    chip: str,
    knobs: Knobs,
    model: str,
    ram_gb: int,
    target_context: int,
    operator: str | None = None,
) -> dict[str, Any]:
    """The seven members that the hash covers. `candidate_models` in the order of the input, `ram_gb` in whole GiB. operator: SHA-256 of
    a repair operator, the fourth of the knobs where there is one.
    """
    return {
        "binary_version": binary_version,
        "candidate_models": list(candidate_models),
        "chip": chip,
        "knobs": replace(knobs, repair=operator).as_yaml(),
        "model": model,
        "ram_gb": ram_gb,
        "target_context": target_context,
    }


def canonical(members: dict[str, Any]) -> bytes:
    """The members as RFC 8785 (JSON Canonicalization Scheme) writes them, in UTF-8."""
    import rfc8785

    return rfc8785.dumps(members)


def recipe_hash(members: dict[str, Any]) -> str:
    """`sha256:` and 64 lowercase hexadecimal digits."""
    return PREFIX + hashlib.sha256(canonical(members)).hexdigest()
