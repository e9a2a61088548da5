"""Processes are known by pid, start time and boot; liveness has three values."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from modelwright.identity import ProcessIdentity, current_identity, liveness, process_start


def test_this_process_is_alive_and_survives_a_round_trip() -> None:
    me = current_identity()
    assert me.pid == os.getpid() and me.start_time
    assert liveness(me) == "alive"
    assert ProcessIdentity.from_dict({**me.as_dict(), "command": "extra keys are fine"}) == me


@pytest.mark.parametrize("data", [{}, {"pid": "x"}, None, {"pid": 1, "boot_id": "b"}])
def test_nonsense_is_no_identity(data: object) -> None:
    with pytest.raises(ValueError):
        ProcessIdentity.from_dict(data)  # type: ignore[arg-type]


def test_a_killed_process_is_dead_even_as_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = replace(current_identity(), pid=child.pid, start_time=process_start(child.pid))
    assert liveness(identity) == "alive"
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet collected
    assert liveness(identity) == "dead"
    child.wait()
    assert liveness(identity) == "dead"


def test_a_reused_pid_is_a_stranger() -> None:
    """Same pid, other start time: the recorded process is dead, whoever bears its number now."""
    me = current_identity()
    assert liveness(replace(me, start_time=(me.start_time or 0) - 1)) == "dead"


def test_what_cannot_be_seen_is_unreachable_not_dead() -> None:
    me = current_identity()
    assert liveness(replace(me, host="elsewhere", boot_id="other")) == "unreachable"
    assert liveness(replace(me, namespace="pid:[1]")) == "unreachable"
    assert liveness(replace(me, start_time=None)) == "unreachable"
    assert liveness(replace(me, boot_id="an earlier boot")) == "dead"
    assert liveness(replace(me, host="renamed since")) == "alive"
