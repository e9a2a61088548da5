"""The queues that are compared: put many jobs in, take one, say that it is done.

What each promises differs, and `Choice.keeps` says it. Ours waits for the disk when a job is put in and when it is done, not when it is
taken: a take that a power cut forgets leaves a job that waits. The others have one setting for all of it, so each is measured twice: with
every command on disk before it is answered, and as loosely as ours takes. A way's methods run in several processes, each with its own
object on the same folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PAYLOAD = {"name": "drift", "options": {"campaign": "titan", "window": 500}}


class Way(Protocol):
    """One queue, opened in one process."""

    def enqueue_many(self, count: int) -> None:
        """Put `count` jobs in, in the fastest way it offers."""

    def enqueue(self) -> None:
        """Put one job in."""

    def take(self) -> Any:
        """The next job, None when there is none."""

    def done(self, job: Any) -> None:
        """Say that a job is done, and keep its result."""

    def close(self) -> None:
        """Let go."""


class Guild:
    """Ours: states, checksums and a log line for each step."""

    def __init__(self, folder: Path) -> None:
        from guild.places import Places
        from guild.records import jobs
        from guild.records.database import open_guild
        from guild.records.kinds import kind_of
        from modelwright.identity import current_identity

        self.db, self.me, self.jobs = open_guild(Places(folder)), current_identity(), jobs
        kind_of("report").check(PAYLOAD)  # imports what a payload is checked with

    def enqueue_many(self, count: int) -> None:
        self.jobs.enqueue_many(self.db, [self.jobs.NewJob("report", PAYLOAD) for _ in range(count)])

    def enqueue(self) -> None:
        self.jobs.enqueue(self.db, self.jobs.NewJob("report", PAYLOAD))

    def take(self) -> Any:
        return self.jobs.claim(self.db, self.me, kinds=("report",))

    def done(self, job: Any) -> None:
        self.jobs.finish(self.db, job.id, self.me, {"value": 1})

    def close(self) -> None:
        self.db.close()


class Huey:
    """Huey on SQLite. It has no batch, and a job that was taken is gone from the file."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        from huey import SqliteHuey

        self.huey = SqliteHuey("benchmark", filename=str(folder / "huey.db"), fsync=fsync, strict_fifo=True)

        def work(name: str, options: dict[str, Any]) -> int:
            return 1

        self.task = self.huey.task()(work)

    def enqueue_many(self, count: int) -> None:
        for _ in range(count):
            self.enqueue()

    def enqueue(self) -> None:
        self.huey.enqueue(self.task.s(**PAYLOAD))

    def take(self) -> Any:
        return self.huey.dequeue()

    def done(self, job: Any) -> None:
        self.huey.put_result(job.id, {"value": 1})

    def close(self) -> None:
        self.huey.storage.close()


class Rq:
    """RQ on a Redis of its own. Its takes are the move into the list of jobs under way; what its worker writes besides is left out."""

    def __init__(self, folder: Path) -> None:
        from redis import Redis
        from rq import Queue

        socket = folder / "redis.sock"
        until = time.monotonic() + 20
        while not socket.exists():
            if time.monotonic() > until:
                raise RuntimeError(f"redis-server did not open {socket}")
            time.sleep(0.01)
        self.redis = Redis(unix_socket_path=str(socket))
        self.queue = Queue("benchmark", connection=self.redis)

    def enqueue_many(self, count: int) -> None:
        self.queue.enqueue_many([self.queue.prepare_data("benchmarks.guild_queue.ways.nothing", kwargs=PAYLOAD) for _ in range(count)])

    def enqueue(self) -> None:
        self.queue.enqueue("benchmarks.guild_queue.ways.nothing", kwargs=PAYLOAD)

    def take(self) -> Any:
        found = self.queue.dequeue_any([self.queue], None, connection=self.redis)
        return None if found is None else found[0]

    def done(self, job: Any) -> None:
        job.set_status("finished")

    def close(self) -> None:
        self.redis.close()


def nothing(name: str, options: dict[str, Any]) -> int:
    """What an RQ job would call."""
    return 1


@dataclass(frozen=True)
class Choice:
    """One queue with its settings. needs: packages. share: of the jobs that it gets; below 1 where there is no batch and each waits for the
    disk. keeps: what it promises. appendfsync: of the Redis beside it, "" for none."""

    open: Callable[[Path], Way]
    needs: tuple[str, ...]
    keeps: str
    share: float = 1.0
    appendfsync: str = ""


WAYS: dict[str, Choice] = {
    "guild": Choice(
        Guild,
        ("apsw",),
        "put in, done: on disk; taken: outlives any process, a power cut may let the job wait again; a killed worker's job is taken back",
    ),
    "huey": Choice(
        lambda folder: Huey(folder, fsync=True),
        ("huey",),
        "put in, taken, done: on disk (synchronous FULL); a killed worker's job is lost",
        share=0.2,
    ),
    "huey, no fsync": Choice(
        lambda folder: Huey(folder, fsync=False),
        ("huey",),
        "put in, taken, done: with the system (synchronous OFF), a power cut may lose or damage it; a killed worker's job is lost",
        share=0.2,
    ),
    "rq": Choice(
        Rq, ("rq", "redis"), "put in, taken, done: on disk (appendfsync always); a killed worker's job can be found", appendfsync="always"
    ),
    "rq, fsync every second": Choice(
        Rq, ("rq", "redis"), "put in, taken, done: a power cut may lose the last second; a killed worker's job can be found",
        appendfsync="everysec",
    ),
}  # fmt: skip


def missing(name: str) -> str:
    """Why a way cannot be measured here, "" when it can."""
    choice = WAYS[name]
    lacking = [package for package in choice.needs if importlib.util.find_spec(package) is None]
    if choice.appendfsync and shutil.which("redis-server") is None:
        lacking.append("redis-server")
    return f"not measured: {', '.join(lacking)} is not installed" if lacking else ""


def server(name: str, folder: Path) -> subprocess.Popen[bytes] | None:
    """What a way needs to run beside it."""
    fsync = WAYS[name].appendfsync
    if not fsync:
        return None
    command = ["redis-server", "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--dir", str(folder), "--save", ""]
    return subprocess.Popen(
        [*command, "--appendonly", "yes", "--appendfsync", fsync], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )


def open_way(name: str, folder: str | os.PathLike[str]) -> Way:
    """A way in this process."""
    return WAYS[name].open(Path(folder))
