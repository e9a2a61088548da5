"""What is to be evaluated after a save, and `status/eval_queue.json`, the view of the waiting evaluation jobs. (specs/guild.md 2.1.4, 4.7)

The jobs themselves are in the job store, kind `eval`; an entry leaves it when its result is stored or its failure recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from guild.places import Places
from guild.records.evaluation_records import EvalType
from guild.records.status_documents import export, records_lock
from guild.skills.names import canonical
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp

QUICK_PRIORITY = 10
FULL_PRIORITY = 6
FULL_EVERY_STEPS = 5000
NAME = "eval_queue.json"


@dataclass(frozen=True)
class EvalQueueEntry:
    """One evaluation that waits. level: None for what the curriculum says when the entry is taken: the training level for a quick one,
    every level up to it for a full one. queued_at: ISO 8601. priority: higher first."""

    checkpoint_step: int
    skill: str
    level: int | None
    queued_at: str
    eval_type: EvalType
    priority: int
    hero_id: str = ""
    campaign_id: str = ""


def due_after_save(
    step: int, previous_step: int, levels: Mapping[str, int], *, clock: Clock = SYSTEM_CLOCK, full_every: int = FULL_EVERY_STEPS
) -> list[EvalQueueEntry]:
    """What a save at `step` calls for: a quick evaluation per skill at its level (priority 10), and when `full_is_due` a full one per skill
    (priority 6), of every level up to the one that it trains at then."""
    at = stamp(clock.now())
    due = [EvalQueueEntry(step, canonical(skill), level, at, "quick", QUICK_PRIORITY) for skill, level in levels.items()]
    if full_is_due(step, previous_step, full_every):
        due += [EvalQueueEntry(step, canonical(skill), None, at, "full", FULL_PRIORITY) for skill in levels]
    return due


def full_is_due(step: int, previous_step: int, full_every: int = FULL_EVERY_STEPS) -> bool:
    """Whether a multiple of `full_every` steps lies after `previous_step`, the save before, and not after `step`."""
    return step // full_every > previous_step // full_every


def in_order(entries: Iterable[EvalQueueEntry]) -> list[EvalQueueEntry]:
    """The order in which evaluations are taken: priority descending, step descending, quick before full, then by skill."""
    return sorted(entries, key=lambda entry: (-entry.priority, -entry.checkpoint_step, entry.eval_type == "full", entry.skill))


def queue_document(entries: Iterable[EvalQueueEntry], *, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """`updated_at, count, queue`."""
    queue = [asdict(entry) for entry in in_order(entries)]
    return {"updated_at": stamp(clock.now()), "count": len(queue), "queue": queue}


def export_queue(places: Places, entries: Iterable[EvalQueueEntry], *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Write the view of the waiting evaluation jobs."""
    with records_lock(places):
        export(places.status / NAME, queue_document(entries, clock=clock))
