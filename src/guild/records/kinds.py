"""Kinds of jobs: what each needs, how long it may take, how many may wait and run. (issue decision One job system; specs/guild.md 8.5)

The table imports nothing heavy; a kind's payload model (`guild.records.payloads`) is imported when a payload is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, get_args

from guild.places import Priority
from guild.records.job_errors import UnknownKindError

Resource = Literal["trainer", "inference", "cpu"]
"""What a job occupies: the trainer's device (or the one that trains where there is none), the device of the inference role, or neither."""
RESOURCES: tuple[Resource, ...] = get_args(Resource)
SLOTS: Mapping[Resource, int] = MappingProxyType({"trainer": 1, "inference": 1, "cpu": 8})
"""Jobs that may hold a resource at a time, on a machine that names no other numbers. One trainer: there is one training executor."""
PRIORITY_NUMBERS: Mapping[Priority, int] = MappingProxyType({"high": 30, "normal": 20, "low": 10})
"""The three queue levels as numbers; numbers between and beyond order jobs of other kinds."""
HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    payload: name of its model in `guild.records.payloads`. priority: a number where none is named. timeout_s: seconds after which a run
    counts as overdue. max_attempts: failures until it is given up. max_crashes: deaths of its worker in a row without progress until it
    is parked. max_pending, max_running: how many may wait, and how many may be held, at a time.
    """

    name: str
    payload: str
    resource: Resource
    timeout_s: float
    priority: int = PRIORITY_NUMBERS["normal"]
    max_attempts: int = 3
    max_crashes: int = 5
    max_pending: int = 100
    max_running: int = 1
    retry_low: bool = False

    def check(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The payload with its defaults, ready for JSON. Raises ConfigError with every fault at once."""
        from pydantic import ValidationError

        model = getattr(import_module("guild.records.payloads"), self.payload)
        try:
            checked = model.model_validate(dict(payload))
        except ValidationError:
            from modelwright.config import Layer, resolve

            checked = resolve(model, [Layer(f"{self.name} job", payload)]).value
        return dict(checked.model_dump(mode="json"))


_TABLE = (
    # retry_low: a failed file waits behind the others (2.1.2)
    Kind("train_file", "TrainFile", "trainer", 7 * DAY, max_pending=100_000, retry_low=True),
    Kind("scale", "RoomRun", "trainer", 7 * DAY, max_attempts=2, max_pending=20),
    Kind("medic_train", "RoomRun", "trainer", 3 * DAY, max_attempts=2, max_pending=20),
    Kind("medic_eval", "RoomRun", "inference", DAY, max_attempts=2, max_pending=50),
    Kind("sweep", "RoomRun", "trainer", 7 * DAY, max_attempts=2, max_pending=20),
    Kind("autotune", "RoomRun", "trainer", DAY, max_attempts=2, max_pending=20),
    Kind("eval", "Evaluation", "inference", HOUR, max_pending=10_000),
    Kind("sparring", "Sparring", "inference", 2 * HOUR, max_pending=50),
    Kind("data_gen", "DataGeneration", "cpu", HOUR, max_pending=20),  # exactly one generates at a time
    Kind("retention", "Retention", "cpu", HOUR, max_pending=2),
    Kind("health_check", "HealthCheck", "cpu", 60.0, priority=PRIORITY_NUMBERS["low"], max_attempts=1, max_pending=10, max_running=2),
    Kind("report", "Report", "cpu", HOUR, priority=PRIORITY_NUMBERS["low"], max_pending=20_000, max_running=8),
)
KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _TABLE})


def kind_of(name: str) -> Kind:
    """The kind of that name. Raises UnknownKindError."""
    try:
        return KINDS[name]
    except KeyError:
        raise UnknownKindError(name, KINDS) from None


def kinds_of(resource: Resource) -> tuple[str, ...]:
    """Names of the kinds that occupy a resource."""
    return tuple(kind.name for kind in _TABLE if kind.resource == resource)


def level_of(priority: int) -> Priority:
    """The queue level that a priority number belongs to."""
    if priority >= PRIORITY_NUMBERS["high"]:
        return "high"
    return "normal" if priority >= PRIORITY_NUMBERS["normal"] else "low"


def priority_number(priority: Priority | int) -> int:
    """A level or a number as a number. Raises UsageError for another word."""
    if isinstance(priority, int):
        return priority
    if priority not in PRIORITY_NUMBERS:
        from modelwright.errors import UsageError

        raise UsageError(f"priority: found {priority!r}; allowed: {', '.join(PRIORITY_NUMBERS)}, or a whole number.")
    return PRIORITY_NUMBERS[priority]
