"""Adding a file: checked first, moved or copied, refused with one sentence and left where it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness import need_strace
from guild.errors import RefusedError
from guild.places import Places
from guild.queue.add import add_file
from guild.queue.checking import InvalidDataError
from guild.queue.marks import take
from guild.queue.moves import COPY_AGE_S, remove_old_copies
from guild.records import jobs
from guild.records.data_sidecars import read_data_sidecar
from guild.records.database import open_guild
from guild.records.jobs import DuplicateJobError, QueueFullError
from guild.records.lineage_documents import lineage_document
from guild.validation import validate
from helpers.guild_jobs import ME
from helpers.guild_queue import all_jobs, check_whole, lying, new_queue, put
from helpers.guild_rows import broken_check, chat, write_rows
from modelwright.database import Database
from modelwright.errors import ConfigError


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_queue(tmp_path / "guild")


@pytest.fixture
def db(places: Places) -> Iterator[Database]:
    with open_guild(places) as opened:
        yield opened


def test_a_file_is_moved_with_its_sidecar_and_its_job_knows_its_rows(db: Database, places: Places, tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", rows=3, sidecar=True)
    mtime = path.stat().st_mtime_ns
    job = add_file(db, places, path, priority="high", facts={"skill": "bin", "level": 2})
    assert (job.level, job.ordinal, job.payload["rows"], job.payload["schema_id"]) == ("high", mtime, 3, "chat_sft_v1")
    assert (job.payload["skill"], job.payload["level"]) == ("bin", 2)
    assert lying(places) == {"high": ["a.jsonl", "a.jsonl.meta.json"]}
    assert list(tmp_path.glob("*.json*")) == []
    check_whole(db, places)


def test_a_copy_leaves_the_original_and_keeps_its_place_in_the_order(db: Database, places: Places, tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", age_s=777, sidecar=True)
    job = add_file(db, places, path, copy=True)
    copy = places.level("normal") / "a.jsonl"
    assert copy.read_bytes() == path.read_bytes()
    assert job.ordinal == copy.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert lying(places) == {"normal": ["a.jsonl", "a.jsonl.meta.json"]}
    assert path.with_name("a.jsonl.meta.json").is_file()
    check_whole(db, places)


def test_a_file_of_another_file_system_is_copied_and_then_removed(db: Database, places: Places, tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    path = put(memory / f"other-{os.getpid()}.jsonl", sidecar=True)
    try:
        add_file(db, places, path)
        assert lying(places) == {"normal": [path.name, f"{path.name}.meta.json"]}
        assert not path.exists() and not path.with_name(f"{path.name}.meta.json").exists()
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.jsonl", "no such file"),
        ("rows.json", "does not end in .jsonl"),
        (".jsonl", "does not end in .jsonl"),
        ("folder.jsonl", "a folder"),
        ("link.jsonl", "a link"),
        ("empty.jsonl", "an empty file"),
        ("a\tb.jsonl", "cannot be shown"),
        (".hidden.jsonl", "hidden name"),
        ("n" * 230 + ".jsonl", "allowed: 200"),
    ],
)
def test_what_cannot_be_queued_is_refused_with_one_sentence(name: str, said: str, db: Database, places: Places, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(put(tmp_path / "real.jsonl"))
    (tmp_path / "empty.jsonl").touch()
    for written in ("rows.json", "a\tb.jsonl", ".hidden.jsonl", "n" * 230 + ".jsonl"):
        put(tmp_path / written)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RefusedError) as caught:
        add_file(db, places, tmp_path / name)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert all_jobs(db) == [] and lying(places) == {}


def test_rows_that_fail_validation_stay_outside_with_every_fault_named(db: Database, places: Places, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "bad.jsonl", [chat(schema_id="chat_sft_v1"), "{broken", {"messages": []}])
    with pytest.raises(InvalidDataError) as caught:
        add_file(db, places, path)
    assert len(caught.value.errors) == 2 and "2" in caught.value.errors[0] and "3" in caught.value.errors[1]
    assert path.is_file() and all_jobs(db) == []


def test_every_verdict_goes_into_the_lineage(db: Database, places: Places, tmp_path: Path) -> None:
    add_file(db, places, put(tmp_path / "good.jsonl"))
    with pytest.raises(InvalidDataError):
        add_file(db, places, write_rows(tmp_path / "bad.jsonl", ["{broken"]))
    rows = db.rows("SELECT file, valid FROM validations ORDER BY id")
    assert [(row["file"], bool(row["valid"])) for row in rows] == [("good.jsonl", True), ("bad.jsonl", False)]


def test_rows_of_no_named_schema_need_one_named(db: Database, places: Places, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "plain.jsonl", [chat()])
    with pytest.raises(InvalidDataError, match="schema"):
        add_file(db, places, path)
    assert add_file(db, places, path, schema="chat_sft_v1").payload["schema_id"] == "chat_sft_v1"
    path = write_rows(tmp_path / "other.jsonl", [chat()])
    assert add_file(db, places, path, allow_default=True).payload["schema_id"] == "chat_sft_v1"


def test_item_18_a_validator_that_raises_keeps_the_file_out(
    db: Database, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a.jsonl")
    monkeypatch.setattr(validate, "scan_file", broken_check)
    with pytest.raises(InvalidDataError, match="a check that failed itself"):
        add_file(db, places, path)
    assert path.is_file() and all_jobs(db) == []
    assert [bool(row["valid"]) for row in db.rows("SELECT valid FROM validations")] == [False]


def test_a_refusal_counts_against_the_generator_that_the_sidecar_names(db: Database, places: Places, tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", sidecar=True)
    path.write_bytes(b"\x1f\x8bgzip")
    with pytest.raises(InvalidDataError, match="a gzip archive"):
        add_file(db, places, path)
    put(tmp_path / "b.jsonl").write_bytes(b"\x1f\x8bgzip")
    with pytest.raises(InvalidDataError):
        add_file(db, places, tmp_path / "b.jsonl")
    assert {name: entry["failed"] for name, entry in lineage_document(db)["generators"].items()} == {"manual@1.0.0": 1, "unknown@0": 1}
    sidecar = read_data_sidecar(path)
    assert sidecar is not None and sidecar.validated_at is None, "what stays outside is left alone"


def test_a_name_in_use_is_refused_wherever_it_is(db: Database, places: Places, tmp_path: Path) -> None:
    add_file(db, places, put(tmp_path / "a.jsonl"))
    with pytest.raises(DuplicateJobError, match="queued"):
        add_file(db, places, put(tmp_path / "a.jsonl"), priority="high")
    assert take(db, places, ME) is not None
    with pytest.raises(DuplicateJobError, match="running"):
        add_file(db, places, tmp_path / "a.jsonl")
    put(places.failed / "b.jsonl")
    with pytest.raises(RefusedError, match="failed"):
        add_file(db, places, put(tmp_path / "b.jsonl"))
    put(places.level("low") / "c.jsonl", age_s=0)  # by hand, not yet taken in
    with pytest.raises(RefusedError, match="in the queue"):
        add_file(db, places, put(tmp_path / "c.jsonl"))
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_job_that_cannot_be_written_brings_the_file_back(
    db: Database, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a.jsonl", sidecar=True)
    with pytest.raises(ConfigError, match="level"):
        add_file(db, places, path, facts={"level": 0})
    with pytest.raises(ConfigError, match="level"):
        add_file(db, places, path, copy=True, facts={"level": 0})
    from dataclasses import replace

    from guild.records import kinds, submitting

    full = replace(kinds.KINDS["train_file"], max_pending=0)
    monkeypatch.setattr(submitting, "kind_of", lambda name: full)
    with pytest.raises(QueueFullError):
        add_file(db, places, path)
    assert sorted(file.name for file in tmp_path.glob("a.*")) == ["a.jsonl", "a.jsonl.meta.json"]
    assert lying(places) == {} and not list(places.queue.rglob(".*.tmp"))


@pytest.mark.needs_strace
@pytest.mark.parametrize(("calls", "when"), [("sendfile,copy_file_range,write", 1), ("pwrite64", 2), ("fsync", 1)])
def test_a_full_disk_is_one_sentence_and_nothing_of_the_copy_is_left(calls: str, when: int, places: Places, tmp_path: Path) -> None:
    need_strace()
    open_guild(places).close()
    path = put(tmp_path / "a.jsonl", rows=200)
    arguments = ["add", str(path), "--copy", "--base-dir", str(places.base)]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(places.level("normal")), "-P", str(path), "-P", str(places.database) + "-wal",
         "-e", f"inject={calls}:error=ENOSPC:when={when}+", sys.executable, "-m", "guild.training_queue", *arguments],
        capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done
    assert "no space left" in done.stderr and "Traceback" not in done.stderr
    assert path.is_file() and lying(places) == {} and not list(places.level("normal").glob(".*"))
    with open_guild(places) as db:
        assert all_jobs(db) == []
        assert jobs.counts(db).states["queued"] == 0


def test_copies_that_a_kill_left_are_removed_once_they_are_old(places: Places) -> None:
    normal = places.level("normal")
    left = put(normal / ".a.jsonl.123-0.incoming.tmp", age_s=COPY_AGE_S + 60)
    now = left.stat().st_ctime
    assert remove_old_copies(normal, now_s=now + 60) == [], "its name was given a moment ago"
    assert remove_old_copies(normal, now_s=now + COPY_AGE_S + 60) == [left.name]
    assert not left.exists()
