"""Fault 2: SIGKILL at every system call of a checkpoint save; the checkpoint is complete and listed, or ignored.

The saver waits for a byte, strace attaches, the byte goes in, and the N-th system call after it is the last. N grows
until a save passes clean.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from modelwright.checkpoints import CheckpointStore

from .harness import environment, need_strace

SAVER = """
import ctypes, sys
from pathlib import Path
from modelwright.checkpoints import CheckpointStore
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1 % 2**64), 0, 0, 0)  # let a sibling trace this process
store = CheckpointStore(sys.argv[1])
name, text = sys.argv[2], sys.argv[3]
def write(folder: Path) -> None:
    (folder / "state.json").write_text(text)
    (folder / "adapters").mkdir()
    (folder / "adapters" / "weights.bin").write_bytes(text.encode() * 1000)
print("ready", flush=True)
sys.stdin.read(1)
store.save(name, write, step=int(text))
print("saved", flush=True)
"""


def traced_save(root: Path, name: str, step: int, *options: str) -> tuple[bool, bool]:
    """Save `name` under strace with these options; (the save was acknowledged, the process was killed)."""
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(root), name, str(step)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert saver.stdin is not None and saver.stdout is not None
    assert saver.stdout.readline() == b"ready\n"
    tracer = subprocess.Popen(["strace", "-f", *options, "-p", str(saver.pid)], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    line = tracer.stderr.readline().decode()
    if "attached" not in line:
        saver.kill()
        saver.communicate()
        tracer.communicate()
        pytest.skip(f"strace cannot attach to a process here: {line.strip()}")
    output, _ = saver.communicate(b"x", timeout=60)
    tracer.communicate(timeout=60)
    return b"saved" in output, saver.returncode == -9


def calls_of_a_save(tmp_path: Path, replace: bool) -> list[tuple[str, int]]:
    """Every system call of a save up to its acknowledgement, as (name, which one of that name), in order."""
    root, log = tmp_path / "clean", tmp_path / "calls.log"
    first_checkpoint(root)
    acknowledged, _ = traced_save(root, "first" if replace else "second", 7, "-o", str(log))
    assert acknowledged
    seen: Counter[str] = Counter()
    calls = []
    for line in log.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match:
            seen[match[1]] += 1
            calls.append((match[1], seen[match[1]]))
        if '"saved' in line:
            break
    return calls


def first_checkpoint(root: Path) -> None:
    CheckpointStore(root).save("first", lambda folder: (folder / "state.json").write_text("0") and None, step=0)


def check(root: Path, name: str, step: int, acknowledged: bool) -> None:
    """Readers first, as nothing was repaired yet; then the next writer cleans up; then the next save must work."""
    for store in (CheckpointStore(root, writer=False), CheckpointStore(root)):
        latest = store.latest()
        assert latest is not None, "a good checkpoint existed before and must still load"
        assert latest.step in (0, step)
        assert json.loads((latest.path / "state.json").read_text()) == latest.step
        assert all(store.verify(found.name) == [] for found in store.list())
        if acknowledged:
            assert latest.step == step
        assert [problem for problem in store.problems(deep=True) if "unfinished save" not in problem] == []
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def kill_at(tmp_path: Path, call: str, number: int, replace: bool) -> bool:
    """One save of a second checkpoint, or over the first; returns whether the kill came before the acknowledgement."""
    root = tmp_path / f"{call} {number}"
    first_checkpoint(root)
    name = "first" if replace else "second"
    inject = ("-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    acknowledged, killed = traced_save(root, name, 7, *inject)
    assert killed or acknowledged
    check(root, name, 7, acknowledged)
    return killed and not acknowledged


@pytest.mark.needs_strace
@pytest.mark.parametrize("replace", [False, True])
def test_a_kill_at_some_system_calls_of_a_save(tmp_path: Path, replace: bool) -> None:
    need_strace()
    changing = [call for call in calls_of_a_save(tmp_path, replace) if re.match(r"write|fsync|rename|mkdir|unlink", call[0])]
    chosen = changing[:: max(1, len(changing) // 5)]
    assert len(chosen) >= 5
    assert all(kill_at(tmp_path, *call, replace) for call in chosen)


@pytest.mark.slow
@pytest.mark.needs_strace
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("replace", [False, True])
def test_a_kill_at_every_system_call_of_a_save(tmp_path: Path, replace: bool) -> None:
    need_strace()
    calls = calls_of_a_save(tmp_path, replace)
    assert len(calls) > 80
    in_time = sum(kill_at(tmp_path, *call, replace) for call in calls)
    assert in_time > 0.9 * len(calls)  # memory management may differ by a call or two between runs
