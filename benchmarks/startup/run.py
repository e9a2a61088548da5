"""Start-up time of the command line: `modelwright --help`, and `modelwright runs list` over 2,000 run directories.

    python -m benchmarks.startup.run [--runs 2000] [--repeat 15] [--out benchmarks/startup/result.json]

Whole processes, from start to exit, alternated with an empty Python process in every round, so that what the
interpreter itself costs on this machine is beside every figure. Targets: help under 150 ms, a warm list under 250 ms
(p50). Bytecode goes to a folder of the benchmark's own and is there from the second process on, as in any installation
that has run once. Wall time suffers from other load; the processor time of each process (user + system) is recorded too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.common import table, write_result

from modelwright.rundir import RunDir

HERE = Path(__file__).resolve().parent
TARGETS_MS = {"modelwright --help": 150, "modelwright runs list, warm": 250}


def make_runs(root: Path, count: int) -> None:
    """Run directories as `RunDir` writes them: one real one, and copies under their own ids and dates."""
    with RunDir.create(root / "run-0000", kind="benchmark", command=["benchmark"], config={"seed": 1}) as run, run.phase("train"):
        run.heartbeat().beat(status="running", phase="train", step=90, total=100, throughput=1000.0)
    record = json.loads((root / "run-0000" / "run.json").read_text())
    beat = (root / "run-0000" / "heartbeat.json").read_text()
    for number in range(1, count):
        folder = root / f"run-{number:04d}"
        folder.mkdir()
        record["run_id"] = str(uuid4())
        record["created_at"] = f"2026-01-{1 + number % 28:02d}T00:00:00Z"
        (folder / "run.json").write_text(json.dumps(record, indent=2))
        (folder / "heartbeat.json").write_text(beat)


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """(wall, processor) milliseconds of one process that must end with 0."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with code {child.returncode}")
    return wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def summary(name: str, samples: list[tuple[float, float]]) -> dict[str, Any]:
    """p50, minimum and maximum of the wall time, p50 of the processor time, in ms."""
    walls, cpu = [sample[0] for sample in samples], [sample[1] for sample in samples]
    return {
        "process": name,
        "p50_ms": round(statistics.median(walls), 1),
        "min_ms": round(min(walls), 1),
        "max_ms": round(max(walls), 1),
        "cpu_p50_ms": round(statistics.median(cpu), 1),
        "target_ms": TARGETS_MS.get(name, ""),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "runs")
        make_runs(root, arguments.runs)
        environment = {**os.environ, "MODELWRIGHT_HOME": str(Path(scratch, "home")), "PYTHONPYCACHEPREFIX": str(Path(scratch, "bytecode"))}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        listing = [sys.executable, "-m", "modelwright.cli", "runs", "list", "--runs", str(root)]
        cold = [measure(listing, environment)]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "modelwright --help": [sys.executable, "-m", "modelwright.cli", "--help"],
            "modelwright runs list, warm": listing,
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.repeat):
            for name, command in commands.items():
                samples[name].append(measure(command, environment))
    results = [*(summary(name, found) for name, found in samples.items()), summary("modelwright runs list, first", cold)]
    write_result(
        arguments.out,
        benchmark="startup",
        settings={"run_directories": arguments.runs, "repetitions": arguments.repeat},
        results=results,
    )
    print(table(results, ["process", "p50_ms", "min_ms", "max_ms", "cpu_p50_ms", "target_ms"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
