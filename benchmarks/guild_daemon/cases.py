"""The daemons that are watched: what house each keeps, and what is done to it once it has settled."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.guild_common.houses import SCHEMA, make_house, write_rows

from guild.control.signals import give
from guild.control.state import read_state
from guild.places import Places
from guild.queue.add import add_file
from guild.queue.payload import TRAIN_FILE
from guild.records import jobs
from guild.records.database import open_guild
from modelwright.identity import current_identity

PATIENCE_S = 300.0
NAP = "import time\nwhile True:\n    time.sleep(0.5)"
TRAINED_ROWS = 200


@dataclass(frozen=True)
class Sizes:
    """waiting: files that wait. history: files that were trained before."""

    waiting: int
    history: int


@dataclass(frozen=True)
class Case:
    """name: as the result says it. house: makes it, None for a process that is no daemon. settled: what is done once the daemon is idle.
    poll_s: seconds between its rounds, None for its default. judged: whether the target is for it."""

    name: str
    house: Callable[[Path, Sizes], Places] | None
    settled: Callable[[Places, Sizes], None] = lambda places, sizes: None
    poll_s: float | None = None
    judged: bool = False

    def command(self, places: Places | None) -> list[str]:
        """What is started."""
        if places is None:
            return [sys.executable, "-c", NAP]
        poll = [] if self.poll_s is None else ["--poll", str(self.poll_s)]
        return [sys.executable, "-m", "guild.training_daemon", "--base-dir", str(places.base), "--min-free-gb", "0", *poll]


def new_house(base: Path, sizes: Sizes) -> Places:
    """A campaign is active and nothing was ever trained."""
    return make_house(base)


def trained_house(base: Path, sizes: Sizes) -> Places:
    """One file was really trained, its checkpoint evaluated, and the database remembers many more."""
    places = make_house(base, skills=["bin"])
    remember_files(places, sizes.history)
    path = write_rows(places.inbox / "trained.jsonl", TRAINED_ROWS)
    past = time.time() - 60
    os.utime(path, (past, past))  # written a while ago, so that it is taken in at once
    _run(places, "guild.training_daemon", "--until-empty", "--poll", "1", "--min-free-gb", "0")
    _run(places, "guild.eval_runner", "--once")
    with open_guild(places, readonly=True) as db:
        finished = jobs.counts(db).states["completed"]
    if finished != sizes.history + 1:
        raise RuntimeError(f"{finished} files count as trained; expected {sizes.history + 1}")
    return places


def remember_files(places: Places, count: int) -> None:
    """Jobs of files that were trained and swept away since."""
    me = current_identity()
    with open_guild(places) as db, db.transaction():
        for number in range(count):
            payload = {"file": f"former_{number:06d}.jsonl", "size_bytes": 1000}
            job = jobs.enqueue(db, jobs.NewJob(TRAIN_FILE, payload, "normal", ordinal=number))
            jobs.claim(db, me, kinds=(TRAIN_FILE,))
            jobs.finish(db, job.id, me, {"rows": 100})


def pause_and_fill(places: Places, sizes: Sizes) -> None:
    """Pause the daemon, then let many files wait."""
    give(places, "pause", "a benchmark")
    deadline = time.monotonic() + PATIENCE_S
    while read_state(places).status != "paused":
        if time.monotonic() > deadline:
            raise RuntimeError("the daemon was not paused")
        time.sleep(0.1)
    with open_guild(places) as db:
        for number in range(sizes.waiting):
            path = write_rows(places.base / f"waiting_{number:05d}.jsonl", 2, first=2 * number)
            add_file(db, places, path, schema=SCHEMA)
        waiting = jobs.counts(db).states["queued"]
    if waiting != sizes.waiting:
        raise RuntimeError(f"{waiting} files wait; expected {sizes.waiting}")


def _run(places: Places, module: str, *words: str) -> None:
    """A command of the guild to its end. Raises RuntimeError with its last words."""
    argv = [sys.executable, "-m", module, "--base-dir", str(places.base), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=2 * PATIENCE_S)
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")


CASES = {
    "new": Case("new house", new_house, judged=True),
    "trained": Case("trained house", trained_house, judged=True),
    "waiting": Case("files wait, paused", new_house, pause_and_fill, judged=True),
    "often": Case("new house, a round every second", new_house, poll_s=1.0),
    "floor": Case("Python that only sleeps, twice a second", None),
}
