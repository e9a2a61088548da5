"""The command under the hands of people: pause and resume, SIGTERM, stop, a second writer, gates, breaker and NaN."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import modelwright
from helpers.small_job import CONTRACT, small_job, write_job
from modelwright.control import answers, ask
from modelwright.files import read_json, read_jsonl
from modelwright.heartbeat import read_heartbeat
from modelwright.metrics import read_metrics
from modelwright.record import read_record
from scaler_wizard.cockpit import validate
from scaler_wizard.runner import run_job

MANY_STEPS = {"training": {"steps_per_rung": 400, "save_every": 100}, "evaluation": {"eval_every": 0}}


def environment() -> dict[str, str]:
    source = str(Path(modelwright.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


def command(job: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "scaler_wizard.cli", "--config", str(job), *more]


def start(job: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command(job), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, limit_s: float = 240) -> None:
    """Wait for `condition`; the process must not end before it holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"the run ended early with {process.returncode}: {process.communicate()[1][-2000:]}")
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def steps_done(run: Path) -> int:
    with contextlib.suppress(Exception):
        return int(read_json(run / "heartbeat.json")["step"])
    return 0


@pytest.mark.timeout(600)
def test_pause_second_writer_and_resume(tmp_path: Path) -> None:
    """A run that works refuses a second writer by name; `touch` pauses it with exit 9; `runs resume` takes it to SIGTERM, exit 7."""
    job, run = write_job(tmp_path, **MANY_STEPS), tmp_path / "run"
    process = start(job)
    until(lambda: steps_done(run) >= 3, process)

    second = subprocess.run(command(job, "--resume"), env=environment(), capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert str(process.pid) in second.stderr and "Traceback" not in second.stderr

    (run / "control" / "pause.request").touch()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 9, errors
    assert "runs resume" in output
    record = read_record(run)
    assert (record.status, record.reason, record.exit_code) == ("paused", "request", 9)
    assert read_heartbeat(run).state == "terminal"
    assert read_json(run / "cockpit_payload.json")["status"] == "paused"
    assert answers(run)[-1]["kind"] == "pause" and answers(run)[-1]["outcome"] == "accepted"
    paused_at = int(read_json(run / "heartbeat.json")["step"])

    words = [sys.executable, "-m", "modelwright.cli", "runs", "resume", str(run)]
    resumed = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: steps_done(run) >= paused_at + 2, resumed)
    writer = int(read_json(run / "writer.lock")["pid"])
    os.kill(writer, signal.SIGTERM)
    resumed.communicate(timeout=120)
    until(lambda: read_record(run).status == "stopped")
    record = read_record(run)
    assert (record.exit_code, record.attempt) == (7, 2)
    payload = read_json(run / "cockpit_payload.json")
    assert payload["status"] == "stopped" and validate(payload).ok
    telegram = read_json(run / "telegram.json")
    assert telegram["action"] == "stop" and "SIGTERM" in telegram["reason"]
    steps = [step for step, _ in read_metrics(run / "metrics.jsonl").series("train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert list((run / "checkpoints").glob(f"checkpoint-{steps[-1]}"))


def in_background(job: dict[str, Any]) -> tuple[threading.Thread, list[Any]]:
    """Run a job in a thread of this process (signals stay with the main thread)."""
    results: list[Any] = []

    def work() -> None:
        torch.set_num_threads(1)
        results.append(run_job(job))

    thread = threading.Thread(target=work)
    thread.start()
    return thread, results


@pytest.mark.timeout(600)
def test_stop_request_and_refused_requests(tmp_path: Path) -> None:
    job = small_job(tmp_path, **MANY_STEPS)
    run = tmp_path / "run"
    thread, results = in_background(job)
    until(lambda: steps_done(run) >= 2)
    ask(run, "approve", actor="test")
    ask(run, "rollback", actor="test", body={"target_phase": 0})
    until(lambda: len([a for a in answers(run) if a["outcome"]]) == 2)
    ask(run, "stop", actor="test", body={"reason": "enough seen"})
    thread.join(timeout=120)
    (result,) = results
    assert (result.status, result.exit_code) == ("stopped", 7)
    assert "enough seen" in result.message
    outcomes = {answer["kind"]: answer["outcome"] for answer in answers(run)}
    assert outcomes == {"approve": "refused", "rollback": "refused", "stop": "accepted"}


@pytest.mark.timeout(600)
def test_a_gate_times_out_waits_alive_and_is_approved(tmp_path: Path) -> None:
    """Acceptance 19: a rung beyond the contract opens a gate; unanswered it is `paused` with a live process; an abort then ends it."""
    job = small_job(
        tmp_path,
        contract={**CONTRACT, "scope": {"max_context": 512}},
        gate={"timeout_s": 1.0},
        training={"steps_per_rung": 1},
        evaluation={"eval_every": 0},
    )
    run = tmp_path / "run"
    thread, results = in_background(job)
    until(lambda: (run / "cockpit_payload.json").exists() and read_json(run / "cockpit_payload.json")["status"] == "paused")
    assert thread.is_alive()
    payload = read_json(run / "cockpit_payload.json")
    assert payload["gate"]["open"] and payload["actions"]["approve"]["enabled"] and "1024" in payload["gate"]["question"]
    assert read_heartbeat(run).liveness == "alive"
    ask(run, "approve", actor="owner", body={"reason": "looks fine"})
    until(lambda: "1024" in read_record(run).details.get("approvals", {}))
    until(lambda: [e for e in read_jsonl(run / "events.jsonl").records if e["event"] == "gate/timed_out"][1:])
    ask(run, "abort", actor="owner")
    thread.join(timeout=120)
    (result,) = results
    assert (result.status, result.exit_code, result.achieved_context) == ("aborted", 7, 1024)
    assert read_record(run).details["approvals"]["1024"] == {"actor": "owner", "reason": "looks fine"}


@pytest.mark.timeout(300)
def test_a_base_below_the_floor_is_refused(tmp_path: Path) -> None:
    result = run_job(small_job(tmp_path, safety={"circuit_breaker": {"min_accuracy": 0.5}}))
    assert (result.status, result.exit_code) == ("stopped", 6)
    assert "below the floor" in result.message and "--min-accuracy" in result.message
    telegram = read_json(tmp_path / "run" / "telegram.json")
    assert telegram["action"] == "stop" and telegram["triggers"] == ["accuracy_floor"]
    assert not list((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))


@pytest.mark.timeout(300)
def test_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    """Acceptance 15 in training: nothing of the broken rung is promoted."""
    result = run_job(small_job(tmp_path, training={"learning_rate": 1e30, "steps_per_rung": 6, "save_every": 1}))
    assert (result.status, result.exit_code) == ("stopped", 6)
    telegram = read_json(tmp_path / "run" / "telegram.json")
    assert telegram["triggers"] == ["nonfinite"] and telegram["action"] == "stop"
    assert read_json(tmp_path / "run" / "run_metadata.json")["rungs"] == []
    assert read_json(tmp_path / "run" / "cockpit_payload.json")["status"] == "stopped"


@pytest.mark.timeout(300)
def test_rising_perplexity_trips_the_breaker_and_history_ends_with_the_rung(tmp_path: Path) -> None:
    """Acceptance 16: the window fills inside one rung only. A learning rate that is far too large raises perplexity."""
    job = small_job(
        tmp_path,
        safety={"circuit_breaker": {"min_accuracy": 0.0, "window_steps": 5, "max_perplexity_delta": 0.001}},
        training={"steps_per_rung": 12, "learning_rate": 0.5, "save_every": 4},
        evaluation={"eval_every": 1},
    )
    result = run_job(job)
    assert (result.status, result.exit_code) == ("stopped", 6)
    telegram = read_json(tmp_path / "run" / "telegram.json")
    assert telegram["action"] == "stop" and telegram["triggers"] == ["perplexity_slope"]
    assert json.dumps(telegram["step"]) == f'"{int(telegram["step"])}"'
    stopped = [e for e in read_jsonl(tmp_path / "run" / "events.jsonl").records if e["event"] == "run/stopped"]
    assert stopped and stopped[0]["by"] == "breaker"
