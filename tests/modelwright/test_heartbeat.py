"""Beats, rates, and what a reader may conclude."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelwright.clock import ManualClock, boot_seconds
from modelwright.errors import ModelwrightError
from modelwright.files import read_json, read_jsonl, write_json
from modelwright.heartbeat import Heartbeat, StepRate, read_heartbeat
from modelwright.identity import current_identity
from modelwright.rundir import RunDir


def beat_at(heartbeat: Heartbeat, step: int, total: int = 100, **more: object) -> bool:
    return heartbeat.beat(status="running", phase="P1", step=step, total=total, **more)  # type: ignore[arg-type]


def start_run(folder: Path) -> RunDir:
    return RunDir.create(folder, kind="t", command=["t"])


def test_eta_of_an_even_pace_is_exact() -> None:
    rate = StepRate()
    rate.observe("train", 0, 0.0)
    rate.observe("train", 50, 25.0)
    assert rate.eta(50, 100) == 25.0
    rate.observe("train", 100, 50.0)
    assert rate.eta(100, 100) == 0.0 and rate.eta(100, None) is None


def test_the_rate_follows_a_change_of_pace_and_restarts_with_a_phase() -> None:
    rate = StepRate()
    rate.observe("a", 0, 0.0)
    rate.observe("a", 100, 10.0)
    rate.observe("a", 101, 310.0)
    assert rate.per_second is not None and rate.per_second < 1.0
    rate.observe("b", 0, 320.0)
    assert rate.per_second is None and rate.eta(0, 10) is None


def test_beats_are_limited_in_rate_unless_forced_or_news(tmp_path: Path) -> None:
    clock = ManualClock()
    heartbeat = Heartbeat(tmp_path, run_id="r", clock=clock)
    assert beat_at(heartbeat, 1)
    clock.advance(0.5)
    assert not beat_at(heartbeat, 2)
    assert beat_at(heartbeat, 3, force=True)
    clock.advance(1.0)
    assert beat_at(heartbeat, 4, throughput=10.5, unit="samples/s", latest_checkpoint="step-4", loss=2.0)
    assert heartbeat.beat(status="running", phase="P2", step=0, total=None)
    heartbeat.close()
    timeline = read_jsonl(tmp_path / "heartbeat.jsonl").records
    assert [(line["phase"], line["step"]) for line in timeline] == [("P1", 1), ("P1", 3), ("P1", 4), ("P2", 0)]
    assert timeline[2]["throughput"] == 10.5 and timeline[2]["loss"] == 2.0 and timeline[2]["progress"] == 0.04
    snapshot = read_json(tmp_path / "heartbeat.json")
    assert snapshot == timeline[-1]
    assert snapshot["latest_checkpoint"] == "step-4"  # carried on
    assert snapshot["total_steps"] is None and snapshot["eta_s"] is None


def test_a_running_run_is_running_and_a_finished_one_terminal(tmp_path: Path) -> None:
    with start_run(tmp_path) as run:
        view = read_heartbeat(tmp_path)
        assert (view.state, view.liveness, view.snapshot) == ("running", "alive", None)
        beat_at(run.heartbeat(), 7)
        view = read_heartbeat(tmp_path)
        assert view.state == "running" and view.age_s is not None and view.age_s < 5
        assert view.snapshot is not None and view.snapshot["step"] == 7
    view = read_heartbeat(tmp_path)
    assert view.state == "terminal" and view.liveness == "dead"
    assert view.snapshot is not None and view.snapshot["status"] == "completed" and view.snapshot["step"] == 7


def test_a_live_writer_with_an_old_heartbeat_is_stalled_not_dead(tmp_path: Path) -> None:
    with start_run(tmp_path) as run:
        beat_at(run.heartbeat(stale_after_s=0.05), 1)
        holder = tmp_path / "writer.lock"
        time.sleep(0.15)
        assert read_heartbeat(tmp_path).state == "stalled"
        assert read_heartbeat(tmp_path).liveness == "alive"
        assert read_heartbeat(tmp_path, stale_after_s=60).state == "running"
        assert holder.exists()


def test_a_new_attempt_is_running_before_its_first_beat(tmp_path: Path) -> None:
    with start_run(tmp_path) as run:
        beat_at(run.heartbeat(), 9)
        run.finish("paused", 9, "request")
    assert read_heartbeat(tmp_path).state == "terminal"
    with RunDir.open_writer(tmp_path):
        view = read_heartbeat(tmp_path)
        assert view.state == "running" and view.snapshot is not None and view.snapshot["status"] == "paused"


KILLED = """
import os, sys
from modelwright.rundir import RunDir
run = RunDir.create(sys.argv[1], kind="t", command=["t"], files={"heartbeat": "logs/train_heartbeat"})
run.start_phase("train")
run.heartbeat().beat(status="running", phase="train", step=41, total=100)
os.kill(os.getpid(), 9)
"""


def test_a_killed_writer_is_seen_to_be_dead_and_its_heartbeat_is_found_by_its_own_name(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run")], check=False)
    view = read_heartbeat(tmp_path / "run")
    assert (view.state, view.liveness) == ("dead", "dead")
    assert view.snapshot is not None and view.snapshot["step"] == 41
    assert (tmp_path / "run" / "logs" / "train_heartbeat.json").exists()


def test_a_writer_on_another_host_is_unreachable_and_a_future_date_is_told(tmp_path: Path) -> None:
    elsewhere = {**current_identity().as_dict(), "host": "far", "boot_id": "other"}
    clock = ManualClock()
    (tmp_path / "writer.lock").write_text(json.dumps({**elsewhere, "since": "2026-01-01T00:00:00Z"}))
    write_json(tmp_path / "heartbeat.json", {"status": "running", "alive_at": "2026-01-01T01:00:00.000Z", "boot_id": "other"})
    view = read_heartbeat(tmp_path, clock=clock)
    assert (view.state, view.liveness, view.age_s) == ("unreachable", "unreachable", 0.0)
    assert "3600 s in the future" in view.problem
    clock.advance(3700)
    assert read_heartbeat(tmp_path, clock=clock).age_s == 100.0


def test_a_jump_of_the_wall_clock_does_not_change_the_age(tmp_path: Path) -> None:
    """The age on the same machine comes from the boot clock: a day forth or back makes no run stalled."""
    if boot_seconds() is None:
        pytest.skip("no boot clock on this system")
    with start_run(tmp_path) as run:
        beat_at(run.heartbeat(), 1)
        clock = ManualClock(run._clock.now())
        for jump in (86400, -2 * 86400):
            clock.jump(jump)
            view = read_heartbeat(tmp_path, clock=clock)
            assert view.state == "running" and view.age_s is not None and view.age_s < 30 and view.problem == ""


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_a_damaged_snapshot_falls_back_to_the_timeline_and_says_so(tmp_path: Path, damage: bytes) -> None:
    with start_run(tmp_path) as run:
        beat_at(run.heartbeat(), 5)
        (tmp_path / "heartbeat.json").write_bytes(damage)
        view = read_heartbeat(tmp_path)
        assert view.snapshot is not None and view.snapshot["step"] == 5
        assert "heartbeat.json is damaged" in view.problem


def test_a_folder_without_anything_is_dead_and_does_not_raise(tmp_path: Path) -> None:
    view = read_heartbeat(tmp_path)
    assert (view.snapshot, view.state, view.age_s) == (None, "dead", None)
    assert read_heartbeat(tmp_path / "missing").state == "dead"
    (tmp_path / "heartbeat.json").mkdir()
    (tmp_path / "heartbeat.jsonl").mkdir()
    assert "directory" in read_heartbeat(tmp_path).problem


def test_keepalive_renews_the_age_and_nothing_else_and_ends_at_its_limit(tmp_path: Path) -> None:
    with start_run(tmp_path) as run:
        heartbeat = run.heartbeat(stale_after_s=10)
        beat_at(heartbeat, 5)
        before = read_json(tmp_path / "heartbeat.json")
        with heartbeat.keepalive(every_s=0.02, limit_s=0.1):
            time.sleep(0.5)
            after = read_json(tmp_path / "heartbeat.json")
            time.sleep(0.1)
            assert read_json(tmp_path / "heartbeat.json") == after
        assert after["alive_uptime_s"] > before["alive_uptime_s"]
        assert after["step"] == 5 and after["beat_at"] == before["beat_at"]
        assert len(read_jsonl(tmp_path / "heartbeat.jsonl").records) == 1


def test_a_fault_in_the_keepalive_thread_reaches_the_caller(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "run", run_id="r")
    beat_at(heartbeat, 5)

    def long_operation() -> None:
        with heartbeat.keepalive(every_s=0.01):
            os.rename(tmp_path / "run", tmp_path / "gone")
            time.sleep(0.3)

    with pytest.raises(ModelwrightError, match="does not exist"):
        long_operation()
