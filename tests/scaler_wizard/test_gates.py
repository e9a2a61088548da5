"""`--gate prompt` through the command: a person at a real pseudo-terminal, and standard input that is no terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import modelwright
from helpers.small_job import write_job
from modelwright.control import ask
from modelwright.files import read_json, read_jsonl
from modelwright.record import read_record

TWO_RUNGS = {
    "scaling": {"growth": "single_shot", "train_embeddings": "off"},
    "training": {"steps_per_rung": 1},
    "evaluation": {"eval_every": 0, "eval_tokens": 512},
}


def job_file(root: Path, timeout_s: float = 120.0) -> Path:
    """Two rungs of one training step each; the step from 512 to 2048 tokens is asked for."""
    return write_job(root, gate={"mode": "prompt", "timeout_s": timeout_s, "max_growth": 4.0}, **TWO_RUNGS)


class AtTerminal:
    """The command with a pseudo-terminal as its standard input and output, which is its controlling terminal."""

    def __init__(self, job: Path) -> None:
        source = str(Path(modelwright.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
        self.run = job.parent / "run"
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "scaler_wizard.cli", "--config", str(job)], environment)
        os.set_blocking(self.master, False)
        self.shown = b""
        self.code: int | None = None

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def look(self) -> None:
        """Read what was shown and notice the end; a terminal that nobody reads stops its writer."""
        try:
            self.shown += os.read(self.master, 65536)
        except (BlockingIOError, OSError):
            pass
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None

    def until(self, condition: Callable[[], Any], limit_s: float = 400.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            self.look()
            assert self.code is None or condition(), f"the command ended early with {self.code}: {self.shown[-3000:]!r}"
            assert time.monotonic() < deadline, f"it took too long: {self.shown[-3000:]!r}"
            time.sleep(0.05)

    def ended(self) -> int:
        self.until(lambda: self.code is not None)
        assert self.code is not None
        return self.code


@contextmanager
def at_terminal(job: Path) -> Iterator[AtTerminal]:
    person = AtTerminal(job)
    try:
        yield person
    finally:
        if person.code is None:
            os.kill(person.pid, 9)
            os.waitpid(person.pid, 0)
        os.close(person.master)


def events(run: Path, name: str) -> list[dict[str, Any]]:
    path = run / "events.jsonl"
    return [event for event in read_jsonl(path).records if event["event"] == name] if path.exists() else []


@pytest.mark.timeout(600)
def test_yes_at_the_terminal_and_a_line_typed_too_early_answers_nothing(tmp_path: Path) -> None:
    with at_terminal(job_file(tmp_path, timeout_s=1.0)) as person:
        person.until(lambda: (person.run / "events.jsonl").exists())
        person.type("yes\n")  # before any question
        person.until(lambda: b"Type yes or no" in person.shown)
        person.until(lambda: events(person.run, "gate/timed_out"))
        assert not events(person.run, "gate/approved")
        person.until(lambda: b"Nobody answered in time" in person.shown)
        assert read_json(person.run / "cockpit_payload.json")["status"] == "paused"
        person.type("perhaps\n")
        person.until(lambda: b"allowed: yes or no" in person.shown)
        person.type("YES\n")
        assert person.ended() == 0, person.shown[-3000:]
    (approved,) = events(person.run, "gate/approved")
    assert approved["actor"] == "terminal" and "2048" in approved["question"]
    record = read_record(person.run)
    assert (record.status, record.details["approvals"]["2048"]["actor"]) == ("completed", "terminal")


@pytest.mark.timeout(600)
def test_no_at_the_terminal_aborts_and_keeps_the_promoted_rung(tmp_path: Path) -> None:
    with at_terminal(job_file(tmp_path)) as person:
        person.until(lambda: b"Type yes or no" in person.shown)
        person.type("no\n")
        assert person.ended() == 7
    record = read_record(person.run)
    assert (record.status, record.exit_code) == ("aborted", 7)
    assert [rung["length"] for rung in read_json(person.run / "run_metadata.json")["rungs"] if rung["promoted"]] == [512]
    telegram = read_json(person.run / "telegram.json")
    assert telegram["action"] == "stop" and "no at the terminal" in telegram["reason"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stdin", ["pipe", pytest.param("closed", marks=pytest.mark.slow)])
def test_without_a_terminal_the_gate_waits_for_a_request(tmp_path: Path, stdin: str) -> None:
    """A `yes` in a pipe is no consent; the question says how to answer; the timeout pauses; a request still counts."""
    job, run = job_file(tmp_path, timeout_s=0.5), tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path(modelwright.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "scaler_wizard.cli", "--config", str(job)]
    words = words if stdin == "pipe" else ["sh", "-c", 'exec "$@" <&-', "sh", *words]
    process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if stdin == "pipe":
            assert process.stdin is not None
            process.stdin.write("yes\n" * 3)
            process.stdin.flush()
        deadline = time.monotonic() + 400
        while not events(run, "gate/timed_out"):
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not events(run, "gate/approved")
        ask(run, "abort", actor="owner")
        output, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 7, errors
    assert "Answer with: modelwright runs approve" in output and "Type yes or no" not in output
