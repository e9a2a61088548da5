"""A run directory: one writer, every phase and attempt on record, exact endings."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.clock import ManualClock
from modelwright.control import answer, ask
from modelwright.errors import (
    DamagedFileError,
    DiskFullError,
    ModelwrightError,
    Paused,
    RunLockedError,
    StorageError,
    UsageError,
)
from modelwright.heartbeat import read_heartbeat
from modelwright.metrics import read_metrics
from modelwright.record import read_record
from modelwright.rundir import RESERVE_NAME, RunDir


def create(path: Path, **more) -> RunDir:
    return RunDir.create(path, kind="t", command=["python", "-m", "t"], resume_command=["python", "-m", "t", "--resume"], **more)


def test_phases_and_attempts_are_on_record(tmp_path: Path) -> None:
    clock = ManualClock()
    with create(tmp_path / "run", config={"a": 1}, clock=clock, details={"room": 1}) as run:
        with run.phase("P0"):
            clock.advance(2)
        run.start_phase("P1")
        run.update(tags=["good"], best=3)
        run.finish("paused", 9, "request")
    with RunDir.open_writer(tmp_path / "run", clock=clock) as run:
        assert run.attempt == 2
        with run.phase("P1"):
            run.heartbeat().beat(status="running", phase="P1", step=5)
    record = read_record(tmp_path / "run")
    assert [(entry.phase, entry.attempt, entry.status, entry.exit_code, entry.last_step) for entry in record.entries] == [
        ("P0", 1, "completed", 0, None),
        ("P1", 1, "paused", 9, None),
        ("P1", 2, "completed", 0, 5),
    ]
    assert (record.entries[0].started_at, record.entries[0].ended_at) == (
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:02Z",
    )
    assert [(change.status, change.attempt) for change in record.history] == [
        ("running", 1),
        ("paused", 1),
        ("running", 2),
        ("completed", 2),
    ]
    assert record.status == "completed" and record.exit_code == 0
    assert record.tags == ["good"] and record.details == {"room": 1, "best": 3}
    assert record.resume_command[-1] == "--resume"


KILLED = """
import os, sys
from modelwright.rundir import RunDir
run = RunDir.create(sys.argv[1], kind="t", command=["t"])
run.start_phase("P1")
run.heartbeat().beat(status="running", phase="P1", step=17, total=100)
run.metrics().log("a", 1.0, 17)
os.kill(os.getpid(), 9)
"""


def test_a_killed_attempt_is_closed_as_died_with_the_step_of_its_last_heartbeat(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run")], check=False)
    assert read_record(tmp_path / "run").status == "running"
    with RunDir.open_writer(tmp_path / "run") as run:
        entry = run.record.entries[0]
        assert (entry.status, entry.last_step, entry.exit_code) == ("died", 17, None)
        assert entry.ended_at == read_heartbeat(tmp_path / "run").snapshot["alive_at"]  # type: ignore[index]
        assert [change.status for change in run.record.history] == ["running", "died", "running"]
        run.metrics().log("a", 2.0, 17)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl").series("a") == [(17, 2.0)]


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        for opening in (lambda: create(tmp_path), lambda: RunDir.open_writer(tmp_path)):
            with pytest.raises(RunLockedError, match="`python -m t`"):
                opening()
        reader = RunDir.open_reader(tmp_path)
        assert reader.run_id == run.run_id and reader.liveness() == "alive"
        for act in (reader.metrics, reader.heartbeat, reader.control, lambda: reader.start_phase("x")):
            with pytest.raises(UsageError, match="not open for writing"):
                act()
        assert reader.checkpoints().list() == [] and not (tmp_path / "checkpoints").exists()
    assert RunDir.open_reader(tmp_path).finished


def test_an_existing_run_is_not_created_over(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        run_id = run.run_id
    with pytest.raises(UsageError, match="found a run there already"):
        create(tmp_path)
    assert read_record(tmp_path).run_id == run_id
    RunDir.open_writer(tmp_path).close()


def test_a_directory_left_by_a_create_that_died_early_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "writer.lock").touch()
    (tmp_path / "config.resolved.yaml").write_text("a: 1")
    create(tmp_path).close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ("completed", 0, "")),
        (Paused("gate"), ("paused", 9, "gate")),
        (DiskFullError("full"), ("paused", 9, "disk")),
        (OSError(errno.ENOSPC, "No space left on device"), ("paused", 9, "disk")),
        (UsageError("a: found b; allowed: c."), ("failed", 2, "a: found b; allowed: c.")),
        (KeyboardInterrupt(), ("stopped", 130, "keyboard interrupt")),
        (SystemExit(0), ("completed", 0, "")),
        (SystemExit(6), ("failed", 6, "exit 6")),
        (ZeroDivisionError("x"), ("failed", 1, "ZeroDivisionError: x")),
    ],
)
def test_the_block_records_how_it_ended(tmp_path: Path, error: BaseException | None, expected: tuple) -> None:
    def body() -> None:
        with create(tmp_path) as run, run.phase("P0"):
            run.heartbeat().beat(status="running", phase="P0", step=1)
            if error is not None:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(Paused if expected[2] == "disk" else type(error)) as caught:
            body()
        if expected[0] == "paused":
            assert caught.value.exit_code == 9 and caught.value.reason == expected[2]  # type: ignore[attr-defined]
    record = read_record(tmp_path)
    assert (record.status, record.exit_code, record.reason) == expected
    assert record.entries[0].status == expected[0]
    assert read_heartbeat(tmp_path).state == "terminal"
    assert RunDir.open_reader(tmp_path).liveness() == "dead"


def test_requests_left_open_are_answered_at_the_end(tmp_path: Path) -> None:
    with create(tmp_path):
        request_id = ask(tmp_path, "pause", actor="t")
    outcome = answer(tmp_path, request_id)
    assert outcome is not None and outcome["outcome"] == "ended" and "completed" in outcome["detail"]["reason"]


def test_a_pause_asked_while_the_run_was_dead_is_honoured_on_resume(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    ask(tmp_path, "pause", actor="t")
    with RunDir.open_writer(tmp_path) as run:
        assert [request.kind for request in run.control().poll()] == ["pause"]


def test_pieces_are_made_once_and_under_the_rooms_names(tmp_path: Path) -> None:
    files = {"heartbeat": "logs/hb", "metrics": "logs/train.jsonl", "checkpoints": "ckpt"}
    with create(tmp_path, files=files) as run:
        assert run.metrics() is run.metrics() and run.heartbeat() is run.heartbeat() and run.control() is run.control()
        run.metrics().log("a", 1.0)
        run.metrics("other.jsonl").log("b", 1.0)
        run.heartbeat().beat(status="running", phase="x", step=1)
        run.checkpoints().save("a", lambda folder: (folder / "f").write_text("x") and None)
    for name in ("logs/hb.json", "logs/hb.jsonl", "logs/train.jsonl", "other.jsonl", "ckpt/a/f"):
        assert (tmp_path / name).is_file(), name


def test_misuse_by_a_room_is_told(tmp_path: Path) -> None:
    with create(tmp_path) as run:
        with pytest.raises(ValueError, match="no phase is open"):
            run.end_phase()
        run.start_phase("a")
        with pytest.raises(ValueError, match="a is still open"):
            run.start_phase("b")
        with pytest.raises(ValueError, match="finish: found status 'running'"):
            run.finish("running", 0)
        run.end_phase("stopped", 6, "breaker")
    assert read_record(tmp_path).entries[0].reason == "breaker"


@pytest.mark.parametrize("state", ["missing", "file", "below file", "empty record", "torn record", "record folder"])
def test_what_is_no_run_gets_a_diagnosis(tmp_path: Path, state: str) -> None:
    path = tmp_path / "läufe ⓪ x" / "run"
    path.parent.mkdir()
    if state == "file":
        path.write_text("x")
    elif state == "below file":
        path.parent.joinpath("plain").write_text("x")
        path = path.parent / "plain" / "run"
    elif state != "missing":
        create(path).close()
        record = path / "run.json"
        if state == "empty record":
            record.write_bytes(b"")
        elif state == "torn record":
            record.write_bytes(record.read_bytes()[:100])
        else:
            record.unlink()
            record.mkdir()
    for opening in (RunDir.open_reader, RunDir.open_writer):
        with pytest.raises(ModelwrightError) as caught:
            opening(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        if state in ("empty record", "torn record"):
            assert isinstance(caught.value, DamagedFileError)
    if "file" in state:
        with pytest.raises(StorageError):
            create(path)


def test_a_run_directory_that_vanishes_gets_a_diagnosis(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(RunLockedError, match="is gone"):
        run.start_phase("x")
    run.close()


def test_a_full_disk_at_the_end_is_recorded_in_the_reserved_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright import rundir as module

    real = module.write_record

    def full_while_reserved(folder: Path, record) -> None:
        if (folder / RESERVE_NAME).exists():
            raise DiskFullError("full")
        real(folder, record)

    run = create(tmp_path)
    assert (tmp_path / RESERVE_NAME).stat().st_size == module.RESERVE_BYTES
    monkeypatch.setattr(module, "write_record", full_while_reserved)
    run.finish("paused", 9, "disk")
    run.close()
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("paused", "disk")
    monkeypatch.undo()
    with RunDir.open_writer(tmp_path) as run:
        assert (tmp_path / RESERVE_NAME).exists()
    assert not (tmp_path / RESERVE_NAME).exists()
