"""Incidents are found in events, counted while they are open, and closed by people. (specs/guild.md 2.3.5)"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from guild.places import Places
from guild.progression.consistency import Finding
from guild.progression.detectors import CATEGORIES, DETECTORS, detect
from guild.progression.incidents import UnknownIncidentError, UnknownStatusError, incidents, incidents_path, scan, set_status
from guild.records import events
from guild.records.events import GuildEvent
from guild.training.engine import error_type
from guild.training.file_trainer import NonFiniteLossError
from helpers.guild_jobs import store
from modelwright.database import Database
from modelwright.files import read_json, write_json


def event(type: str, message: str = "it failed", severity: str = "error", **data: Any) -> GuildEvent:
    return GuildEvent(1, type, message, severity, "trainer", "2026-01-01T00:00:00Z", data)


def names(*seen: GuildEvent, rows: dict[str, int] | None = None) -> list[str]:
    return [one.detector.id for one in detect(seen, rows or {})[0]]


@pytest.mark.parametrize(("loss", "found"), [(10.0, []), (10.1, ["loss_high"]), (True, []), (None, []), ("11", [])])
def test_a_loss_above_ten_is_one(loss: Any, found: list[str]) -> None:
    assert names(event("training.completed", "done", "success", loss=loss)) == found


def test_five_failures_without_a_success_are_one_and_the_row_is_remembered() -> None:
    failed, done = event("training.failed"), event("training.completed", severity="success")
    assert names(*[failed] * 4, done, *[failed] * 4) == []
    found, rows = detect([failed] * 4, {})
    assert found == [] and rows == {"failures_in_a_row": 4}
    assert names(failed, rows=rows) == ["failures_in_a_row"]


@pytest.mark.parametrize(
    "text", ["CUDA out of memory. Tried to allocate 2 GiB", "torch.OutOfMemoryError", "Cannot allocate memory", "OOM at step 3"]
)
def test_memory_that_ran_out_is_one_in_errors_only(text: str) -> None:
    assert names(event("training.failed", text)) == ["out_of_memory"]
    assert names(event("training.completed", text, "info")) == []
    assert names(event("training.failed", "the room is too small")) == []


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (-math.inf, 1.0), (2.3, math.nan), (2.3, math.inf)])
def test_g10_a_loss_or_a_gradient_that_is_no_number_is_one(loss: float, norm: float) -> None:
    """By the trainer's own error, as its event says it."""
    error = NonFiniteLossError(7, loss, norm)
    failed = event("training.failed", f"x.jsonl: {error}", error_type=error_type(error), step=7)
    assert names(failed) == ["loss_not_finite"]
    assert names(event("training.failed", "x.jsonl: loss nan", error_type="RuntimeError")) == []


def test_every_category_has_a_detector_or_a_rule() -> None:
    assert {one.category for one in DETECTORS} | {"logic"} == set(CATEGORIES)


def told(db: Database, count: int, text: str = "CUDA out of memory") -> None:
    for _ in range(count):
        events.record(db, "training.failed", text, source="trainer", severity="error")


def test_a_scan_opens_counts_and_opens_again_after_a_person_closed(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        assert scan(db, places) == [] and incidents(places) == []
        told(db, 1)
        (opened,) = scan(db, places)
        assert (opened.id, opened.detector, opened.status, opened.count, opened.evidence) == (
            1,
            "out_of_memory",
            "open",
            1,
            ("CUDA out of memory",),
        )
        assert scan(db, places) == [] and read_json(incidents_path(places))["incidents"][0]["count"] == 1
        settled = incidents_path(places).read_bytes()
        assert scan(db, places) == [] and incidents_path(places).read_bytes() == settled, "nothing new is not written"
        told(db, 1, "CUDA out of memory again")
        assert scan(db, places) == []
        assert incidents(places)[0].count == 2 and incidents(places)[0].evidence[-1] == "CUDA out of memory again"
        set_status(places, 1, "investigating", note="looking")
        told(db, 1)
        assert scan(db, places) == [], "it is being looked into"
        set_status(places, 1, "resolved")
        told(db, 1)
        assert [one.id for one in scan(db, places)] == [2]
        assert [(one.id, one.status) for one in incidents(places)] == [(2, "open"), (1, "resolved")]
        assert [one.id for one in incidents(places, "resolved")] == [1] and incidents(places)[1].note == "looking"
        said = [one for one in events.read_after(db, families=("daemon",)).events if one.type == "daemon.incident"]
    assert [one.data["incident"] for one in said] == [1, 2]


def test_a_row_of_failures_goes_on_over_scans(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        told(db, 3, "no")
        assert scan(db, places) == []
        told(db, 2, "no")
        assert [one.detector for one in scan(db, places)] == ["failures_in_a_row"]


def test_contradictions_are_incidents_of_logic_and_one_that_stands_is_not_counted_again(tmp_path: Path) -> None:
    places = Places(tmp_path)
    findings = [
        Finding("one_job_trains", "invariant", "critical", "trainer", "Two jobs hold it."),
        Finding("nothing_is_in_the_future", "temporal", "warning", "job 1", "It is early."),
    ]
    with store(tmp_path) as db:
        (opened,) = scan(db, places, findings)
        assert (opened.category, opened.severity, opened.detector) == ("logic", "critical", "rule:one_job_trains:trainer")
        assert scan(db, places, findings) == [] and incidents(places)[0].count == 1


def test_unknown_numbers_and_words_are_errors_and_foreign_fields_stay(tmp_path: Path) -> None:
    places = Places(tmp_path)
    with store(tmp_path) as db:
        told(db, 1)
        scan(db, places)
        with pytest.raises(UnknownStatusError, match="open, investigating, resolved, wontfix"):
            set_status(places, 1, "done")
        with pytest.raises(UnknownStatusError):
            incidents(places, "done")
        with pytest.raises(UnknownIncidentError):
            set_status(places, 9, "resolved")
        document = read_json(incidents_path(places))
        document["incidents"][0]["ticket"] = 77
        write_json(incidents_path(places), {**document, "owner": "ops"})
        set_status(places, 1, "wontfix")
    kept = read_json(incidents_path(places))
    assert kept["owner"] == "ops" and kept["incidents"][0]["ticket"] == 77 and kept["incidents"][0]["status"] == "wontfix"
