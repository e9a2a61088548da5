"""`modelwright runs resume` against another writer that is faster, and against recorded commands that cannot be used."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelwright.rundir import RunDir
from modelwright.runs_cli import main

RESUME_ON_CUE = """
import os, pathlib, sys, time
from modelwright.rundir import RunDir
pathlib.Path("ready").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.02)
with RunDir.open_writer("run"):
    pathlib.Path("resumed").touch()
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paused(resume_command: list[str]) -> None:
    with RunDir.create("run", kind="toy", command=["toy"], resume_command=resume_command) as run:
        run.finish("paused", 9, "request")


def resume(*arguments: str) -> subprocess.Popen[str]:
    """`runs resume` in a process of its own, after its command has started and before it opens the run."""
    command = [sys.executable, "-m", "modelwright.cli", "runs", "resume", "run", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not Path("ready").exists():
        assert time.monotonic() < deadline and process.poll() is None, "the resume command did not start"
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("detach", [(), ("--detach",)])
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_whoever_loses_the_race_for_the_run_is_told_by_whom(detach: tuple[str, ...], as_json: tuple[str, ...]) -> None:
    paused([sys.executable, "-c", RESUME_ON_CUE])
    process = resume(*detach, *as_json)
    with RunDir.open_writer("run", command=["the", "winner"]):
        Path("go").touch()
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 13 and not Path("resumed").exists()
    said = json.loads(output)["message"] if as_json else errors.splitlines()[-1]
    for part in (f"process {os.getpid()} on host {socket.gethostname()}", "`the winner`", "became its writer first", "runs watch"):
        assert part in said


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_without_a_rival_the_command_resumes(detach: tuple[str, ...]) -> None:
    paused([sys.executable, "-c", RESUME_ON_CUE])
    process = resume(*detach)
    Path("go").touch()
    process.communicate(timeout=120)
    assert process.returncode == 0 and Path("resumed").exists()


def test_a_command_that_fails_by_itself_keeps_its_code() -> None:
    paused([sys.executable, "-c", RESUME_ON_CUE + "\nraise SystemExit(6)"])
    process = resume()
    Path("go").touch()
    process.communicate(timeout=120)
    assert process.returncode == 6


def test_a_command_without_its_secret_is_not_started(capsys: pytest.CaptureFixture[str]) -> None:
    paused([sys.executable, "-c", "open('started', 'w')", "--hub-token", "hunter2", "https://me:hunter2@host/x"])
    for as_json in ([], ["--json"]):
        assert main(["resume", "run", *as_json]) == 13
        output = capsys.readouterr()
        said = json.loads(output.out)["message"] if as_json else output.err
        for part in ("a secret was taken out of it when it was recorded", "Start it by hand", "environment", "--hub-token '[redacted]'"):
            assert part in said
        assert "hunter2" not in said
    assert not Path("started").exists()


def test_a_log_that_cannot_be_written_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    paused([sys.executable, "-c", ""])
    Path("run/resume.log").mkdir()
    assert main(["resume", "run", "--detach"]) == 1
    assert "resume.log: a directory stands where a file belongs" in capsys.readouterr().err
