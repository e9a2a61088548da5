"""The log of what happened, and streams of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from guild.records import events, jobs
from guild.records.events import FAMILIES, read_after, record
from helpers.guild_jobs import ME, python, queued, store
from modelwright.clock import ManualClock
from modelwright.database import Database
from modelwright.errors import ConfigError


def said(db: Database, after: int = 0, **options: object) -> list[str]:
    return [event.message for event in read_after(db, after, **options).events]  # type: ignore[arg-type]


def test_an_event_has_the_fields_of_the_specification(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 5, 26, 18, 42, tzinfo=UTC))
    with store(tmp_path) as db:
        number = record(
            db, "hero.level_up", "Titan is at level 3.", source="curriculum", severity="success", data={"level": 3}, clock=clock
        )
        assert [event.as_dict() for event in read_after(db).events] == [
            {
                "id": number,
                "type": "hero.level_up",
                "message": "Titan is at level 3.",
                "severity": "success",
                "source": "curriculum",
                "data": {"level": 3},
                "timestamp": "2026-05-26T18:42:00.000Z",
            }
        ]


def test_every_family_is_accepted_and_everything_else_is_refused_at_once(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        for family in FAMILIES:
            record(db, f"{family}.something", "x", source="test")
        for wrong in ("queue", "queue.", "Queue.low", "weather.rain", "queue.low!", "queue..low"):
            with pytest.raises(ConfigError) as refusal:
                record(db, wrong, "x", source="test", severity="loud")  # type: ignore[arg-type]
            assert [fault.path for fault in refusal.value.faults] == ["event.type", "event.severity"]
        assert len(said(db)) == len(FAMILIES)


def test_a_stream_goes_on_where_it_left_off(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        assert events.last_id(db) == 0
        for number in range(25):
            record(db, "data.generated", str(number), source="test")
        heard, at, more = [], 0, True
        while more:
            page = read_after(db, at, limit=10)
            heard += [event.message for event in page.events]
            at, more = page.last, page.more
        assert heard == [str(number) for number in range(25)]
        assert at == events.last_id(db) == 25
        assert read_after(db, at).events == ()


def test_a_stream_of_one_family_skips_the_others_and_reads_them_once(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        for number in range(30):
            record(db, "vault.moved" if number % 10 == 0 else "training.step", str(number), source="test")
        page = read_after(db, families=["vault"], limit=2)
        assert [event.message for event in page.events] == ["0", "10"] and page.more and page.last == 11
        page = read_after(db, page.last, families=["vault"], limit=2)
        assert [event.message for event in page.events] == ["20"] and not page.more and page.last == 30
        assert said(db, families=[]) == []


def test_readers_beside_four_writers_miss_nothing_and_see_nothing_twice(tmp_path: Path) -> None:
    """Numbers grow in the order of commits, so no event appears behind a reader's back."""
    code = """
import sys
from pathlib import Path
from helpers.guild_jobs import store
from guild.records.events import record
with store(Path(sys.argv[1])) as db:
    for number in range(100):
        record(db, "data.generated", f"{sys.argv[2]}-{number}", source="test", durable=number % 10 == 0)
"""
    with store(tmp_path) as db:
        writers = [python(code, tmp_path, name) for name in "abcd"]
        heard: list[str] = []
        at, running = 0, True
        while running or read_after(db, at).events:
            running = any(writer.poll() is None for writer in writers)
            page = read_after(db, at, limit=7)
            heard += [event.message for event in page.events]
            at = page.last
        for writer in writers:
            assert writer.communicate()[1] == "" and writer.returncode == 0
    assert sorted(heard) == sorted(f"{name}-{number}" for name in "abcd" for number in range(100))
    for name in "abcd":
        assert [one for one in heard if one.startswith(name)] == [f"{name}-{number}" for number in range(100)]


def test_pruning_by_age_and_count_leaves_the_logs_of_unfinished_jobs(tmp_path: Path) -> None:
    clock = ManualClock()
    with store(tmp_path) as db:
        queued(db, "a")
        first = events.last_id(db)
        for number in range(10):
            record(db, "service.seen", str(number), source="test", clock=clock)
            clock.advance(86400)
        assert events.prune(db, keep=1000, older_than=timedelta(days=3, hours=1), clock=clock) == 7
        assert said(db, first) == ["7", "8", "9"]
        assert events.prune(db, keep=2, clock=clock) == 1
        assert said(db, first) == ["8", "9"]
        assert len(events.log_of(db, 1).events) == 1
        jobs.claim(db, ME)
        jobs.finish(db, 1, ME)
        assert events.prune(db, keep=0, clock=clock) > 0
        assert said(db) == [] and events.last_id(db) > 10


def test_a_reader_is_told_that_it_comes_too_late_for_some(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        for number in range(10):
            record(db, "service.seen", str(number), source="test")
        events.prune(db, keep=3)
        assert read_after(db, 0).lost == 7
        assert read_after(db, 5).lost == 2
        assert read_after(db, 7).lost == 0
        record(db, "service.seen", "new", source="test")
        assert read_after(db, 10).events[0].id == 11  # numbers go on


def test_what_a_transaction_did_not_keep_leaves_no_event(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        before = events.last_id(db)
        with pytest.raises(jobs.NotHeldError):
            jobs.finish(db, 1, ME)
        with pytest.raises(jobs.DuplicateJobError):
            queued(db, "b", "a")
        assert [event.type for event in read_after(db, before).events] == ["queue.enqueued"]  # of b
