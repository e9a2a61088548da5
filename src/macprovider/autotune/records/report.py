"""What a run tells its reader: the block on stdout, and the words for a run without a recommendation. (specs/autotune.md, 9.1, 5.5)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from macprovider.autotune.plan import COMMAND, kv_word
from macprovider.weights.candidates import size_order

RULE = "-" * 72
"""Ends the block."""


def block(document: dict[str, Any]) -> str:
    """The delimited block of a document with a recommendation; without one, the same place says why there is none."""
    recommended = document["recommendation"]
    if recommended is None:
        return "\n".join([f"NO RECOMMENDATION (exit_reason: {document['exit_reason']})", *_failed(document), RULE])
    knobs = recommended["knobs"]
    rows = [
        ("model", recommended["model"]),
        ("target_context", recommended["target_context"]),
        ("--kv-bits", kv_word(knobs["kv_bits"])),
        ("--max-batch", knobs["max_concurrency_override"]),
        ("--max-context", knobs["max_context_override"]),
        *((("--repair", knobs["repair"]),) if knobs.get("repair") else ()),
        ("median tok/s", _rate(recommended)),
        ("p95 TTFT", f"{recommended['ttft_p95_ms'] / 1000:.3g}s"),
        *((("quality", recommended["quality"]["words"]),) if recommended.get("quality") else ()),
        ("serve command", recommended["serve_command"]),
        ("alternates", ", ".join(document["alternates"]) or "none"),
        *(("try it with", f"{COMMAND} autotune --candidate-models {model}") for model in document["alternates"]),
        ("apply with", _apply(document)),
    ]
    lines = ["RECOMMENDATION"]
    if recommended["partial"]:
        lines.append(f"  PARTIAL: the run ended early ({document['exit_reason']}); the best so far, never applied by itself")
    lines += [f"  {f'{name}:':<16} {value}" for name, value in rows]
    return "\n".join([*lines, *_failed(document), RULE])


def nothing_fits(target_context: int, failed: Sequence[dict[str, Any]]) -> str:
    """Why nothing fits: the smallest candidate's reason first, then the larger ones. failed: entries of `infeasible`."""
    listed = sorted(failed, key=lambda entry: entry["rank"])
    order = [listed[place] for place in size_order([entry["model"] for entry in listed])]
    lines = [f"No candidate can be served at a target context of {target_context} tokens. The smallest one first:"]
    lines += [f"  {entry['model']}: {entry['reason']}" for entry in order]
    lines.append("Try a smaller --target-context, or other models with --candidate-models.")
    return "\n".join(lines)


def comparison(recommended: dict[str, Any], previous: dict[str, Any] | None) -> str:
    """Each recommended value beside that of the recommendation before."""
    if previous is None:
        return "COMPARED: there is no earlier recommendation in this database."
    lines = ["COMPARED WITH THE PREVIOUS RECOMMENDATION", f"  {'':<28}{'now':<40}before"]
    for name, value, before in _pairs(recommended, previous):
        mark = "" if value == before else "   (changed)"
        lines.append(f"  {name:<28}{value:<40}{before}{mark}")
    return "\n".join(lines)


def _pairs(now: dict[str, Any], before: dict[str, Any]) -> list[tuple[str, str, str]]:
    def row(name: str, *keys: str) -> tuple[str, str, str]:
        values: list[Any] = [now, before]
        for key in keys:
            values = [value.get(key) if isinstance(value, dict) else None for value in values]
        words = ["unset" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        return name, words[0], words[1]

    return [
        row("model", "model"),
        row("engine", "engine"),
        row("target_context", "target_context"),
        row("kv_bits", "knobs", "kv_bits"),
        row("max_concurrency_override", "knobs", "max_concurrency_override"),
        row("max_context_override", "knobs", "max_context_override"),
        *([row("repair", "knobs", "repair")] if now["knobs"].get("repair") or before["knobs"].get("repair") else []),
        row("median tok/s", "tps_median"),
        row("p95 TTFT ms", "ttft_p95_ms"),
    ]


def _rate(recommended: dict[str, Any]) -> str:
    text = f"{recommended['tps_median']:.3g}   (n={recommended['replicates']} replicates"
    least, most = recommended.get("tps_min"), recommended.get("tps_max")
    return f"{text}, {least:.3g} to {most:.3g})" if least is not None and most is not None else f"{text})"


def _apply(document: dict[str, Any]) -> str:
    if document["applied"]:
        return "applied already"
    return f"{COMMAND} autotune --apply"


def _failed(document: dict[str, Any]) -> list[str]:
    if not document["infeasible"]:
        return []
    return ["  infeasible:", *(f"    {entry['model']}: {entry['reason']}" for entry in document["infeasible"])]
