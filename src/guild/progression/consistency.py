"""Rules that the records must keep, and what breaks them. (specs/guild.md 2.3.5)

| Kind | About |
|---|---|
| state | one record by itself |
| transition | how it came there |
| reference | what it names |
| invariant | several records at once |
| temporal | times |

Rules are pure functions of a `Records`; nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal

from guild.progression.detectors import Severity
from guild.records.checkpoint_record import CheckpointRecord
from guild.records.job_rows import PAST, Job
from guild.records.states import HELD, QUEUED, TRANSITIONS, Event, State
from modelwright.clock import parse_stamp

Kind = Literal["state", "transition", "reference", "invariant", "temporal"]
TOLERANCE = timedelta(minutes=5)
"""By which clocks of two machines may differ."""
_EVENT_OF: Mapping[str, Event] = {word: event for event, word in PAST.items()}


@dataclass(frozen=True)
class Records:
    """What is looked at. logs: the words of each job's log, oldest first. folders: checkpoint folders that are there. campaigns: keys
    `hero/campaign` that are there, archived ones too. active: the selected one, None when none is. mastered: skill → (highest mastered
    level, its last level)."""

    now: datetime
    jobs: tuple[Job, ...] = ()
    logs: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    checkpoints: tuple[CheckpointRecord, ...] = ()
    folders: frozenset[Path] = frozenset()
    campaigns: frozenset[str] = frozenset()
    active: str | None = None
    mastered: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A rule that does not hold. subject: of what, such as `job 7`."""

    rule: str
    kind: Kind
    severity: Severity
    subject: str
    message: str


@dataclass(frozen=True)
class Rule:
    """check: gives (subject, sentence) of everything that breaks it."""

    name: str
    kind: Kind
    severity: Severity
    check: Callable[[Records], Iterable[tuple[str, str]]]


def check(records: Records, rules: Iterable[Rule] | None = None) -> list[Finding]:
    """Everything that breaks a rule, in the order of the rules."""
    chosen = RULES if rules is None else tuple(rules)
    return [Finding(rule.name, rule.kind, rule.severity, subject, text) for rule in chosen for subject, text in rule.check(records)]


def _held_has_owner(records: Records) -> Iterator[tuple[str, str]]:
    for job in records.jobs:
        if job.state in HELD and (job.owner is None or job.started_at is None):
            yield f"job {job.id}", f"{job.label} is {job.state}, and no process holds it."
        elif job.state not in HELD and job.owner is not None:
            yield f"job {job.id}", f"{job.label} is {job.state}, and process {job.owner.pid} holds it still."


def _completed_has_end(records: Records) -> Iterator[tuple[str, str]]:
    for job in records.jobs:
        if job.state == "completed" and job.finished_at is None:
            yield f"job {job.id}", f"{job.label} is completed, and nothing says when."


def _attempts_in_bounds(records: Records) -> Iterator[tuple[str, str]]:
    for job in records.jobs:
        if job.attempts > job.max_attempts:
            yield f"job {job.id}", f"{job.label} has {job.attempts} attempts behind it; allowed: {job.max_attempts}."


def _log_follows_table(records: Records) -> Iterator[tuple[str, str]]:
    for job in records.jobs:
        words = records.logs.get(job.id, ())
        if words[:1] != ("enqueued",):
            continue  # its beginning is pruned
        state: State | None = QUEUED
        for word in words[1:]:
            event = _EVENT_OF.get(word)
            if event is None or state is None:
                continue
            before, state = state, TRANSITIONS.get((state, event))
            if state is None:
                yield f"job {job.id}", f"{job.label} was {word} while it was {before}; the table of states has no such step."
        if state is not None and state != job.state:
            yield f"job {job.id}", f"{job.label} is {job.state}; its log ends with {state}."


def _folder_exists(records: Records) -> Iterator[tuple[str, str]]:
    for record in records.checkpoints:
        if Path(record.path) not in records.folders:
            yield f"checkpoint {record.key}", f"The ledger lists {record.key} at {record.path}, and no checkpoint is there."


