"""The inbox: sub-folders flattened, bad files parked, everything else named."""

from __future__ import annotations

import contextlib
import shutil
import threading

import pytest

from guild.places import Places
from guild.queue.inbox import EMPTY_S, Untold, process_inbox
from guild.records.data_sidecars import read_data_sidecar
from guild.records.jobs import find_file
from guild.records.lineage import rebuild_lineage
from guild.records.lineage_documents import lineage_document
from guild.validation import validate
from helpers.guild_queue import age, all_jobs, check_whole, lying, put
from helpers.guild_rows import broken_check, chat, write_rows
from modelwright.database import Database
from modelwright.files import read_json


def test_files_of_all_sub_folders_are_queued_with_their_sidecars(db: Database, places: Places) -> None:
    put(places.inbox / "a.jsonl", sidecar=True)
    put(places.inbox / "deep" / "er" / "b.jsonl", sidecar=True)
    result = process_inbox(db, places, priority="low")
    assert (sorted(result.queued), result.rejected, result.left) == (["a.jsonl", "b.jsonl"], {}, [])
    assert lying(places) == {"low": ["a.jsonl", "a.jsonl.meta.json", "b.jsonl", "b.jsonl.meta.json"]}
    assert list(places.inbox.iterdir()) == []
    check_whole(db, places)
    assert process_inbox(db, places).queued == []


def test_a_file_that_fails_validation_is_parked_and_never_waits(db: Database, places: Places) -> None:
    path = put(places.inbox / "bad.jsonl", sidecar=True)
    path.write_text('{"schema_id": "chat_sft_v1", "messages": [{"role": "robot", "content": "x"}]}\n')
    age(path, 60)
    result = process_inbox(db, places)
    assert list(result.rejected) == ["bad.jsonl"] and result.queued == []
    job = find_file(db, "bad.jsonl")
    assert job.state == "rejected" and job.error and "bad.jsonl" in job.error
    assert lying(places) == {"failed": ["bad.jsonl", "bad.jsonl.meta.json"]}
    assert read_json(places.queue_metadata)["failed"][0]["final_failure"]
    check_whole(db, places)


def test_the_sidecar_of_a_parked_file_holds_the_verdict_and_a_rebuild_finds_it_there(db: Database, places: Places) -> None:
    put(places.inbox / "bad.jsonl", sidecar=True).write_text("{broken\n")
    age(places.inbox / "bad.jsonl", 60)
    put(places.inbox / "good.jsonl", sidecar=True)
    process_inbox(db, places)
    sidecar = read_data_sidecar(places.failed / "bad.jsonl")
    assert sidecar is not None and sidecar.validation_passed is False and "no schema id" in str(sidecar.validation_errors)
    before = lineage_document(db)
    assert before["generators"]["manual@1.0.0"]["total"] == 2 and before["generators"]["manual@1.0.0"]["failed"] == 1
    assert rebuild_lineage(db, places) == [] and lineage_document(db) == before, "the same verdicts, not others"
    db.execute("DELETE FROM validations")
    assert rebuild_lineage(db, places) == [] and lineage_document(db) == before


def test_a_file_whose_sidecar_is_damaged_is_parked_with_what_is_wrong_with_it(db: Database, places: Places) -> None:
    path = put(places.inbox / "a.jsonl")
    path.with_name("a.jsonl.meta.json").write_text('{"generator_id": "bin_api"}')
    result = process_inbox(db, places)
    assert "generated_at" in str(result.rejected["a.jsonl"]) and find_file(db, "a.jsonl").state == "rejected"
    assert lying(places) == {"failed": ["a.jsonl", "a.jsonl.meta.json"]}


def test_an_empty_file_is_parked_once_it_is_not_the_beginning_of_one(db: Database, places: Places) -> None:
    path = places.inbox / "empty.jsonl"
    path.touch()
    age(path, EMPTY_S - 20)
    assert "empty.jsonl" in process_inbox(db, places).soon[0]
    age(path, EMPTY_S + 1)
    assert "an empty file" in process_inbox(db, places).rejected["empty.jsonl"][0]
    assert find_file(db, "empty.jsonl").state == "rejected" and lying(places) == {"failed": ["empty.jsonl"]}
    assert [bool(row["valid"]) for row in db.rows("SELECT valid FROM validations")] == [False]


