"""A room's command for tests: a real process that keeps the run contract, so that the runner is tried without any model.

It stands in for `cachemedicpp.train` by being found under that module's name first (`PYTHONPATH`), and does what its `--script` says.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.jobs import Job, NewJob

ROOM = """
import argparse, os, signal, sys, time
from pathlib import Path
from modelwright.control import signals_as_requests
from modelwright.errors import ModelwrightError
from modelwright.files import write_text
from modelwright.rundir import RunDir

parser = argparse.ArgumentParser()
parser.add_argument("--run_dir", required=True)
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--every", type=float, default=0.05)
parser.add_argument("--code", type=int, default=0)
parser.add_argument("--deaf", action="store_true")
parser.add_argument("--hard", action="store_true")
given = parser.parse_args()
path = Path(given.run_dir)
path.parent.mkdir(parents=True, exist_ok=True)
if given.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(path.parent / "starts.txt", "a") as file:
    file.write(f"{os.getpid()}\\n")
try:
    run = RunDir.open_writer(path) if (path / "run.json").exists() else RunDir.create(path, kind="toy", command=sys.argv)
except ModelwrightError as error:
    print(error, file=sys.stderr)
    sys.exit(1)
begin = 0
if (path / "step").exists():
    begin = int((path / "step").read_text())
code, status = given.code, "completed" if given.code == 0 else "failed"
with signals_as_requests() as signals:
    for step in range(begin + 1, given.steps + 1):
        run.heartbeat(min_interval_s=0).beat(status="running", phase="train", step=step, total=given.steps)
        run.metrics().log("train/loss", 1.0 / step, step)
        write_text(path / "step", str(step))
        end = time.monotonic() + given.every
        while time.monotonic() < end:
            time.sleep(0.01)
            asked = [] if given.deaf else run.control().poll()
            if asked or (signals and not given.deaf):
                for request in asked:
                    run.control().ack(request, "paused")
                code, status = 3, "paused"
                break
        if code == 3 and status == "paused":
            break
run.finish(status, code, "the toy was asked" if status == "paused" else "")
run.close()
sys.exit(code)
"""


def toy_room(folder: Path) -> dict[str, str]:
    """An environment in which `python -m cachemedicpp.train` is the toy."""
    package = folder / "toy" / "cachemedicpp"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    for name in ("train", "eval"):
        (package / f"{name}.py").write_text(ROOM)
    around = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "toy"), *([around] if around else [])])}


def ask_for_toy(places: Places, *words: str, kind: str = "medic_train", **payload: Any) -> Job:
    """Queue a run of the toy."""
    with open_guild(places) as db:
        return jobs.enqueue(db, NewJob(kind, {"arguments": list(words) or ["--steps", "3"], **payload}))


def runner(places: Places, environment: dict[str, str], kind: str = "medic_train", *words: str) -> subprocess.Popen[bytes]:
    """`python -m guild.side_jobs.runner` as a child, quick in everything."""
    argv = [sys.executable, "-m", "guild.side_jobs.runner", "--base-dir", str(places.base), "--kind", kind]
    argv += ["--poll", "0.05", "--idle-exit", "0.3", *words]
    with open(places.base / "runner.txt", "ab") as log:
        return subprocess.Popen(argv, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def job_now(places: Places, job: int) -> Job:
    with open_guild(places) as db:
        return jobs.get(db, job)


def starts(places: Places) -> list[int]:
    """Pids of every start of the toy, in order."""
    return [int(line) for file in places.base.rglob("starts.txt") for line in file.read_text().split()]
