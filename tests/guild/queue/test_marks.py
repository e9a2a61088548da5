"""Taking files in order, and where each goes that was completed, failed, skipped or returned. (acceptance 1, 3)"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from guild.errors import RefusedError
from guild.places import Places
from guild.queue.add import add_file
from guild.queue.marks import (
    cancel,
    mark_cancelled,
    mark_completed,
    mark_failed,
    mark_rejected,
    mark_returned,
    mark_skipped,
    retry,
    set_priority,
    take,
)
from guild.queue.reconcile import reconcile
from guild.queue.recovery import recover_queue
from guild.records import jobs
from guild.records.job_errors import IllegalTransitionError, NotHeldError, UnknownJobError
from helpers.guild_jobs import ME, died
from helpers.guild_queue import check_whole, lying, put
from modelwright.clock import ManualClock
from modelwright.database import Database
from modelwright.files import read_json


def taken_name(db: Database, places: Places) -> str:
    taken = take(db, places, ME)
    assert taken is not None
    assert taken.path == places.processing / (taken.job.name or "")
    assert taken.path.is_file()
    mark_completed(db, places, taken.job.id, ME)
    return taken.job.name or ""


def test_item_1_high_first_and_the_older_file_within_a_level(db: Database, places: Places) -> None:
    put(places.level("low") / "young.jsonl", age_s=100)
    put(places.level("low") / "old.jsonl", age_s=900)
    put(places.level("high") / "urgent.jsonl", age_s=10)
    assert [taken_name(db, places) for _ in range(3)] == ["urgent.jsonl", "old.jsonl", "young.jsonl"]
    assert take(db, places, ME) is None
    assert list(lying(places)) == ["recently_completed"]


def test_item_3_a_failing_file_is_retried_from_low_twice_and_then_parked(db: Database, places: Places) -> None:
    put(places.level("high") / "bad.jsonl", sidecar=True)
    seen = []
    for attempt in (1, 2, 3):
        taken = take(db, places, ME)
        assert taken is not None and taken.sidecar is not None and taken.sidecar.is_file()
        job = mark_failed(db, places, taken.job.id, ME, f"broke {attempt}")
        seen.append((job.state, job.attempts, lying(places)))
        check_whole(db, places)
    both = ["bad.jsonl", "bad.jsonl.meta.json"]
    assert seen == [("queued", 1, {"low": both}), ("queued", 2, {"low": both}), ("failed", 3, {"failed": both})]
    assert take(db, places, ME) is None
    failed = read_json(places.queue_metadata)["failed"]
    assert [(entry["file"], entry["attempts"], entry["last_error"]) for entry in failed] == [("bad.jsonl", 3, "broke 3")]
    assert failed[0]["final_failure"] and "retry_at" not in failed[0]


def test_a_name_in_failed_is_refused_until_it_is_retried(db: Database, places: Places) -> None:
    put(places.level("high") / "bad.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    mark_rejected(db, places, taken.job.id, ME, "unfit rows")
    assert lying(places) == {"failed": ["bad.jsonl"]}
    again = put(places.base / "bad.jsonl")
    with pytest.raises(RefusedError, match="rejected"):
        add_file(db, places, again)
    assert again.is_file()
    job = retry(db, places, "bad.jsonl")
    assert (job.state, job.level, job.attempts) == ("queued", "low", 0)
    assert lying(places) == {"low": ["bad.jsonl"]}


def test_a_completed_file_carries_its_moment_and_two_of_one_second_both_stay(db: Database, places: Places) -> None:
    clock = ManualClock(datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))
    for _ in range(2):
        add_file(db, places, put(places.base / "a.jsonl", sidecar=True), clock=clock)
        taken = take(db, places, ME, clock=clock)
        assert taken is not None
        mark_completed(db, places, taken.job.id, ME, {"loss": 0.5}, clock=clock)
    names = lying(places)["recently_completed"]
    assert names == [
        "a_20260304_050607.jsonl",
        "a_20260304_050607.jsonl.meta.json",
        "a_2_20260304_050607.jsonl",
        "a_2_20260304_050607.jsonl.meta.json",
    ]
    check_whole(db, places)


def test_a_skipped_file_goes_to_low_with_its_reason(db: Database, places: Places) -> None:
    put(places.level("high") / "long.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    mark_skipped(db, places, taken.job.id, ME, reason="later", position=12)
    assert lying(places) == {"low": ["long.jsonl"]}
    entry = read_json(places.queue_metadata)["skipped"][0]
    assert (entry["file"], entry["reason"]) == ("long.jsonl", "later") and entry["skipped_at"]
    again = take(db, places, ME)
    assert again is not None and again.job.position == 12


def test_a_stopped_file_returns_to_its_own_level_with_its_position(db: Database, places: Places) -> None:
    put(places.level("high") / "long.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    entry = read_json(places.queue_metadata)["processing"][0]
    assert (entry["file"], entry["from_priority"], entry["position_examples"]) == ("long.jsonl", "high", 0) and entry["started_at"]
    job = mark_returned(db, places, taken.job.id, ME, position=40)
    assert (job.position, lying(places)) == (40, {"high": ["long.jsonl"]})
    assert read_json(places.queue_metadata)["processing"] == []


def test_what_a_dead_process_held_returns_and_what_a_live_one_holds_stays(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl")
    taken = take(db, places, died())
    assert taken is not None
    assert lying(places) == {"processing": ["a.jsonl"]}
    assert [one.job.name for one in recover_queue(db, places).taken_back] == ["a.jsonl"]
    assert lying(places) == {"normal": ["a.jsonl"]}
    assert take(db, places, ME) is not None
    assert recover_queue(db, places).taken_back == ()
    assert lying(places) == {"processing": ["a.jsonl"]}


def test_only_the_holder_marks(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl")
    taken = take(db, places, died())
    assert taken is not None
    with pytest.raises(NotHeldError):
        mark_completed(db, places, taken.job.id, ME)
    assert lying(places) == {"processing": ["a.jsonl"]}


def test_a_waiting_file_moves_between_levels_and_one_in_training_does_not(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl", sidecar=True)
    assert set_priority(db, places, "a.jsonl", "high").level == "high"
    assert lying(places) == {"high": ["a.jsonl", "a.jsonl.meta.json"]}
    assert take(db, places, ME) is not None
    with pytest.raises(IllegalTransitionError, match="running"):
        set_priority(db, places, "a.jsonl", "low")
    with pytest.raises(UnknownJobError, match=r"nowhere\.jsonl"):
        set_priority(db, places, "nowhere.jsonl", "low")


def test_a_cancelled_file_is_kept_in_failed_and_can_be_retried(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl")
    assert cancel(db, places, "a.jsonl", reason="wrong level").state == "cancelled"
    assert lying(places) == {"failed": ["a.jsonl"]}
    check_whole(db, places)
    assert retry(db, places, "a.jsonl", priority="normal").state == "queued"
    assert lying(places) == {"normal": ["a.jsonl"]}


def test_of_a_file_in_training_cancel_is_asked_of_its_trainer(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    assert cancel(db, places, "a.jsonl").cancel_asked
    assert lying(places) == {"processing": ["a.jsonl"]}
    mark_cancelled(db, places, taken.job.id, ME, position=3)
    assert lying(places) == {"failed": ["a.jsonl"]}


def test_a_file_deleted_while_it_is_trained_ends_all_the_same(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    taken.path.unlink()
    assert "is being trained" in reconcile(db, places).notes[0]
    assert mark_completed(db, places, taken.job.id, ME).state == "completed"
    assert lying(places) == {}
    check_whole(db, places)


def test_a_file_whose_name_is_taken_in_low_keeps_its_own_rows(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl", rows=2)
    taken = take(db, places, ME)
    assert taken is not None
    put(places.level("low") / "a.jsonl", rows=5)  # by hand, the same name
    mark_failed(db, places, taken.job.id, ME, "broke")
    assert lying(places) == {"low": ["a.jsonl"], "processing": ["a.jsonl"]}
    assert any("second file of that name" in note for note in reconcile(db, places).notes)
    again = take(db, places, ME)
    assert again is not None and again.job.attempts == 1
    assert len(again.path.read_text().splitlines()) == 2
    assert jobs.find_file(db, "a.jsonl").id == again.job.id