def test_rows_that_name_no_schema_are_taken_in_only_where_the_default_is_allowed(db: Database, places: Places) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        age(write_rows(places.inbox / name, [chat()]), 60)
        result = process_inbox(db, places, allow_default=name == "b.jsonl")
        assert [*result.queued, *result.rejected] == [name]
    assert "schema_id" in str(find_file(db, "a.jsonl").error)
    assert find_file(db, "b.jsonl").payload["schema_id"] == "chat_sft_v1"


def test_what_another_program_renames_or_takes_away_meanwhile_ends_nothing(db: Database, places: Places) -> None:
    """The usual atomic write, x.tmp and then x.jsonl, and a program that takes files and folders away, as fast as they can."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            folder = places.inbox / f"sub{number % 3}"
            number += 1
            with contextlib.suppress(OSError):  # the other one is faster
                folder.mkdir(exist_ok=True)
                for at in range(5):
                    path = put(folder / f"x{number}-{at}.tmp", rows=1)
                    path.rename(path.with_suffix(".jsonl"))
                shutil.rmtree(folder)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        results = [process_inbox(db, places) for _ in range(60)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not any(result.rejected for result in results)
    assert all("unfinished" in sentence or "in use" in sentence for result in results for sentence in result.left)
    assert len(all_jobs(db)) == sum(len(result.queued) for result in results) == len(lying(places).get("normal", []))


def test_a_validator_that_raises_parks_the_file_and_says_so(db: Database, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 18, at the inbox."""
    put(places.inbox / "a.jsonl")
    monkeypatch.setattr(validate, "scan_file", broken_check)
    result = process_inbox(db, places)
    assert "a check that failed itself (RuntimeError: no such thing" in result.rejected["a.jsonl"][0]
    assert find_file(db, "a.jsonl").state == "rejected" and lying(places) == {"failed": ["a.jsonl"]}
    assert [bool(row["valid"]) for row in db.rows("SELECT valid FROM validations")] == [False]


def test_a_sentence_is_told_once_while_it_holds() -> None:
    untold = Untold()
    assert untold.of(["a", "b", "a"]) == ["a", "b"]
    assert untold.of(["b", "c"]) == ["c"]
    assert untold.of(["a", "c"]) == ["a"]


def test_what_stays_in_the_inbox_is_named(db: Database, places: Places) -> None:
    put(places.level("normal") / "used.jsonl", age_s=0)
    put(places.inbox / "used.jsonl")
    put(places.inbox / "one" / "same.jsonl", age_s=100)
    put(places.inbox / "two" / "same.jsonl", age_s=50)
    put(places.inbox / "young.jsonl", age_s=0)
    (places.inbox / "readme.txt").write_text("hello")
    age(places.inbox / "readme.txt", 60)
    (places.inbox / "half.jsonl.part").write_text("{")
    (places.inbox / "link.jsonl").symlink_to("/etc/hostname")
    (places.inbox / "lonely.jsonl.meta.json").write_text("{}")
    result = process_inbox(db, places)
    assert result.queued == ["same.jsonl"]
    for what in ("inbox/used.jsonl", "inbox/two/same.jsonl", "inbox/young.jsonl", "readme.txt", "half.jsonl.part", "link.jsonl", "lonely"):
        assert len([note for note in (*result.left, *result.soon) if what in note]) == 1, (what, result.left)
    assert len(result.left) == 6 and len(result.soon) == 1 and "young.jsonl" in result.soon[0]
    assert [job.name for job in all_jobs(db)] == ["same.jsonl"]
    assert sorted(path.name for path in places.inbox.iterdir()) == [
        "half.jsonl.part", "link.jsonl", "lonely.jsonl.meta.json", "readme.txt", "two", "used.jsonl", "young.jsonl",
    ]  # fmt: skip