def _active_exists(records: Records) -> Iterator[tuple[str, str]]:
    if records.active is not None and records.active not in records.campaigns:
        yield f"campaign {records.active}", f"The active campaign {records.active} is not there."


def _campaign_exists(records: Records) -> Iterator[tuple[str, str]]:
    for job in records.jobs:
        if job.campaign and "/" in job.campaign and job.campaign not in records.campaigns:
            yield f"job {job.id}", f"{job.label} belongs to the campaign {job.campaign}, which is not there."


def _one_trains(records: Records) -> Iterator[tuple[str, str]]:
    held = [job for job in records.jobs if job.state in HELD and job.resource == "trainer"]
    if len(held) > 1:
        yield "trainer", f"{len(held)} jobs hold the trainer's device at once: {', '.join(str(job.id) for job in held)}; allowed: one."


def _one_name(records: Records) -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for job in records.jobs:
        if job.name is None or job.state not in (QUEUED, *HELD):
            continue
        if job.name in seen:
            yield f"file {job.name}", f"{job.name} is queued twice, as jobs {seen[job.name]} and {job.id}."
        seen[job.name] = job.id


def _level_exists(records: Records) -> Iterator[tuple[str, str]]:
    for skill, (mastered, last) in records.mastered.items():
        if not 0 <= mastered <= last:
            yield f"skill {skill}", f"{skill} has mastered level {mastered}; its levels are 1 to {last}."


def _times_in_order(records: Records) -> Iterator[tuple[str, str]]:
    for job in records.jobs:
        if job.state == "completed" and job.started_at and job.finished_at and _before(job.finished_at, job.started_at):
            yield f"job {job.id}", f"{job.label} ended at {job.finished_at}, before it began at {job.started_at}."


def _checkpoints_in_order(records: Records) -> Iterator[tuple[str, str]]:
    ordered = sorted(records.checkpoints, key=lambda record: (record.campaign, record.step))
    for earlier, later in pairwise(ordered):
        if earlier.campaign == later.campaign and _before(later.timestamp, earlier.timestamp):
            text = f"{later.key} was saved at {later.timestamp}, before {earlier.key} at {earlier.timestamp}."
            yield f"checkpoint {later.key}", text


def _not_in_the_future(records: Records) -> Iterator[tuple[str, str]]:
    latest = records.now + TOLERANCE
    stamped = [(job.label, f"job {job.id}", job.updated_at) for job in records.jobs]
    stamped += [(record.key, f"checkpoint {record.key}", record.timestamp) for record in records.checkpoints]
    for label, subject, at in stamped:
        if parse_stamp(at) > latest:
            yield subject, f"{label} has the time {at}, which is still to come."


def _before(one: str, other: str) -> bool:
    return parse_stamp(one) < parse_stamp(other)


RULES: tuple[Rule, ...] = (
    Rule("held_jobs_have_holders", "state", "error", _held_has_owner),
    Rule("completed_jobs_have_ends", "state", "error", _completed_has_end),
    Rule("attempts_in_bounds", "state", "error", _attempts_in_bounds),
    Rule("logs_follow_the_table", "transition", "error", _log_follows_table),
    Rule("ledger_lists_folders", "reference", "error", _folder_exists),
    Rule("active_campaign_exists", "reference", "critical", _active_exists),
    Rule("campaigns_of_jobs_exist", "reference", "warning", _campaign_exists),
    Rule("one_job_trains", "invariant", "critical", _one_trains),
    Rule("one_job_for_a_name", "invariant", "critical", _one_name),
    Rule("levels_exist", "invariant", "error", _level_exists),
    Rule("jobs_end_after_they_begin", "temporal", "warning", _times_in_order),
    Rule("checkpoints_in_order", "temporal", "warning", _checkpoints_in_order),
    Rule("nothing_is_in_the_future", "temporal", "warning", _not_in_the_future),
)
