"""All documents of a campaign in one, each with its verdict and age; what is missing is `no data`. (specs/guild.md 2.7, 2.9)"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from guild.analytics.documents import NO_DATA, Status
from modelwright.clock import parse_stamp

Document = Mapping[str, Any]
_RANK: tuple[Status, ...] = ("critical", "warning", NO_DATA, "healthy", "ok")
"""Worst first; unknown is worse than healthy."""


def worst(states: list[str]) -> Status:
    """The worst of several verdicts; `no data` for none, and for a word that is no verdict."""
    return min((known(state) for state in states), key=_RANK.index, default=NO_DATA)


def known(state: str) -> Status:
    """The verdict that a document's status is."""
    return next((verdict for verdict in _RANK if verdict == state), NO_DATA)


def training_analytics(drift: Document | None, stability: Document | None, impact: Document | None) -> dict[str, Any]:
    """`layer_drift, parameter_stability, data_file_impact`, each the document without its long lists, or null."""
    states = [str((found or {}).get("status", NO_DATA)) for found in (drift, stability, impact)]
    return {
        "status": worst(states),
        "layer_drift": _without(drift, "history", "missing", "added", "skipped"),
        "parameter_stability": _without(stability, "history", "parameters", "previous"),
        "data_file_impact": _without(impact, "recent", "open"),
    }


def overview(documents: Mapping[str, Document | None], now: datetime) -> dict[str, Any]:
    """`reports{name: {status, generated_at, age_seconds}}` and the counts of each verdict."""
    shown = {}
    for name, found in sorted(documents.items()):
        written = None if found is None else found.get("generated_at")
        state = NO_DATA if found is None else str(found.get("status") or NO_DATA)
        shown[name] = {"status": state, "generated_at": written, "age_seconds": _age(written, now)}
    states = [str(entry["status"]) for entry in shown.values()]
    counts = {state: states.count(state) for state in sorted(set(states))}
    judged = [state for state in states if state in ("healthy", "warning", "critical")]
    return {"status": worst(judged), "counts": counts, "reports": shown}


def _without(found: Document | None, *names: str) -> dict[str, Any] | None:
    return None if found is None else {name: value for name, value in found.items() if name not in names}


def _age(written: Any, now: datetime) -> float | None:
    try:
        return max(0.0, (now - parse_stamp(str(written))).total_seconds()) if written else None
    except ValueError:
        return None
