"""A small run-directory writer for the fault tests: python writer_child.py RUN LAST_STEP [CHECKPOINT_EVERY].

Creates the run or resumes it from its latest checkpoint, then computes a chain of numbers in which each step depends
on the step before, logging every step. Whatever the run directory accepted is acknowledged on standard output with
`writev`, so that faults injected into `write` do not touch the acknowledgements. Exits like a command: 0, or the exit
code of the error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from modelwright.errors import ModelwrightError
from modelwright.record import RECORD_NAME
from modelwright.rundir import RunDir


def following(value: int) -> int:
    """The chain: the next step's value."""
    return (value * 1103515245 + 12345) % 2**31


def acknowledge(*words: object) -> None:
    os.writev(1, [(" ".join(map(str, words)) + "\n").encode()])


def work(run: RunDir, last_step: int, every: int) -> None:
    store, metrics, heartbeat, control = run.checkpoints(), run.metrics(), run.heartbeat(), run.control()
    latest = store.latest()
    step, value = 0, 1
    if latest is not None:
        state = json.loads((latest.path / "state.json").read_text())
        step, value = state["step"], state["value"]
    if run.attempt > 1:
        metrics.resumed(step)
    acknowledge("ready", run.attempt, step)
    run.start_phase("chain")
    while step < last_step:
        step, value = step + 1, following(value)
        metrics.log("chain", value, step)
        acknowledge("metric", run.attempt, step)
        heartbeat.beat(status="running", phase="chain", step=step, total=last_step)
        for request in control.poll():
            control.ack(request, "seen", step=step)
        if step % every == 0:

            def write(folder: Path, step: int = step, value: int = value) -> None:
                (folder / "state.json").write_text(json.dumps({"step": step, "value": value}))

            store.save("newest" if step % 2 else f"step-{step}", write, step=step)
            acknowledge("saved", run.attempt, step)
            store.prune(keep=2)
    run.end_phase("completed", 0)


def main() -> int:
    path, last_step = Path(sys.argv[1]), int(sys.argv[2])
    every = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    try:
        exists = (path / RECORD_NAME).exists()
        opened = RunDir.open_writer(path) if exists else RunDir.create(path, kind="fault", command=sys.argv)
        with opened as run:
            work(run, last_step, every)
    except ModelwrightError as error:
        os.writev(2, [f"{type(error).__name__}: {error}\n".encode()])
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
