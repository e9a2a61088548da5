"""Whether a run can begin, or go on, in an output directory: judged by looking, before anything is written."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from modelwright.errors import Fault, RunLockedError

RUN_MARKS = ("run.json", "run_metadata.json")


def holds_run(path: Path) -> bool:
    """Whether a directory holds a run (a dry run leaves none of these marks)."""
    return any((path / mark).exists() for mark in RUN_MARKS)


def live_writer(path: Path) -> RunLockedError | None:
    """The error that names the process which is writing in `path` now, or None when nobody is (or nobody who can be seen from here).

    The lock itself decides when the run begins; this only spares a user the wait until then.
    """
    from modelwright.lock import describe_holder, read_holder, writer_liveness

    holder = read_holder(path)
    if not holder or writer_liveness(path, holder) != "alive":
        return None
    run = shlex.quote(str(path))
    return RunLockedError(
        f"{path} is being written by {describe_holder(holder)}; a run has one writer. Wait for it, "
        f"follow it with `modelwright runs watch {run}`, pause it with `modelwright runs pause {run}`, or choose another --output-dir.",
        holder,
    )


def output_dir_fault(path: Path, *, resume: bool) -> Fault | None:
    """What is wrong with an output directory, or None: a file in the way, no write permission, a run already there (or none to resume).

    Ask `live_writer` first: what to do about a run that is being written is another thing.
    """
    if resume:
        if holds_run(path):
            return None
        return Fault("--resume", f"no run in {path}", "a directory that holds a run", "leave --resume out to start one")
    if holds_run(path):
        todo = "add --resume to go on with it, or choose another directory"
        return Fault("--output-dir", f"{path}, which already holds a run", "a directory without a run", todo)
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return Fault("--output-dir", f"{path}: {existing} is a file", "a directory", "choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        todo = "change its mode or choose another"
        return Fault("--output-dir", f"{path}: {existing} is not writable", "a writable directory", todo)
    return None
