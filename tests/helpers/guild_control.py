"""A real process that does of a daemon what the controller sees: pid file, state document, signals."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from guild.control.daemon import daemon_liveness
from guild.places import Places

_CODE = """
import sys, time
from guild.control.forward import forward_signals
from guild.control.state import write_state
from guild.places import Places
from modelwright.files import write_json
from modelwright.identity import current_identity

places, listens, paused = Places.of(sys.argv[1]), sys.argv[2] == "True", False
write_state(places, "training", current_file="a.jsonl")
write_json(places.daemon_pid, current_identity().as_dict())
while True:
    found = forward_signals(places, None, paused=paused) if listens else None
    if found is not None:
        paused = found.paused
        for signal in found.held:
            if signal.kind == "stop":
                write_state(places, "idle", reason=signal.reason)
                sys.exit(0)
            write_state(places, "paused" if paused else "training", current_file="a.jsonl", reason=signal.reason)
    time.sleep(0.02)
"""


@contextmanager
def small_daemon(places: Places, *, listens: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """Alive, in state `training`, until the block ends or a stop is given. listens: False leaves every signal lying."""
    child = subprocess.Popen([sys.executable, "-c", _CODE, str(places.base), str(listens)])
    try:
        deadline = time.monotonic() + 60
        while daemon_liveness(places) != "alive":
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield child
    finally:
        child.kill()
        child.wait()
