"""The inbox: sub-folders flattened, bad files parked, everything else named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from guild.places import Places
from guild.queue.inbox import process_inbox
from guild.records.database import open_guild
from guild.records.jobs import find_file
from helpers.guild_queue import age, all_jobs, check_whole, lying, new_queue, put
from modelwright.database import Database
from modelwright.files import read_json


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_queue(tmp_path)


@pytest.fixture
def db(places: Places) -> Iterator[Database]:
    with open_guild(places) as opened:
        yield opened


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
        assert len([note for note in result.left if what in note]) == 1, (what, result.left)
    assert len(result.left) == 7
    assert [job.name for job in all_jobs(db)] == ["same.jsonl"]
    assert sorted(path.name for path in places.inbox.iterdir()) == [
        "half.jsonl.part", "link.jsonl", "lonely.jsonl.meta.json", "readme.txt", "two", "used.jsonl", "young.jsonl",
    ]  # fmt: skip
