"""A base directory as `guild init` makes it, on the processor, with the tiny hero; and a real process that stands in for the daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guild.init import initialise
from guild.places import Places

ON_CPU = {"trainer": "cpu", "inference": "cpu"}

_TOY_DAEMON = """
import sys, time
from guild.control.daemon import TRAINER_LOCK
from guild.campaigns.activation import status_file
from guild.control.signals import done, take
from guild.control.state import write_state
from guild.places import Places
from modelwright.files import write_json
from modelwright.files import make_folder
from modelwright.identity import current_identity
from modelwright.lock import WriterLock

places, obeys, trainer = Places.of(sys.argv[1]), sys.argv[2] == "obeys", sys.argv[3] == "trainer"
if trainer:
    lock = WriterLock(make_folder(places.pids / TRAINER_LOCK))
else:
    write_json(places.daemon_pid, current_identity().as_dict())
state, step = "training", 0
write_state(places, "training", current_file="a.jsonl")
while True:
    for signal in take(places) if obeys else []:
        state = {"pause": "paused", "resume": "training"}.get(signal.kind, state)
        write_state(places, state, reason=signal.reason)
        done(signal)
    if state == "training":
        step += 1
        write_json(status_file(places, "training_status"), {"schema_version": 1, "status": "training", "current_step": step})
    time.sleep(0.02)
"""


def new_house(base: Path) -> Places:
    """An initialised base directory."""
    places = Places.of(base)
    initialise(places, devices=ON_CPU)
    return places


def model_checkpoint(folder: Path, step: int, **config: object) -> Path:
    """A folder with a checkpoint's name and a `config.json` of the tiny model, without weights."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    content = {"architectures": ["LlamaForCausalLM"], "vocab_size": 1024, **config}
    (path / "config.json").write_text(json.dumps(content))
    return path


def eventually(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until `holds`; fails by naming `what`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)


@contextmanager
def toy_daemon(places: Places, *, obeys: bool = True, trainer: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A real process that trains nothing but does what the daemon does around it: pid file, state, signals, status of the active
    campaign. trainer: it holds the trainer's lock instead of the pid file, as one that outlived its daemon."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [str(places.base), "obeys" if obeys else "deaf", "trainer" if trainer else "daemon"]
    child = subprocess.Popen([sys.executable, "-c", _TOY_DAEMON, *words], env=environment)
    try:
        eventually(lambda: places.state.is_file() or child.poll() is not None, "the state of the toy daemon")
        assert child.poll() is None
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
