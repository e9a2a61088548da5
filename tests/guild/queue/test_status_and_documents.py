"""Counts, lists and the exported document, with and without an installation of the original system."""

from __future__ import annotations

import json
from pathlib import Path

from guild.places import Places
from guild.queue.disk import GB, disk_verdict, judge_disk
from guild.queue.marks import cancel, mark_completed, mark_failed, mark_skipped, take
from guild.queue.models import QueueMetadata
from guild.queue.reconcile import reconcile
from guild.queue.retention import sweep_completed
from guild.queue.status import get_queue_status, list_queue
from guild.records.database import open_guild
from helpers.guild_jobs import ME
from helpers.guild_queue import check_whole, lying, new_queue, put
from modelwright.clock import ManualClock, SystemClock
from modelwright.files import read_json


def numbers(places: Places) -> tuple[int, ...]:
    status = get_queue_status(places)
    queued = status["queued"]
    assert status["total_queued"] == queued["total"] == queued["high"] + queued["normal"] + queued["low"]
    return (queued["high"], queued["normal"], queued["low"], *(status[name] for name in ("processing", "completed", "failed", "skipped")))


def test_an_adopted_queue_is_shown_and_nothing_is_written(tmp_path: Path) -> None:
    places = Places(tmp_path)
    put(places.level("high") / "a.jsonl")
    put(places.processing / "b.jsonl")
    put(places.failed / "c.jsonl")
    old = {"processed": [{"file": "x", "completed_at": "2025-11-01T10:00:00"}] * 3, "skipped": [{"file": "y"}], "failed": []}
    places.queue_metadata.write_text(json.dumps(old))
    before = sorted(tmp_path.rglob("*"))
    assert numbers(places) == (1, 0, 0, 1, 3, 1, 1)
    assert [(row.name, row.priority, row.job) for row in list_queue(places)] == [("a.jsonl", "high", None)]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_first_change_keeps_the_original_document_and_its_entries(tmp_path: Path) -> None:
    places = new_queue(tmp_path)
    old = {"processed": [{"file": "x", "completed_at": "2025-11-01T10:00:00"}], "skipped": [], "failed": [], "colour": "red"}
    places.queue_metadata.write_text(json.dumps(old))
    put(places.level("normal") / "a.jsonl")
    with open_guild(places) as db:
        taken = take(db, places, ME)
        assert taken is not None
        mark_completed(db, places, taken.job.id, ME)
    document = read_json(places.queue_metadata)
    QueueMetadata.model_validate(document)
    assert (document["schema_version"], document["colour"]) == (1, "red")
    assert [entry["file"] for entry in document["processed"]] == ["x", "a.jsonl"]
    assert json.loads((places.queue / "queue_metadata.json.original").read_text()) == old
    assert numbers(places) == (0, 0, 0, 0, 2, 0, 0)


def test_a_damaged_document_stops_nothing_and_is_put_aside(tmp_path: Path) -> None:
    places = new_queue(tmp_path)
    places.queue_metadata.write_text('{"processed": [')
    assert any("damaged" in note for note in get_queue_status(places)["notes"])
    put(places.level("normal") / "a.jsonl")
    with open_guild(places) as db:
        taken = take(db, places, ME)
        assert taken is not None
        mark_completed(db, places, taken.job.id, ME)
    assert [entry["file"] for entry in read_json(places.queue_metadata)["processed"]] == ["a.jsonl"]
    assert (places.queue / "queue_metadata.json.damaged").read_text() == '{"processed": ['
    assert get_queue_status(places)["notes"] == []


def test_counts_follow_every_mark(tmp_path: Path) -> None:
    places = new_queue(tmp_path)
    with open_guild(places) as db:
        for name, level in (("a", "high"), ("b", "normal"), ("c", "normal"), ("d", "low")):
            put(places.level(level) / f"{name}.jsonl", age_s=1000 - ord(name))
        assert numbers(places) == (1, 2, 1, 0, 0, 0, 0), "not yet taken in, and counted"
        reconcile(db, places)
        assert numbers(places) == (1, 2, 1, 0, 0, 0, 0)
        cancel(db, places, "d.jsonl")
        taken = take(db, places, ME)
        assert taken is not None
        assert numbers(places) == (0, 2, 0, 1, 0, 0, 0)
        mark_completed(db, places, taken.job.id, ME)
        for _ in range(3):
            second = take(db, places, ME)
            assert second is not None
            mark_skipped(db, places, second.job.id, ME)
        assert numbers(places)[4:] == (1, 0, 3)
        while (failing := take(db, places, ME)) is not None:
            mark_failed(db, places, failing.job.id, ME, "broke")
        assert numbers(places) == (0, 0, 0, 0, 1, 2, 3)


def test_the_list_is_in_the_order_of_taking(tmp_path: Path) -> None:
    places = new_queue(tmp_path)
    big = put(places.level("low") / "big.jsonl", rows=20000, age_s=900)
    put(places.level("low") / "young.jsonl", age_s=100)
    put(places.level("high") / "first.jsonl")
    with open_guild(places) as db:
        reconcile(db, places)
    rows = list_queue(places)
    assert [row.name for row in rows] == ["first.jsonl", "big.jsonl", "young.jsonl"]
    assert abs(rows[1].size_mb - big.stat().st_size / 2**20) < 1e-9 and rows[1].added.endswith("Z")
    assert [row.name for row in list_queue(places, "high")] == ["first.jsonl"]


def test_trained_files_are_deleted_after_seven_days_and_nothing_else(tmp_path: Path) -> None:
    places = new_queue(tmp_path)
    clock = ManualClock(SystemClock().now())
    with open_guild(places) as db:
        for name in ("a", "b"):
            put(places.level("normal") / f"{name}.jsonl", sidecar=True)
            taken = take(db, places, ME, clock=clock)
            assert taken is not None
            mark_completed(db, places, taken.job.id, ME, clock=clock)
            clock.advance(3 * 24 * 3600)
        put(places.recently_completed / "by hand.jsonl", age_s=8 * 24 * 3600)
        (places.recently_completed / "keep.txt").write_text("not a data file")
        assert sweep_completed(db, places, clock=ManualClock(SystemClock().now())) == ["by hand.jsonl"]
        clock.advance(1 * 24 * 3600 + 60)
        removed = sweep_completed(db, places, clock=clock)
        assert [name[0] for name in removed] == ["a"]
        assert [name[0] for name in lying(places)["recently_completed"]] == ["b", "b", "k"]
        check_whole(db, places)


def test_free_space_is_refused_below_ten_gigabytes_and_warned_of_below_fifty(tmp_path: Path) -> None:
    assert [judge_disk(free, "/d").verdict for free in (10 * GB - 1, 10 * GB, 50 * GB - 1, 50 * GB)] == ["refuse", "warn", "warn", "ok"]
    assert "at least 10 GB" in judge_disk(0, "/d").sentence and judge_disk(60 * GB, "/d").sentence == ""
    assert disk_verdict(tmp_path, refuse_below=0, warn_below=0).verdict == "ok"
    assert disk_verdict(tmp_path, refuse_below=2**62).verdict == "refuse"
