"""Regression: the validation loss of one ledger record against the one before. (specs/guild.md 2.7 row regression_monitoring)

A rise of more than 15 % is a regression. Held-out rows come from the file that is trained, so a record is compared with the newest
earlier one of the same skill and level; a first file of a harder level has a higher loss without anything being worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from guild.analytics.documents import NO_DATA
from guild.records.checkpoint_record import CheckpointRecord
from guild.skills.names import canonical

TRIGGER = 0.15
"""Share of the former validation loss."""
SHOWN = 20
AccuracyOf = Callable[[CheckpointRecord], float | None]
"""A record → the accuracy of its skill at its level on that checkpoint."""


def loss_increase(before: float, after: float) -> float | None:
    """(after − before) / before, the share by which a loss rose; None of a loss that was 0 or less, or is no number."""
    if not (math.isfinite(before) and math.isfinite(after)) or before <= 0:
        return None
    return (after - before) / before


def regressions(records: Sequence[CheckpointRecord], accuracy: AccuracyOf) -> dict[str, Any]:
    """The document over a campaign's records in the order of steps. latest_summary is null where nothing could be compared."""
    last: dict[tuple[str | None, int | None], CheckpointRecord] = {}
    compared: list[dict[str, Any]] = []
    for record in records:
        if record.val_loss is None:
            continue
        key = (canonical(record.skill_name) if record.skill_name else None, record.skill_level)
        before = last.get(key)
        last[key] = record
        rise = None if before is None or before.val_loss is None else loss_increase(before.val_loss, record.val_loss)
        if before is not None and rise is not None:
            compared.append(_summary(before, record, rise, accuracy))
    found = [entry for entry in compared if entry["regression_detected"]]
    latest = compared[-1] if compared else None
    status = NO_DATA if latest is None else "warning" if latest["regression_detected"] else "healthy"
    return {
        "status": status,
        "trigger": TRIGGER,
        "latest_summary": latest,
        "total_regressions": len(found),
        "compared": len(compared),
        "regressions": found[-SHOWN:],
    }


def _summary(before: CheckpointRecord, record: CheckpointRecord, rise: float, accuracy: AccuracyOf) -> dict[str, Any]:
    was, now = accuracy(before), accuracy(record)
    return {
        "timestamp": record.timestamp,
        "checkpoint": record.canonical_name,
        "step": record.step,
        "compared_with_step": before.step,
        "skill": record.skill_name,
        "level": record.skill_level,
        "val_loss_before": before.val_loss,
        "val_loss": record.val_loss,
        "regression_detected": rise > TRIGGER,
        "loss_increase": rise,
        "accuracy_drop": None if was is None or now is None else was - now,
    }
