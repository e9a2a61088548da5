"""Fault 1: SIGKILL a training run at random moments.

What it acknowledged stays, and the resumed run is the uninterrupted one, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import modelwright
from helpers.small_job import LENGTHS, small_job, write_job
from modelwright.checkpoints import CheckpointStore
from modelwright.files import read_json, read_jsonl, sha256_file
from modelwright.metrics import read_metrics
from modelwright.record import read_record

CHILD = Path(__file__).with_name("training_child.py")
CURVES = ("train/loss", "train/grad_norm", "train/learning_rate", "train/tokens", "eval/perplexity", "eval/bpb", "context/scale")
BITS = ("adapters/adapter_model.safetensors", "model/config.json", "tokenizer/tokenizer.json")


@dataclass
class Trainer:
    """The warm parent of the runs."""

    process: subprocess.Popen[str]

    def start(self, job: Path) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{job}\n")
        self.process.stdin.flush()
        return int(self._line("pid"))

    def wait(self) -> int:
        """Exit code of the run under way; minus the signal's number when it was killed."""
        return os.waitstatus_to_exitcode(int(self._line("ended")))

    def run(self, job: Path) -> int:
        self.start(job)
        return self.wait()

    def _line(self, word: str) -> str:
        assert self.process.stdout is not None
        while True:  # a run's own output shares the pipe
            line = self.process.stdout.readline()
            assert line, "the warm process is gone"
            found, _, rest = line.strip().partition(" ")
            if found == word:
                return rest


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    source = str(Path(modelwright.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["MODELWRIGHT_HOME"] = str(tmp_path_factory.mktemp("home"))
    process = subprocess.Popen([sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    child = Trainer(process)
    child._line("ready")
    yield child
    assert process.stdin is not None
    process.stdin.close()
    process.wait(timeout=60)


@dataclass(frozen=True)
class Reference:
    """The uninterrupted run: its folder, its curves, and how long it took in seconds."""

    root: Path
    run: Path
    seconds: float


@pytest.fixture(scope="module")
def reference(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    root = tmp_path_factory.mktemp("kills")
    job = write_job(root, "reference")
    begun = time.monotonic()
    assert trainer.run(job) == 0
    return Reference(root, root / "reference", time.monotonic() - begun)


def curves(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every curve of a run by (rung, length, split), replays undone; the same step twice would show."""
    found = {}
    for metric in CURVES:
        events = read_metrics(run / "metrics.jsonl").matching(metric)
        found[metric] = [(e.get("step"), e.get("rung"), e.get("length"), e.get("split"), e["value"]) for e in events]
    return found


def check_whole(run: Path) -> None:
    """What holds at any moment, also right after a kill."""
    if (run / "metrics.jsonl").exists():
        assert read_metrics(run / "metrics.jsonl").damage == []
    for name in ("events.jsonl", "logs/flight_log.jsonl", "heartbeat.jsonl"):
        if (run / name).exists():
            assert read_jsonl(run / name).damage == []
    for name in ("run.json", "run_metadata.json", "telegram.json", "cockpit_payload.json", "hardware.json"):
        if (run / name).exists():
            assert isinstance(read_json(run / name), dict)
    if (run / "run_metadata.json").exists():
        store = CheckpointStore(run / "checkpoints", writer=False)
        for path in read_json(run / "run_metadata.json")["checkpoints"].values():
            assert store.verify(Path(path).name) == []


def check_same(run: Path, reference: Path) -> None:
    """The finished run equals the uninterrupted one: curves, final weights, probes, promotions."""
    record = read_record(run)
    assert (record.status, record.exit_code) == ("completed", 0)
    mine, theirs = curves(run), curves(reference)
    for metric in CURVES:
        assert mine[metric] == theirs[metric], metric
    for name in BITS:
        assert sha256_file(run / name) == sha256_file(reference / name), name
    rungs = [read_json(folder / "run_metadata.json")["rungs"] for folder in (run, reference)]
    assert rungs[0] == rungs[1]
    assert [rung["length"] for rung in rungs[0] if rung["promoted"]] == list(LENGTHS)


def kill_and_finish(trainer: Trainer, reference: Reference, kills: int, seed: int) -> int:
    """Kill runs at random moments until `kills` were dealt, each run resumed until it ends; returns the number of runs finished."""
    rng = random.Random(seed)
    dealt = finished = 0
    while dealt < kills:
        name = f"killed-{seed}-{finished}"
        job, run = write_job(reference.root, name), reference.root / name
        for _ in range(40):
            pid = trainer.start(job)
            if dealt < kills:
                time.sleep(rng.uniform(0.02, 0.6) * reference.seconds)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = trainer.wait()
            check_whole(run)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            dealt += 1
        check_same(run, reference.run)
        finished += 1
    return finished


@pytest.mark.timeout(900)
def test_ten_kills_lose_nothing(trainer: Trainer, reference: Reference) -> None:
    assert kill_and_finish(trainer, reference, kills=10, seed=1) >= 1


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_two_hundred_kills_lose_nothing(trainer: Trainer, reference: Reference) -> None:
    assert kill_and_finish(trainer, reference, kills=200, seed=2) >= 1


@pytest.mark.timeout(600)
def test_damaged_newest_checkpoint_falls_back_to_the_one_before(trainer: Trainer, reference: Reference) -> None:
    """Fault 11 on a checkpoint: one flipped byte is found, named, and the run goes on from the older one to the same end."""
    job = write_job(reference.root, "flipped")
    run = reference.root / "flipped"
    pid = trainer.start(job)
    while not (run / "checkpoints" / "checkpoint-4").exists():
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    trainer.wait()
    newest = max((run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    victim = newest / "optimizer.pt"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    assert trainer.run(job) == 0
    if read_record(run).attempt == 2 and newest.name == "checkpoint-4" and not (run / "checkpoints" / "rung_512").exists():
        damaged = [e for e in read_jsonl(run / "events.jsonl").records if e["event"] == "checkpoint/damaged"]
        assert damaged and damaged[0]["name"] == newest.name
    check_same(run, reference.run)


def full_disk(folder: Path, size_kib: int) -> str:
    """Mount a small tmpfs at `folder`; the reason when that is not allowed, else ""."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


@pytest.mark.timeout(600)
def test_a_full_disk_pauses_and_space_lets_it_go_on(trainer: Trainer, reference: Reference, tmp_path: Path) -> None:
    """Fault 3 with a real full file system: paused with the reason disk and exit 9, resumed to the same end."""
    disk = tmp_path / "disk"
    refused = full_disk(disk, 8192)
    if refused:
        pytest.skip(f"a tmpfs cannot be mounted here: {refused}")
    try:
        filler = disk / "filler"
        filler.write_bytes(bytes((8192 - 1100) * 1024))
        job = tmp_path / "job.json"
        job.write_text(json.dumps({**small_job(reference.root), "output_dir": str(disk / "run")}), encoding="utf-8")
        assert trainer.run(job) == 9
        record = read_record(disk / "run")
        assert (record.status, record.reason, record.exit_code) == ("paused", record.reason, 9)
        assert "disk" in record.reason
        check_whole(disk / "run")
        filler.unlink()
        assert trainer.run(job) == 0
        check_same(disk / "run", reference.run)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
