"""Run directories are found by their files, and damage is a sentence in their row."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelwright import heartbeat, lock, record
from modelwright.errors import StorageError, UsageError
from modelwright.rundir import RunDir
from modelwright.scan import DEFAULT_STEM, LOCK_NAME, RECORD_NAME, TERMINAL, RunRow, find_runs, record_error, row, signature, summarise


def make(path: Path, **options: object) -> Path:
    with RunDir.create(path, kind="toy", command=["toy"], **options) as run, run.phase("train"):  # type: ignore[arg-type]
        run.heartbeat().beat(status="running", phase="train", step=3, total=4, throughput=2.0)
    return path


def read(path: Path) -> RunRow:
    return row(str(path), summarise(str(path)))


def test_the_names_are_those_of_the_modules_that_write() -> None:
    assert (RECORD_NAME, LOCK_NAME, DEFAULT_STEM) == (record.RECORD_NAME, lock.LOCK_NAME, heartbeat.HEARTBEAT_STEM)
    assert TERMINAL == record.TERMINAL == heartbeat.TERMINAL_STATUSES


def test_runs_are_found_at_any_depth_but_not_inside_runs(tmp_path: Path) -> None:
    runs = {make(tmp_path / name) for name in ("a", "group/b", "group/deep/ü and space")}
    make(tmp_path / "a" / "inner")
    make(tmp_path / ".hidden" / "x")
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    problems: list[str] = []
    assert {Path(path) for path in find_runs(tmp_path, problems)} == runs
    assert list(find_runs(tmp_path / "a", problems)) == [str(tmp_path / "a")]
    assert problems == []


def test_a_finished_run_and_other_file_names(tmp_path: Path) -> None:
    entry = read(make(tmp_path / "r", files={"heartbeat": "logs/beat"}, tags=["x"], group="g"))
    assert (entry.state, entry.status, entry.step, entry.total_steps, entry.phase) == ("completed", "completed", 3, 4, "train")
    assert (entry.tags, entry.group, entry.kind, entry.attempt, entry.problem) == (("x",), "g", "toy", 1, "")


def test_a_live_writer_and_a_dead_one(tmp_path: Path) -> None:
    with RunDir.create(tmp_path / "r", kind="toy", command=["toy"]) as run:
        run.heartbeat().beat(status="running", phase="p", step=1, total=2)
        assert read(tmp_path / "r").state == "running"
    child = os.fork()
    if child == 0:
        RunDir.create(tmp_path / "d", kind="toy", command=["toy"])
        os._exit(0)  # like a kill: nothing is closed
    os.waitpid(child, 0)
    entry = read(tmp_path / "d")
    assert (entry.status, entry.state) == ("running", "dead")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"status": 3}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    path = make(tmp_path / "r")
    (path / "run.json").write_bytes(content)
    entry = read(path)
    assert entry.state == entry.status == "damaged"
    assert "run.json is damaged" in entry.problem and "Restore it from a copy" in entry.problem


def test_a_lost_record_is_still_a_run(tmp_path: Path) -> None:
    path = make(tmp_path / "r")
    (path / "run.json").unlink()
    assert list(find_runs(tmp_path, [])) == [str(path)]
    entry = read(path)
    assert entry.state == "damaged" and entry.problem == str(record_error(path)) and "is missing" in entry.problem
    assert (entry.step, entry.attempt) == (3, 1) and entry.run_id  # the snapshot says so
    (path / "heartbeat.json").unlink()
    assert (read(path).attempt, read(path).run_id) == (None, "")


def test_why_there_is_no_record(tmp_path: Path) -> None:
    assert record_error(make(tmp_path / "r")) is None
    (tmp_path / "file").touch()
    for path, kind, words in (
        (tmp_path, UsageError, "has no run.json, so it is no run"),
        (tmp_path / "gone", UsageError, "does not exist"),
        (tmp_path / "file", UsageError, "is not a directory"),
        (tmp_path / ("a" * 300), StorageError, "name is too long"),
    ):
        error = record_error(path)
        assert type(error) is kind and words in str(error)


def test_a_damaged_heartbeat_does_not_hide_the_record(tmp_path: Path) -> None:
    path = make(tmp_path / "r")
    (path / "heartbeat.json").write_text("{")
    entry = read(path)
    assert entry.state == "completed" and "heartbeat.json is damaged" in entry.problem


def test_a_signature_changes_with_the_files_and_waits_for_the_clock(tmp_path: Path) -> None:
    path = make(tmp_path / "r")
    assert signature(str(path), DEFAULT_STEM) == ""  # changed a moment ago
    for name in ("run.json", "heartbeat.json"):
        os.utime(path / name, ns=(10**18, 10**18))
    before = signature(str(path), DEFAULT_STEM)
    assert before and signature(str(path), DEFAULT_STEM) == before
    os.utime(path / "heartbeat.json", ns=(10**18, 10**18 + 1))
    assert signature(str(path), DEFAULT_STEM) != before
