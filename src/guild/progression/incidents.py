"""Incidents: what went wrong, and what became of it; `status/incidents.json`. (specs/guild.md 2.3.5)

`scan` reads the events since the last scan. While an incident of a detector is open or investigated, further cases are counted in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guild.errors import UnknownNameError
from guild.places import Places
from guild.progression.consistency import Finding
from guild.progression.detectors import Category, Detected, Severity, detect, row_lengths
from guild.records import events
from guild.records.checkpoint_record import wrong_fields
from guild.records.status_documents import export, read_document, records_lock
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import DamagedFileError, MissingFileError

NAME = "incidents.json"
SOURCE = "incidents"
PAGE = 1000
MOST_EVIDENCE = 5
CLOSED_KEPT = 200
Status = Literal["open", "investigating", "resolved", "wontfix"]
STATUSES: tuple[Status, ...] = get_args(Status)
UNDER_WAY: tuple[Status, ...] = ("open", "investigating")


class UnknownIncidentError(UnknownNameError):
    """No incident of that number."""

    kind = "incident"


class UnknownStatusError(UnknownNameError):
    """An incident has no such status."""

    kind = "status of an incident"


class Incident(BaseModel):
    """One incident. detector: what found it, `rule:<name>` for a rule of consistency. count: cases. evidence: the newest messages. note: of
    the person who changed its status."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: int = Field(ge=1)
    detector: str
    category: Category
    severity: Severity
    title: str
    status: Status = "open"
    opened_at: str
    updated_at: str
    count: int = Field(1, ge=1)
    evidence: tuple[str, ...] = ()
    note: str = ""


def incidents(places: Places, status: str | None = None) -> list[Incident]:
    """The incidents that are kept, the newest first. Raises UnknownStatusError, DamagedFileError."""
    if status is not None and status not in STATUSES:
        raise UnknownStatusError(status, STATUSES)
    found = _parsed(_document(places), incidents_path(places))
    return [one for one in reversed(found) if status is None or one.status == status]


def scan(db: Database, places: Places, findings: Iterable[Finding] = (), *, clock: Clock = SYSTEM_CLOCK) -> list[Incident]:
    """Look at the events since the last scan, and at findings of consistency; returns the incidents that this opened.

    The first scan begins with the oldest event that is kept. Raises DamagedFileError, StorageError.
    """
    with records_lock(places):
        document = _document(places)
        known = _parsed(document, incidents_path(places))
        before = len(known)
        number = int(document.get("last_id") or 0)
        after, rows = int(document.get("last_event") or 0), row_lengths(document)
        while True:
            page = events.read_after(db, after, limit=PAGE)
            cases, rows = detect((event for event in page.events if event.source != SOURCE), rows)
            known, number = _with_cases(known, number, [_case_of(case) for case in cases], stamp(clock.now()))
            after = page.last
            if not page.more:
                break
        told = [_case_of_finding(one) for one in findings if one.severity != "warning"]
        known, number = _with_findings(known, number, told, stamp(clock.now()))
        opened = list(known[before:])
        content = {"incidents": [one.model_dump(mode="json") for one in _kept(known)], "last_event": after, "last_id": number, "rows": rows}
        if any(document.get(name) != value for name, value in content.items()):
            export(incidents_path(places), {**content, "updated_at": stamp(clock.now())})
    for one in opened:
        told_of = f"Incident {one.id} ({one.category}): {one.title}."
        events.record(db, "daemon.incident", told_of, source=SOURCE, severity="error", data={"incident": one.id}, clock=clock)
    return opened


def set_status(places: Places, incident: int, status: str, *, note: str = "", clock: Clock = SYSTEM_CLOCK) -> Incident:
    """What became of an incident. Raises UnknownStatusError, UnknownIncidentError, StorageError."""
    if status not in STATUSES:
        raise UnknownStatusError(status, STATUSES)
    with records_lock(places):
        document = _document(places)
        known = _parsed(document, incidents_path(places))
        if incident not in [one.id for one in known]:
            raise UnknownIncidentError(str(incident), [str(one.id) for one in known])
        now = stamp(clock.now())
        changed = [
            one.model_copy(update={"status": status, "note": note or one.note, "updated_at": now}) if one.id == incident else one
            for one in known
        ]
        export(incidents_path(places), {"incidents": [one.model_dump(mode="json") for one in changed], "updated_at": now})
    return next(one for one in changed if one.id == incident)


def incidents_path(places: Places) -> Path:
    """Where the document lies."""
    return places.status / NAME


_Case = Mapping[str, Any]
"""Fields of an incident that a case gives: detector, category, severity, title, message."""


def _case_of(case: Detected) -> _Case:
    found = case.detector
    return {
        "detector": found.id,
        "category": found.category,
        "severity": found.severity,
        "title": found.title,
        "message": case.event.message,
    }


def _case_of_finding(finding: Finding) -> _Case:
    title = f"The records contradict each other: {finding.rule}"
    told = {"category": "logic", "severity": finding.severity, "title": title, "message": finding.message}
    return {"detector": f"rule:{finding.rule}:{finding.subject}", **told}


def _with_cases(known: list[Incident], number: int, cases: Iterable[_Case], now: str) -> tuple[list[Incident], int]:
    for case in cases:
        at = _under_way(known, case["detector"])
        if at is None:
            number += 1
            fields = {name: value for name, value in case.items() if name != "message"}
            known = [*known, Incident(id=number, opened_at=now, updated_at=now, evidence=(case["message"],), **fields)]
        else:
            old = known[at]
            evidence = (*old.evidence, case["message"])[-MOST_EVIDENCE:]
            known = [*known]
            known[at] = old.model_copy(update={"count": old.count + 1, "evidence": evidence, "updated_at": now})
    return known, number


def _with_findings(known: list[Incident], number: int, cases: Iterable[_Case], now: str) -> tuple[list[Incident], int]:
    """A contradiction that still stands is the same case, not a further one."""
    new = [case for case in cases if _under_way(known, case["detector"]) is None]
    return _with_cases(known, number, new, now)


def _under_way(known: list[Incident], detector: str) -> int | None:
    return next((at for at, one in enumerate(known) if one.detector == detector and one.status in UNDER_WAY), None)


def _kept(known: list[Incident]) -> list[Incident]:
    """All that are under way, and the newest of the others."""
    closed = [one.id for one in known if one.status not in UNDER_WAY][-CLOSED_KEPT:]
    return [one for one in known if one.status in UNDER_WAY or one.id in closed]


def _document(places: Places) -> dict[str, Any]:
    try:
        found = read_document(incidents_path(places))
    except MissingFileError:
        return {}
    if not isinstance(found, dict):
        raise DamagedFileError(incidents_path(places), f"found a {type(found).__name__}", "an object", "Move it away")
    return found


def _parsed(document: Mapping[str, Any], path: Path) -> list[Incident]:
    try:
        return [Incident.model_validate(one) for one in document.get("incidents") or []]
    except ValidationError as error:
        raise DamagedFileError(path, wrong_fields(error), "incidents", "Correct it or move it away") from error
