"""Metric events: form, cost to read, and the curve after kill and resume."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.clock import ManualClock
from modelwright.errors import MissingFileError, StorageError
from modelwright.metrics import MetricWriter, newest_events, read_metrics, rotated_parts


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_has_the_form_of_the_data_contract(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    clock = ManualClock()
    with MetricWriter(path, clock=clock) as writer:
        writer.log("train/loss", 2.5, 3, rung=1024, split="train")
        clock.advance(1.5)
        writer.log("eval/accuracy", None)
    first, second = lines(path)
    assert first == {
        "timestamp": "2026-01-01T00:00:00Z",
        "metric": "train/loss",
        "value": 2.5,
        "step": 3,
        "rung": 1024,
        "split": "train",
    }
    assert second == {"timestamp": "2026-01-01T00:00:01Z", "metric": "eval/accuracy", "value": None}


def test_the_system_clock_gives_the_same_form(tmp_path: Path) -> None:
    with MetricWriter(tmp_path / "m.jsonl") as writer:
        writer.log("a", 1, 0)
    (event,) = lines(tmp_path / "m.jsonl")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["timestamp"])
    assert event["step"] == 0 and event["value"] == 1


@pytest.mark.parametrize(("value", "word"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_nonfinite_values_are_valid_json_and_say_which(tmp_path: Path, value: float, word: str) -> None:
    with MetricWriter(tmp_path / "m.jsonl") as writer:
        writer.log("a", value, 1)
    (event,) = lines(tmp_path / "m.jsonl")
    assert event["value"] is None and event["nonfinite"] == word


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    with MetricWriter(tmp_path / "m.jsonl") as writer:
        writer.log("a", numpy.float32(0.5), numpy.int64(7), length=numpy.int32(512))
        writer.log("a", numpy.float64("nan"), 8)
        writer.log("flag", True, 9)
    first, second, third = lines(tmp_path / "m.jsonl")
    assert (first["value"], first["step"], first["length"]) == (0.5, 7, 512)
    assert second["nonfinite"] == "nan" and third["value"] == 1.0


@pytest.mark.parametrize("key", ["timestamp", "metric", "value", "nonfinite", "attempt"])
def test_an_extra_cannot_override_a_core_field(tmp_path: Path, key: str) -> None:
    with MetricWriter(tmp_path / "m.jsonl") as writer:
        with pytest.raises(ValueError, match=f"found the extra field {key}"):
            writer.log("a", 1.0, 1, **{key: "x"})
        writer.log("a", 1.0, step=1)
    assert len(lines(tmp_path / "m.jsonl")) == 1


def test_a_buffer_writes_at_its_size_at_flush_and_at_close(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    writer = MetricWriter(path, flush_every=3)
    for step in range(4):
        writer.log("a", step, step)
    assert len(lines(path)) == 3
    writer.flush()
    assert len(lines(path)) == 4
    writer.log("a", 4, 4)
    writer.close()
    writer.close()
    assert [event["step"] for event in lines(path)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="flush_every"):
        MetricWriter(path, flush_every=0)


def test_a_buffer_is_written_at_exit_once_also_beside_a_forked_child(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    code = (
        "import os, sys; from pathlib import Path; from modelwright.metrics import MetricWriter\n"
        "w = MetricWriter(Path(sys.argv[1]), flush_every=100); w.log('a', 1.0, 1)\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert len(lines(path)) == 1


def test_rotation_keeps_every_event_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(path, rotate_bytes=500) as writer:
        for step in range(40):
            writer.log("a", step, step)
    numbers = [number for number, _ in rotated_parts(path)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 3
    with MetricWriter(path, rotate_bytes=500, attempt=2) as writer:
        for step in range(38, 60):
            writer.log("a", step, step)
    read = read_metrics(path)
    assert [step for step, _ in read.series("a")] == list(range(60))
    assert read.superseded == 2


def test_reading_names_what_is_wrong_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with pytest.raises(MissingFileError):
        read_metrics(path)
    with MetricWriter(path) as writer:
        writer.log("a", 1.0, 1)
    with path.open("ab") as file:
        file.write(b'{"metric": 3}\n{"metric":"a","value":"high"}\n{"metric":"a","value":1,"step":"x"}\nnonsense\n{"met')
    read = read_metrics(path)
    assert read.series("a") == [(1, 1.0)]
    assert read.torn_tail and len(read.damage) == 2
    assert "line 5: found 'nonsense'" in read.damage[0]
    assert "3 bad lines, the first is line 2: found an object without a metric name" in read.damage[1]
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        read_metrics(tmp_path / "folder")


# --- the curve after kill and resume


def without_origin(events: list[dict]) -> list[dict]:
    return [{key: value for key, value in event.items() if key not in ("timestamp", "attempt")} for event in events]


def log_steps(path: Path, first: int, last: int, *, attempt: int, resumed: int | None = None) -> None:
    """One life logging steps first..last: a loss each step, a probe at two lengths every fourth, a new rung at 11."""
    with MetricWriter(path, attempt=attempt) as writer:
        if resumed is not None:
            writer.resumed(resumed)
        for step in range(first, last + 1):
            rung = 512 if step <= 10 else 1024
            writer.log("train/loss", 1 / step, step, rung=rung)
            if step % 4 == 0:
                for length in (512, 1024):
                    writer.log("probe/passkey", step / 100, step, rung=rung, length=length)


@given(
    kills=st.lists(st.tuples(st.integers(1, 19), st.integers(0, 6)), max_size=4),
    marked=st.booleans(),
    torn=st.integers(0, 30),
)
@settings(deadline=None, max_examples=40)
def test_killed_and_resumed_runs_give_the_uninterrupted_curve(
    tmp_path_factory: pytest.TempPathFactory, kills: list[tuple[int, int]], marked: bool, torn: int
) -> None:
    """Kill after any step, resume some steps back, any number of times: the curve is the straight one."""
    folder = tmp_path_factory.mktemp("curve")
    log_steps(folder / "straight.jsonl", 1, 20, attempt=1)
    path, start = folder / "killed.jsonl", 1
    for attempt, (died_at, back) in enumerate(kills, start=1):
        last = max(start, died_at)
        log_steps(path, start, last, attempt=attempt, resumed=start - 1 if marked and attempt > 1 else None)
        if torn:
            with path.open("ab") as file:
                file.write(b'{"timestamp":"2026-01-01T00:00:00Z","metric"'[:torn])
        start = max(1, last + 1 - back)
    log_steps(path, start, 20, attempt=len(kills) + 1, resumed=start - 1 if marked and kills else None)
    straight, killed = read_metrics(folder / "straight.jsonl"), read_metrics(path)
    assert without_origin(killed.events) == without_origin(straight.events)
    assert len(killed.restarts) == (len(kills) if marked else 0)
    assert killed.superseded == len(read_metrics(path, newest_attempt=False).events) - len(killed.events) - len(killed.restarts)


def event(metric: str, step: int | None, attempt: int = 1, **extra: object) -> dict:
    base: dict = {"metric": metric, "value": 0.0, "step": step, "attempt": attempt, **extra}
    return {key: value for key, value in base.items() if value is not None}


def test_a_newer_attempt_supersedes_its_stream_from_its_first_step_on() -> None:
    old = [event("a", step) for step in (1, 2, 3, 9)]
    new = [event("a", 3, 2)]
    assert newest_events(old + new) == [*old[:2], *new]


def test_streams_do_not_touch_each_other() -> None:
    events = [event("a", 5, 1, rung=512), event("b", 5, 1), event("a", 5, 1, rung=1024), event("a", 1, 2, rung=1024)]
    assert newest_events(events) == [events[0], events[1], events[3]]


def test_a_restart_mark_also_removes_what_is_never_logged_again() -> None:
    events = [event("hw/ram", 9), event("a", 6), {"metric": "run/resumed", "value": 6, "attempt": 2}, event("a", 7, 2)]
    assert newest_events(events) == [events[1], events[3]]


def test_a_rollback_within_one_attempt_removes_the_abandoned_steps() -> None:
    events = [event("a", 1), event("a", 2), event("a", 3), {"metric": "run/resumed", "value": 1}, event("a", 2)]
    assert newest_events(events) == [events[0], events[4]]


def test_a_scoped_restart_mark_concerns_its_phase_only() -> None:
    events = [
        event("a", 50, phase="P1"),
        event("a", 5, phase="P2"),
        {"metric": "run/resumed", "value": 2, "phase": "P2"},
    ]
    assert newest_events(events) == [events[0]]


def test_events_without_a_step_give_way_to_a_newer_attempts() -> None:
    events = [event("score", None), event("score", None), event("other", None), event("score", None, 2)]
    assert newest_events(events) == [events[2], events[3]]


def test_repeated_steps_of_one_attempt_all_stay() -> None:
    events = [event("a", 1), event("a", 1)]
    assert newest_events(events) == events


def test_nothing_acknowledged_is_lost_to_sigkill_right_behind_the_call(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    code = (
        "import os, sys; from pathlib import Path; from modelwright.metrics import MetricWriter\n"
        "w = MetricWriter(Path(sys.argv[1]))\n"
        "for step in range(2000): w.log('a', step, step)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert len(read_metrics(path).events) == 2000
