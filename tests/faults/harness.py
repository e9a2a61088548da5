"""Starting the writer with and without faults, and judging what it left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

import modelwright
from modelwright.checkpoints import CheckpointStore
from modelwright.files import read_jsonl
from modelwright.metrics import read_metrics
from modelwright.record import RunRecord, read_record

from .writer_child import following

CHILD = Path(__file__).with_name("writer_child.py")


def environment() -> dict[str, str]:
    """Children find the package under test and write no byte code, so that their `write` calls are ours alone."""
    source = str(Path(modelwright.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


@cache
def strace_refusal() -> str:
    """Why strace cannot be used here; "" when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=getppid:error=EIO", "true"],
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()[:200]}"


def need_strace() -> None:
    if strace_refusal():
        pytest.skip(strace_refusal())


@dataclass
class Accepted:
    """What the writer acknowledged over all its lives: (attempt, step) of metrics, and steps of checkpoints."""

    metrics: set[tuple[int, int]] = field(default_factory=set)
    saved: list[int] = field(default_factory=list)
    lives: int = 0

    def hear(self, output: bytes) -> None:
        """Take in the complete lines of one life's output."""
        for line in output.decode().split("\n")[:-1]:
            word, attempt, step = line.split()
            if word == "metric":
                self.metrics.add((int(attempt), int(step)))
            elif word == "saved":
                self.saved.append(int(step))
            elif word == "ready":
                self.lives += 1


def command(run: Path, last_step: int, every: int = 5, inject: str = "") -> list[str]:
    child = [sys.executable, str(CHILD), str(run), str(last_step), str(every)]
    if not inject:
        return child
    calls = inject.split(":", 1)[0]
    return ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={inject}", *child]


def run_child(run: Path, last_step: int, accepted: Accepted, *, every: int = 5, inject: str = "") -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command(run, last_step, every, inject), env=environment(), capture_output=True, timeout=120)
    accepted.hear(done.stdout)
    return done


def check_nothing_acknowledged_is_lost(run: Path, accepted: Accepted, torn_allowed: int) -> None:
    """What must hold at any time after a fault, before anybody repairs anything."""
    path = run / "metrics.jsonl"
    if path.exists():
        everything = read_metrics(path, newest_attempt=False)
        present = {(event.get("attempt", 1), event["step"]) for event in everything.events if "step" in event}
        assert accepted.metrics <= present
        assert len(everything.damage) + everything.torn_tail <= torn_allowed, everything.damage
        assert all("torn by a writer that died" in sentence for sentence in everything.damage)
    else:
        assert not accepted.metrics
    latest = CheckpointStore(run / "checkpoints", writer=False).latest()
    if accepted.saved:
        assert latest is not None and latest.step is not None and latest.step >= accepted.saved[-1]
    if (run / "heartbeat.jsonl").exists():
        assert len(read_jsonl(run / "heartbeat.jsonl").damage) <= torn_allowed


def check_finished(run: Path, last_step: int, accepted: Accepted) -> RunRecord:
    """What holds after the last life ran to its end: the uninterrupted curve, every attempt on record, no litter."""
    value, curve = 1, []
    for step in range(1, last_step + 1):
        value = following(value)
        curve.append((step, value))
    assert read_metrics(run / "metrics.jsonl").series("chain") == curve
    record = read_record(run)
    assert record.status == "completed" and record.attempt >= accepted.lives
    assert all(entry.status != "running" for entry in record.entries)
    assert len({(entry.attempt, entry.phase) for entry in record.entries}) == len(record.entries)
    store = CheckpointStore(run / "checkpoints", writer=False)
    assert store.problems(deep=True) == []
    litter = [path for path in run.rglob(".*") if path.name.endswith((".tmp", ".new")) or ".staging" in path.name]
    assert litter == []
    return record
