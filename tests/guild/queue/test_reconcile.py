"""Files that people put, move and take by hand, and everything odd that can lie in the folders."""

from __future__ import annotations

import os
from pathlib import Path

from guild.places import Places
from guild.queue.add import add_file
from guild.queue.marks import mark_completed, mark_failed, mark_rejected, take
from guild.queue.reconcile import reconcile
from guild.records.events import log_of
from guild.records.jobs import NewJob, enqueue, find_file
from helpers.guild_jobs import ME, words
from helpers.guild_queue import age, all_jobs, check_whole, lying, put
from modelwright.database import Database


def test_a_file_put_by_hand_is_imported_in_the_order_of_its_mtime(db: Database, places: Places) -> None:
    path = put(places.level("low") / "späte zeilen 行.jsonl", age_s=500)
    result = reconcile(db, places)
    assert (result.imported, result.notes) == (["späte zeilen 行.jsonl"], [])
    job = find_file(db, path.name)
    assert (job.level, job.ordinal, job.payload["size_bytes"]) == ("low", path.stat().st_mtime_ns, path.stat().st_size)
    check_whole(db, places)


def test_a_file_moved_by_hand_changes_its_level(db: Database, places: Places) -> None:
    path = put(places.level("low") / "a.jsonl", sidecar=True)
    reconcile(db, places)
    path.rename(places.level("high") / "a.jsonl")
    result = reconcile(db, places)
    assert result.reprioritised == ["a.jsonl"]
    assert find_file(db, "a.jsonl").level == "high"
    assert lying(places) == {"high": ["a.jsonl", "a.jsonl.meta.json"]}, "its sidecar follows"
    check_whole(db, places)


def test_a_move_that_a_kill_interrupted_is_finished_and_not_taken_for_a_hand(db: Database, places: Places) -> None:
    put(places.level("low") / "a.jsonl")
    reconcile(db, places)
    from guild.records.jobs import set_priority

    set_priority(db, find_file(db, "a.jsonl").id, "high")  # and no rename after it
    result = reconcile(db, places)
    assert (result.completed, result.reprioritised) == (["a.jsonl"], [])
    assert lying(places) == {"high": ["a.jsonl"]}


def test_a_file_taken_away_by_hand_cancels_its_job_and_frees_its_name(db: Database, places: Places) -> None:
    path = put(places.level("normal") / "a.jsonl")
    reconcile(db, places)
    path.unlink()
    assert reconcile(db, places).cancelled == ["a.jsonl"]
    job = find_file(db, "a.jsonl")
    assert job.state == "cancelled"
    log = log_of(db, job.id).events
    assert words(log)[-1] == "cancelled" and "taken away" in log[-1].message
    put(path)
    assert reconcile(db, places).imported == ["a.jsonl"]


def test_a_file_moved_into_failed_is_parked_and_one_moved_out_is_retried(db: Database, places: Places) -> None:
    path = put(places.level("normal") / "a.jsonl")
    reconcile(db, places)
    path.rename(places.failed / "a.jsonl")
    reconcile(db, places)
    assert find_file(db, "a.jsonl").state == "rejected"
    (places.failed / "a.jsonl").rename(places.level("high") / "a.jsonl")
    assert reconcile(db, places).retried == ["a.jsonl"]
    job = find_file(db, "a.jsonl")
    assert (job.state, job.level) == ("queued", "high")
    check_whole(db, places)


