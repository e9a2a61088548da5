"""A process that holds a file as the trainer does and stands still, and what a test must know of it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors.torch import load_file, save_file

from guild.loop.trainer_process import find_trainer
from guild.places import Places
from guild.processes import OwnProcess
from guild.records import events
from modelwright.database import Database
from modelwright.files import read_json, write_json
from modelwright.tiny import tiny_model_path

TRAINER = """
import signal, sys, time
from pathlib import Path
from guild.control.daemon import TRAINER_LOCK
from guild.places import Places
from guild.queue.marks import mark_returned, take
from guild.records import jobs
from guild.records.database import open_guild
from modelwright.files import make_folder
from modelwright.identity import current_identity
from modelwright.lock import WriterLock
from modelwright.rundir import RunDir

base, phase, busy, manner = sys.argv[1:]
if manner != "obeys":
    signal.signal(signal.SIGTERM, signal.SIG_IGN if manner == "deaf" else signal.SIG_DFL)
places, me = Places.of(base), current_identity()
lock = WriterLock(make_folder(places.pids / TRAINER_LOCK), command=sys.argv)
with open_guild(places) as db:
    taken = take(db, places, me)
    path = places.base / "runs" / str(taken.job.id)
    run = RunDir.open_writer(path) if (path / "run.json").exists() else RunDir.create(path, kind="toy", command=sys.argv)
    jobs.heartbeat(db, taken.job.id, me, run=str(path.relative_to(places.base)))
    if phase == "paused":
        jobs.pause(db, taken.job.id, me)
    if phase != "silent":
        run.heartbeat().beat(status="running", phase=phase, step=3, total=9, **({"busy": busy} if busy else {}), force=True)
    print("ready", flush=True)
    while True:
        if manner == "obeys" and run.control().poll():
            mark_returned(db, places, taken.job.id, me, position=5)
            sys.exit(0)
        time.sleep(0.02)
"""


@contextmanager
def standing_trainer(places: Places, phase: str = "training", *, busy: str = "", manner: str = "plain") -> Iterator[OwnProcess]:
    """A process with the trainer's lock, a file and a heartbeat at step 3, which does nothing more.

    phase: what it says it is at; `silent` says nothing. busy: what it says it does beside steps. manner: `plain` ends at SIGTERM, `deaf`
    does not, `obeys` returns its file when the run is asked to stop.
    """
    words = [sys.executable, "-c", TRAINER, str(places.base), phase, busy, manner]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        found = find_trainer(places)
        assert found is not None and found.identity.pid == child.pid
        yield OwnProcess(found.identity, child)
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def watchdog_settings(places: Places, **limits: object) -> None:
    """Write the watchdog's settings into `config.json`."""
    known = read_json(places.config_file) if places.config_file.exists() else {"schema_version": 1, "model_name": "tiny"}
    write_json(places.config_file, {**known, "watchdog": limits})


def told(db: Database, type: str) -> list[events.GuildEvent]:
    """The events of a type, oldest first."""
    return [event for event in events.read_after(db).events if event.type == type]


@contextmanager
def hanging_file(path: Path) -> Iterator[Path]:
    """A path whose every write waits for ever, as on a mount that is gone: a pipe that is full and that nobody reads. Unlink it to heal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        size = fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 4096)
        with suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"\n" * min(64, size))
        yield path
    finally:
        os.close(descriptor)


def broken_model(folder: Path) -> Path:
    """The tiny model with one weight that is not a number."""
    shutil.copytree(tiny_model_path("modelwright/tiny-0.4m"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
