"""What is forgotten after a while, and what never is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from guild.curriculum.progress import LEVEL_UP
from guild.records import events, jobs
from guild.records.events import MILESTONES, read_after
from guild.records.tidying import EVENTS_FOR, JOBS_FOR, Tidied, tidy
from helpers.guild_jobs import ME, data_file, report, store
from modelwright.clock import ManualClock

MONTH = (max(EVENTS_FOR, JOBS_FOR) + timedelta(hours=1)).total_seconds()


def test_old_events_and_finished_jobs_go_and_ids_rise_on(tmp_path: Path) -> None:
    clock = ManualClock()
    with store(tmp_path) as db:
        reported = jobs.enqueue(db, report(), clock=clock)
        trained = jobs.enqueue(db, data_file("a"), clock=clock)
        for job in (reported, trained):
            jobs.claim(db, ME, kinds=(job.kind,), clock=clock)
            jobs.finish(db, job.id, ME, {"rows": 40}, clock=clock)
        waiting = jobs.enqueue(db, data_file("b"), clock=clock)
        for type in ("service.seen", *MILESTONES):
            events.record(db, type, "x", source="test", clock=clock)
        last = events.last_id(db)
        assert tidy(db, clock=clock) == Tidied(0, 0)
        clock.advance(MONTH)
        assert tidy(db, clock=clock).jobs == 1
        assert [job.id for job in jobs.list_jobs(db).jobs] == [trained.id, waiting.id], "a trained file counts in its campaign"
        left = read_after(db, 0)
        assert {event.type for event in left.events} == {"queue.enqueued", *MILESTONES}
        assert {event.job for event in left.events if event.job is not None} == {waiting.id}
        assert left.lost == last - len(left.events) and left.last == last
        assert events.record(db, "service.seen", "new", source="test", clock=clock) == last + 1
        assert tidy(db, clock=clock) == Tidied(0, 0)


def test_the_types_that_are_kept_are_those_that_others_read() -> None:
    assert LEVEL_UP in MILESTONES  # curriculum.progress asks whether a level was told
    assert "training.failed" in MILESTONES  # progression.history tells of losses that were no numbers


def test_a_long_history_goes_in_parts_and_a_kill_between_them_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PART", 7)
    clock = ManualClock()
    with store(tmp_path) as db:
        for number in range(50):
            events.record(db, MILESTONES[0] if number % 10 == 0 else "service.seen", str(number), source="test", clock=clock)
        assert events.prune(db, keep=10, clock=clock) == 36
        assert [event.message for event in read_after(db, 0).events] == ["0", "10", "20", "30", *map(str, range(40, 50))]
        pages, at = [], 0
        while True:
            page = read_after(db, at, limit=3)
            pages.append(page)
            at = page.last
            if not page.more:
                break
        assert sum(page.lost for page in pages) == 36 and sum(len(page.events) for page in pages) == 14
