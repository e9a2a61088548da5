"""Ranges of a file scanned one after the other here, or several at once in processes of their own; the findings come in order.

The processes are plain children that speak over pipes: nothing of the caller's program is imported again, as `multiprocessing` would, and
they end with the caller even when it is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, cast

import orjson

from guild.validation.deep.checks import ROW_CHECKS, RowCheck
from guild.validation.merging import from_wire
from guild.validation.scan import RangeFindings, ScanTask, scan
from modelwright.cgroup import read_limits
from modelwright.errors import ModelwrightError

MOST_WORKERS = 8
WORTH_A_WORKER = {"quick": 96 << 20, "deep": 12 << 20}
"""Bytes that one process reads in about the time in which three processes start."""


class ScanFailedError(ModelwrightError):
    """A scanning process could not do its work; the text says why."""


def usable_workers() -> int:
    """Processors that this process may use, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_limits().cpu_quota
    return max(1, min(cores, MOST_WORKERS, int(quota) if quota else cores))


@contextmanager
def scanned(tasks: list[ScanTask], workers: int, checks: Mapping[str, RowCheck] = ROW_CHECKS) -> Iterator[Iterator[RangeFindings]]:
    """The findings of the tasks, in their order, as they come in; what is not fetched is not waited for.

    workers: processes; with one, or one task, everything is done in this process, and only then other checks than `ROW_CHECKS` can be
    made. Raises ScanFailedError, OSError, and in this process whatever a check raises.
    """
    if min(workers, len(tasks)) <= 1:
        yield (scan(task, checks) for task in tasks)
        return
    children: list[_Child] = []
    idle: SimpleQueue[_Child] = SimpleQueue()

    def ask(task: ScanTask) -> RangeFindings:
        child = idle.get()
        try:
            return child.scan(task)
        finally:
            idle.put(child)

    try:
        for _ in range(min(workers, len(tasks))):
            children.append(_Child())
            idle.put(children[-1])
        with ThreadPoolExecutor(len(children), thread_name_prefix="scan") as threads:
            try:
                yield (future.result() for future in [threads.submit(ask, task) for task in tasks])
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                for child in children:
                    child.process.kill()  # it only reads; and a thread that waits for its answer must not wait longer
    finally:
        for child in children:
            child.close()


class _Child:
    """One scanning process."""

    def __init__(self) -> None:
        # found where this process found it, wherever that was
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        command = [sys.executable, "-P", "-m", "guild.validation.worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.requests, self.answers = cast("IO[bytes]", self.process.stdin), cast("IO[bytes]", self.process.stdout)

    def scan(self, task: ScanTask) -> RangeFindings:
        """Have one range scanned. Raises ScanFailedError."""
        try:
            self.requests.write(orjson.dumps(asdict(task)) + b"\n")
            self.requests.flush()
            head = self.answers.readline()
            answer = orjson.loads(head) if head else {}
            blobs = [self._exactly(size) for size in answer.get("blobs", ())]
        except (BrokenPipeError, EOFError, orjson.JSONDecodeError) as error:
            raise self._ended(task) from error
        if not head:
            raise self._ended(task)
        if "failure" in answer:
            raise ScanFailedError(answer["failure"])
        return from_wire(answer, *blobs)

    def close(self) -> None:
        """End the process, which has nothing to lose, and wait for its end."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.requests, self.answers):
            with suppress(OSError):
                pipe.close()

    def _exactly(self, size: int) -> bytes:
        data = self.answers.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def _ended(self, task: ScanTask) -> ScanFailedError:
        code = self.process.wait()
        return ScanFailedError(
            f"{task.path}: found a scanning process that ended early (exit status {code}); allowed: one that answers. "
            "Look for its message above and for a lack of memory, then validate again."
        )
