"""A job store to test with: one opened in a folder, jobs to put into it, and identities of processes that live, died or were never here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from guild.places import Places, Priority
from guild.records.database import open_guild
from guild.records.jobs import Job, NewJob, enqueue
from modelwright.database import Database
from modelwright.identity import ProcessIdentity, current_identity, process_start

ME = current_identity()


def store(base: Path) -> Database:
    """The guild's database under `base`."""
    return open_guild(Places(base))


def data_file(name: str, priority: Priority | None = None, *, mtime: int | None = None, **payload: Any) -> NewJob:
    """A training file. mtime: in ns."""
    return NewJob("train_file", {"file": f"{name}.jsonl", **payload}, priority, mtime)


def report(name: str = "drift", **options: Any) -> NewJob:
    """A job of a kind of which several may run at once."""
    return NewJob("report", {"name": name, "options": options})


def queued(db: Database, *names: str) -> list[Job]:
    """Training files in the order of their names' places."""
    return [enqueue(db, data_file(name, mtime=number)) for number, name in enumerate(names, start=1)]


def living() -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
    """Another process, alive until its stdin is closed, and its identity."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return process, replace(ME, pid=process.pid, start_time=process_start(process.pid))


def died() -> ProcessIdentity:
    """A process that is gone."""
    process, identity = living()
    process.kill()
    process.communicate()
    return identity


def stranger() -> ProcessIdentity:
    """A process that is gone and whose pid another, living one has now."""
    return replace(ME, start_time=(ME.start_time or 0) - 1000)


def elsewhere() -> ProcessIdentity:
    """A process of another machine."""
    return ProcessIdentity(4711, 12345, "another-boot", "another-host", "pid:[1]")


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `code`, which may import these helpers, with `arguments` as `sys.argv[1:]`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_all(code: str, argument_lists: Sequence[Sequence[object]]) -> list[str]:
    """What processes say that run `code` at the same time; every one must end well."""
    processes = [python(code, *arguments) for arguments in argument_lists]
    said = []
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        said.append(out)
    return said


def words(events: Sequence[Any]) -> list[str]:
    """The last words of the types of events."""
    return [event.type.split(".", 1)[1] for event in events]
