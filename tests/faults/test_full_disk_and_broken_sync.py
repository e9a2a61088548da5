"""Faults 3 and 4: every write of a run meets a full disk once, every sync fails once.

The run pauses with the reason "disk" (or fails, for a broken sync), what was acknowledged stays, and the next life
ends as if nothing had happened.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from modelwright.record import read_record

from .harness import Accepted, check_finished, check_nothing_acknowledged_is_lost, need_strace, run_child

LAST_STEP, EVERY = 6, 2
MOST_CALLS = 400


def one_fault(folder: Path, inject: str) -> int:
    """Run into the fault, judge, resume without it, judge again; returns the exit code met with the fault."""
    run, accepted = folder / "run", Accepted()
    done = run_child(run, LAST_STEP, accepted, every=EVERY, inject=inject)
    message = done.stderr.decode()
    assert "Traceback" not in message, message
    assert done.returncode in (0, 1, 9), message
    check_nothing_acknowledged_is_lost(run, accepted, torn_allowed=0)
    if done.returncode == 9:
        assert "no space left" in message
        if "when=" in inject and not inject.endswith("+"):  # one refusal only: the pause itself could be recorded
            record = read_record(run)
            assert (record.status, record.reason, record.exit_code) == ("paused", "disk", 9)
    again = run_child(run, LAST_STEP, accepted, every=EVERY)
    assert again.returncode == 0, again.stderr.decode()
    check_finished(run, LAST_STEP, accepted)
    return done.returncode


def every_call(tmp_path: Path, inject: str, numbers: range) -> dict[int, int]:
    """Exit code by number of the call that failed, until a run does not reach that number."""
    need_strace()
    codes: dict[int, int] = {}
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        codes[number] = one_fault(folder, inject.format(number))
        if codes[number] == 0 and number > 30:
            break
    return codes


@pytest.mark.needs_strace
def test_a_full_disk_at_some_writes(tmp_path: Path) -> None:
    codes = every_call(tmp_path, "write:error=ENOSPC:when={}", range(4, 34, 9))
    assert 9 in codes.values()


@pytest.mark.needs_strace
def test_a_disk_that_stays_full_from_some_write_on(tmp_path: Path) -> None:
    codes = every_call(tmp_path, "write:error=ENOSPC:when={}+", range(9, 30, 10))
    assert 9 in codes.values()


@pytest.mark.needs_strace
def test_a_sync_that_fails_once(tmp_path: Path) -> None:
    codes = every_call(tmp_path, "fsync:error=EIO:when={}", range(2, 22, 8))
    assert set(codes.values()) == {1}


@pytest.mark.needs_strace
def test_a_sync_of_appended_lines_that_fails_once(tmp_path: Path) -> None:
    need_strace()
    assert one_fault(tmp_path, "fdatasync:error=EIO:when=1") == 1


@pytest.mark.slow
@pytest.mark.needs_strace
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("inject", "code"),
    [("write:error=ENOSPC:when={}", 9), ("write:error=ENOSPC:when={}+", 9), ("fsync:error=EIO:when={}", 1)],
)
def test_every_single_call(tmp_path: Path, inject: str, code: int) -> None:
    codes = every_call(tmp_path, inject, range(1, MOST_CALLS))
    assert list(codes.values())[-1] == 0, "the loop must end by passing clean"
    assert list(codes.values()).count(code) > len(codes) / 2


def test_a_really_full_disk_cuts_writes_short_and_the_run_goes_on_when_there_is_space(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no small tmpfs can be mounted here: {made.stderr.strip()[:120]}")
    try:
        run, accepted = mount / "run", Accepted()
        ballast = mount / "ballast"
        ballast.write_bytes(bytes(600 * 1024))
        done = run_child(run, 10**7, accepted, every=10**6)
        assert done.returncode == 9, done.stderr.decode()
        record = read_record(run)
        assert (record.status, record.reason) == ("paused", "disk")
        check_nothing_acknowledged_is_lost(run, accepted, torn_allowed=0)
        assert len(accepted.metrics) > 100
        os.unlink(ballast)
        again = run_child(run, 50, accepted)
        assert again.returncode == 0, again.stderr.decode()
        check_finished(run, 50, accepted)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