def test_a_parked_file_that_was_deleted_frees_its_name(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    mark_rejected(db, places, taken.job.id, ME, "unfit")
    (places.failed / "a.jsonl").unlink()
    assert reconcile(db, places).dismissed == ["a.jsonl"]
    assert add_file(db, places, put(places.base / "a.jsonl")).state == "queued"


def test_what_is_being_trained_goes_back_to_processing(db: Database, places: Places) -> None:
    put(places.level("normal") / "a.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    taken.path.rename(places.level("high") / "a.jsonl")
    assert reconcile(db, places).completed == ["a.jsonl"]
    assert lying(places) == {"processing": ["a.jsonl"]}


def test_a_file_left_in_processing_by_another_system_returns_to_normal(db: Database, places: Places) -> None:
    put(places.processing / "a.jsonl", age_s=5000)
    assert reconcile(db, places).imported == ["a.jsonl"]
    assert lying(places) == {"normal": ["a.jsonl"]}
    check_whole(db, places)


def test_a_name_of_a_finished_file_may_come_again(db: Database, places: Places) -> None:
    for _ in range(2):
        put(places.level("normal") / "a.jsonl")
        taken = take(db, places, ME)
        assert taken is not None
        mark_completed(db, places, taken.job.id, ME)
    assert [job.state for job in all_jobs(db)] == ["completed", "completed"]
    assert len(lying(places)["recently_completed"]) == 2


def test_a_job_whose_file_never_came_is_cancelled(db: Database, places: Places) -> None:
    enqueue(db, NewJob("train_file", {"file": "ghost.jsonl"}))
    assert reconcile(db, places).cancelled == ["ghost.jsonl"]
    assert take(db, places, ME) is None


def test_everything_odd_is_named_once_and_left_alone(db: Database, places: Places) -> None:
    normal = places.level("normal")
    (normal / "folder.jsonl").mkdir()
    (normal / "notes.txt").write_text("no rows")
    (normal / "link.jsonl").symlink_to(put(places.base / "target.jsonl"))
    (normal / ".hidden.jsonl").write_text("{}\n")
    (normal / "half.jsonl.tmp").write_text("{")
    (normal / "empty.jsonl").touch()
    age(normal / "empty.jsonl", 60)
    put(normal / "young.jsonl", age_s=0)
    put(normal / f"{'n' * 240}.jsonl")
    (normal / "two\nlines.jsonl").write_text("{}\n")
    Path(os.fsdecode(os.fsencode(normal) + b"/bad\xff.jsonl")).write_text("{}\n")
    os.mkfifo(normal / "pipe.jsonl")
    (normal / "orphan.jsonl.meta.json").write_text("{}")
    put(places.level("high") / "twice.jsonl")
    put(places.level("low") / "twice.jsonl")
    put(places.failed / "parked.jsonl")
    put(normal / "parked.jsonl")
    (places.queue / "stray.jsonl").write_text("{}\n")
    before = sorted(os.fsencode(path) for path in places.queue.rglob("*"))
    result = reconcile(db, places)
    assert result.imported == ["twice.jsonl"]
    expected = {
        "normal/folder.jsonl": "a folder",
        "normal/notes.txt": "does not end in .jsonl",
        "normal/link.jsonl": "a symbolic link",
        "normal/.hidden.jsonl": "hidden",
        "normal/half.jsonl.tmp": "unfinished",
        "normal/empty.jsonl": "an empty file",
        "normal/young.jsonl": "changed a moment ago",
        "normal/nnn": "allowed: 200",
        "normal/two\\nlines.jsonl": "cannot be shown",
        "normal/bad\\udcff.jsonl": "cannot be shown",
        "normal/pipe.jsonl": "a special file",
        "normal/orphan.jsonl.meta.json": "without its data file",
        "low/twice.jsonl": "second file of that name",
        "normal/parked.jsonl": "lies in queue/failed/",
        "stray.jsonl": "outside the folders",
    }
    for where, what in expected.items():
        said = [note for note in result.notes if note.startswith(f"queue/{where}") and what in note]
        assert len(said) == 1, (where, what, result.notes)
    assert len(result.notes) == len(expected), result.notes
    assert all(note.endswith(".") and "\n" not in note for note in result.notes)
    left = sorted(os.fsencode(path) for path in places.queue.rglob("*") if path.name not in ("queue_metadata.json", ".metadata.lock"))
    assert left == before
    second = reconcile(db, places)
    assert not second.changed and sorted(second.notes) == sorted(result.notes)


def test_a_damaged_job_row_is_set_aside_and_its_file_is_queued_anew(db: Database, places: Places) -> None:
    put(places.level("high") / "a.jsonl", age_s=900)
    put(places.level("high") / "b.jsonl", age_s=100)
    reconcile(db, places)
    db.execute("UPDATE jobs SET position = 99, priority = 10 WHERE name = 'a.jsonl'")  # behind the checksum's back
    assert reconcile(db, places).imported == ["a.jsonl"]
    assert (find_file(db, "a.jsonl").position, find_file(db, "a.jsonl").level) == (0, "high")
    check_whole(db, places)
    db.execute("UPDATE jobs SET position = 99 WHERE name = 'a.jsonl'")  # nothing that a look at the folders could see
    taken = take(db, places, ME)
    assert taken is not None and taken.path.name == "b.jsonl", "the damaged one was set aside when its turn came"
    assert reconcile(db, places).imported == ["a.jsonl"]


def test_a_failed_retry_keeps_the_folder_and_the_database_together(db: Database, places: Places) -> None:
    put(places.level("high") / "a.jsonl")
    taken = take(db, places, ME)
    assert taken is not None
    mark_failed(db, places, taken.job.id, ME, "broke")
    (places.level("low") / "a.jsonl").unlink()
    assert reconcile(db, places).cancelled == ["a.jsonl"]
    assert take(db, places, ME) is None
