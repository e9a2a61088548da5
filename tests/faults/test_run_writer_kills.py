"""Fault 1: SIGKILL at random moments loses nothing acknowledged, leaves at most one torn tail each, and lets no step
count twice."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from .harness import Accepted, check_finished, check_nothing_acknowledged_is_lost, command, environment, run_child


def kill_at_random(run: Path, accepted: Accepted, chance: random.Random) -> bool:
    """One life of the writer, ended by SIGKILL somewhere between its first system calls and its hundredth step."""
    process = subprocess.Popen(command(run, 10**9), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    heard = b""
    if chance.random() < 0.8:  # most lives get past the imports
        heard = os.read(process.stdout.fileno(), 65536)
        time.sleep(chance.random() ** 2 * 0.3)
    else:
        time.sleep(chance.random() * 0.6)
    process.kill()
    rest, _ = process.communicate()
    accepted.hear(heard + rest)
    return process.returncode == -9


def kill_and_resume(run: Path, kills: int, seed: int) -> None:
    chance, accepted = random.Random(seed), Accepted()
    for number in range(1, kills + 1):
        assert kill_at_random(run, accepted, chance), "the writer ended by itself"
        check_nothing_acknowledged_is_lost(run, accepted, torn_allowed=number)
    assert accepted.lives >= kills // 2
    last_step = max((step for _, step in accepted.metrics), default=0) + 12
    done = run_child(run, last_step, accepted)
    assert done.returncode == 0, done.stderr.decode()
    record = check_finished(run, last_step, accepted)
    died = [entry for entry in record.entries if entry.status == "died"]
    assert len(died) == len(record.entries) - 1


def test_ten_random_kills(tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "läufe mit leerzeichen" / "run", kills=10, seed=int.from_bytes(os.urandom(4)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_random_kills(tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "run", kills=200, seed=20261122)
