"""What is taken for an incident: rules over events, as pure functions. (specs/guild.md 2.3.5)"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from guild.records.events import GuildEvent

NOT_FINITE = "non_finite_loss"
"""The trainer's word for a loss, or a gradient, that is no number. (G10)"""
Category = Literal["data", "training", "infra", "logic"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
Severity = Literal["warning", "error", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Threshold:
    """A number of an event's data is above a limit."""

    id: str
    category: Category
    severity: Severity
    title: str
    field: str
    above: float

    def found(self, event: GuildEvent, row: int) -> tuple[bool, int]:
        """(whether this event is one, the length of the row after it)."""
        value = event.data.get(self.field)
        return isinstance(value, int | float) and not isinstance(value, bool) and value > self.above, 0


@dataclass(frozen=True)
class Consecutive:
    """`count` events of one type without one of another type between them."""

    id: str
    category: Category
    severity: Severity
    title: str
    bad: str
    good: str
    count: int

    def found(self, event: GuildEvent, row: int) -> tuple[bool, int]:
        """(whether the row is long enough, its length after this event)."""
        if event.type == self.good:
            return False, 0
        row += event.type == self.bad
        return event.type == self.bad and row >= self.count, row


@dataclass(frozen=True)
class Pattern:
    """The message of a warning or an error has a text."""

    id: str
    category: Category
    severity: Severity
    title: str
    text: str

    def found(self, event: GuildEvent, row: int) -> tuple[bool, int]:
        """(whether it has, 0)."""
        return event.severity in ("warning", "error") and re.search(self.text, event.message, re.IGNORECASE) is not None, 0


@dataclass(frozen=True)
class Named:
    """A field of an event's data names a kind of failure."""

    id: str
    category: Category
    severity: Severity
    title: str
    field: str
    name: str

    def found(self, event: GuildEvent, row: int) -> tuple[bool, int]:
        """(whether it does, 0)."""
        return event.data.get(self.field) == self.name, 0


Detector = Threshold | Consecutive | Pattern | Named
DETECTORS: tuple[Detector, ...] = (
    Threshold("loss_high", "training", "error", "The training loss is above 10", "loss", 10.0),
    Consecutive("failures_in_a_row", "training", "critical", "Five files failed in a row", "training.failed", "training.completed", 5),
    Consecutive("rejected_in_a_row", "data", "error", "Five files were rejected in a row", "data.rejected", "training.completed", 5),
    Pattern("out_of_memory", "infra", "error", "Memory ran out", r"out of memory|outofmemory|cannot allocate memory|\boom\b"),
    Pattern("disk_full", "infra", "critical", "The disk is full", r"no space left|disk is full|GB free; allowed"),
    Named("loss_not_finite", "training", "critical", "The training loss or its gradient is no number", "error_type", NOT_FINITE),
)
"""Those that come with the guild."""


@dataclass(frozen=True)
class Detected:
    """A detector met its case in an event."""

    detector: Detector
    event: GuildEvent


def detect(
    events: Iterable[GuildEvent], rows: Mapping[str, int], detectors: Iterable[Detector] = DETECTORS
) -> tuple[list[Detected], dict[str, int]]:
    """What events show, in order, and the lengths of the detectors' rows after them. rows: the lengths before."""
    chosen = tuple(detectors)
    lengths = dict(rows)
    found = []
    for event in events:
        for detector in chosen:
            is_one, lengths[detector.id] = detector.found(event, lengths.get(detector.id, 0))
            if is_one:
                found.append(Detected(detector, event))
    return found, {name: length for name, length in lengths.items() if length}


def row_lengths(document: Mapping[str, Any]) -> dict[str, int]:
    """The lengths that a document keeps."""
    kept = document.get("rows")
    return {str(name): int(length) for name, length in kept.items() if isinstance(length, int)} if isinstance(kept, dict) else {}
