"""Whether the knobs that were asked for are the knobs that the engine has. Pure.

A flag can be accepted and change nothing; a speed measured then belongs to another setting. What the candidate says at
`GET /v1/engine` is compared with what was asked.
"""

from __future__ import annotations

from typing import Any

from macprovider.autotune.plan import Knobs, kv_word

CONTEXT_BLOCK = 256
"""Engines that keep their cache in blocks round a context up; by less than this many tokens."""


def disagreement(asked: Knobs, facts: dict[str, Any] | str) -> str:
    """The note of a cell whose knobs did not take effect, "" when they did. facts: the answer, or why there was none."""
    if isinstance(facts, str):
        return f"knob not in effect: the engine could not be read back ({facts})"
    differences = []
    kv_bits = facts.get("kv_bits")
    if kv_bits != asked.kv_bits:
        has = "none" if kv_bits is None else kv_bits
        differences.append(f"kv_bits asked {kv_word(asked.kv_bits)}, engine has {has}")
    if facts.get("slots") != asked.max_batch:
        differences.append(f"max_batch asked {asked.max_batch}, engine has {facts.get('slots')}")
    if asked.max_context is not None and not _holds(facts.get("context"), asked.max_context):
        differences.append(f"max_context asked {asked.max_context}, engine has {facts.get('context')}")
    if facts.get("repair") != asked.repair:
        differences.append(f"repair asked {asked.repair or 'none'}, engine has {facts.get('repair') or 'none'}")
    return f"knob not in effect: {'; '.join(differences)}" if differences else ""


def _holds(context: Any, asked: int) -> bool:
    return isinstance(context, int) and asked <= context < asked + CONTEXT_BLOCK


def kv_bytes_per_token(facts: dict[str, Any] | str) -> float | None:
    """Bytes of cache that the engine says one token takes."""
    value = facts.get("kv_bytes_per_token") if isinstance(facts, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
