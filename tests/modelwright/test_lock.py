"""One live writer, named to whoever comes second, freed by its death."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelwright import lock as lock_module
from modelwright.errors import RunLockedError, StorageError
from modelwright.identity import current_identity
from modelwright.lock import LOCK_NAME, WriterLock, file_system, read_holder, writer_liveness

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from modelwright.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]), command=["train", "--steps", "10"])
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
else:
    print("held", flush=True)
time.sleep(60)
"""


def start_holder(folder: Path, *more: str) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), *more], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_second_writer_is_refused_by_name_of_the_holder_until_the_holder_dies(tmp_path: Path) -> None:
    process, _ = start_holder(tmp_path)
    try:
        with pytest.raises(RunLockedError) as caught:
            WriterLock(tmp_path, patience_s=0.05)
        text = str(caught.value)
        assert f"process {process.pid} on host {current_identity().host} since 2" in text
        assert "`train --steps 10`" in text
        assert caught.value.holder["pid"] == process.pid
        assert writer_liveness(tmp_path) == "alive"
    finally:
        kill(process)
    assert writer_liveness(tmp_path) == "dead"
    taken = WriterLock(tmp_path)
    assert read_holder(tmp_path)["pid"] == os.getpid()
    taken.release()


def test_a_process_started_by_the_holder_does_not_inherit_the_lock(tmp_path: Path) -> None:
    process, child_pid = start_holder(tmp_path, "with-child")
    kill(process)
    try:
        WriterLock(tmp_path).release()
    finally:
        os.kill(int(child_pid), 9)


def test_a_forked_child_neither_keeps_nor_frees_the_lock(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    child = os.fork()
    if child == 0:
        held = lock.held
        lock.release()
        time.sleep(0.5)
        os._exit(1 if held else 0)
    with pytest.raises(RunLockedError):
        WriterLock(tmp_path, patience_s=0.05)
    lock.release()
    WriterLock(tmp_path).release()  # although the child still runs
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_released_lock_counts_as_nobody_writing(tmp_path: Path) -> None:
    assert writer_liveness(tmp_path) == "dead"
    lock = WriterLock(tmp_path)
    assert writer_liveness(tmp_path) == "alive"
    lock.release()
    lock.release()
    assert writer_liveness(tmp_path) == "dead"
    assert read_holder(tmp_path)["released"] is True


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}'])
def test_an_unreadable_holder_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    """The kernel knows whether the lock is held, whatever the file says."""
    process, _ = start_holder(tmp_path)
    try:
        (tmp_path / LOCK_NAME).write_bytes(content)
        assert writer_liveness(tmp_path) == "alive"
        with pytest.raises(RunLockedError):
            WriterLock(tmp_path, patience_s=0.05)
    finally:
        kill(process)
    assert writer_liveness(tmp_path) == "dead"
    WriterLock(tmp_path).release()


def test_a_holder_on_another_host_is_unreachable(tmp_path: Path) -> None:
    elsewhere = {**current_identity().as_dict(), "host": "far", "boot_id": "other", "since": "2026-01-01T00:00:00Z"}
    (tmp_path / LOCK_NAME).write_text(json.dumps(elsewhere))
    assert writer_liveness(tmp_path) == "unreachable"


def test_on_a_shared_file_system_a_holder_elsewhere_blocks_until_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {**current_identity().as_dict(), "host": "far", "boot_id": "other", "since": "2026-01-01T00:00:00Z"}
    (tmp_path / LOCK_NAME).write_text(json.dumps(elsewhere))
    monkeypatch.setattr(lock_module, "file_system", lambda path: "nfs4")
    with pytest.raises(RunLockedError, match=r"on host far.*cannot be checked"):
        WriterLock(tmp_path)
    WriterLock(tmp_path, take_over=True).release()
    (tmp_path / LOCK_NAME).write_text(json.dumps(elsewhere))
    monkeypatch.setattr(lock_module, "file_system", lambda path: "ext4")
    WriterLock(tmp_path).release()  # one kernel mounts it: the granted lock is proof enough


def test_another_container_on_this_kernel_is_asked_through_the_lock(tmp_path: Path) -> None:
    process, _ = start_holder(tmp_path)
    try:
        path = tmp_path / LOCK_NAME
        path.write_text(json.dumps({**json.loads(path.read_text()), "namespace": "pid:[1]", "host": "container"}))
        assert writer_liveness(tmp_path) == "alive"
    finally:
        kill(process)
    assert writer_liveness(tmp_path) == "dead"


def test_a_deleted_lock_file_is_noticed_by_its_holder(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path, command=["first"])
    lock.check()
    (tmp_path / LOCK_NAME).unlink()
    with pytest.raises(RunLockedError, match="is gone"):
        lock.check()
    other = WriterLock(tmp_path, command=["second"])
    with pytest.raises(RunLockedError, match=r"was replaced.*`second`"):
        lock.check()
    lock.release()
    other.check()
    other.release()


def test_a_lock_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with pytest.raises(StorageError, match="not a directory"):
        WriterLock(tmp_path / "plain")
    (tmp_path / "run" / LOCK_NAME).mkdir(parents=True)
    with pytest.raises(StorageError, match="a directory stands"):
        WriterLock(tmp_path / "run")


def test_the_file_system_of_a_path_is_known() -> None:
    assert file_system(Path("/proc/self")) == "proc"
