"""Fault 10: workers killed between claim, start, finish and acknowledgement leave each job at exactly one end; what was acknowledged
stays; a job that kills its workers is parked. Fault 13: a migration killed at any write leaves the old format or the new one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import apsw
import pytest

from guild.places import Places
from guild.records import jobs
from guild.records.backups import problems
from guild.records.database import open_guild
from guild.records.events import log_of
from guild.records.jobs import NewJob
from guild.records.states import HELD, TERMINAL
from helpers.guild_jobs import died
from modelwright.database import Database
from modelwright.identity import current_identity

from .harness import environment, need_strace

CHILD = Path(__file__).with_name("job_child.py")
ENDS = ("queue.completed", "queue.given_up", "queue.parked", "queue.cancelled", "queue.rejected")


def kill_workers(base: Path, lives: int, job_count: int, seed: int) -> None:
    with open_guild(Places(base)) as db:
        jobs.enqueue_many(
            db, [NewJob("report", {"name": "poison" if number == 7 else "good"}, ordinal=number) for number in range(job_count)]
        )
    command = [sys.executable, str(CHILD), str(base), str(lives), str(seed)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"lives {lives}\n")
    acknowledged = Counter(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("done"))
    assert set(acknowledged.values()) <= {1}, "a job was done twice"
    with open_guild(Places(base)) as db:
        assert {job for job in acknowledged if jobs.get(db, job).state != "completed"} == set()
        finish_the_rest(db)
        everything = jobs.list_jobs(db, limit=job_count * 2).jobs
        assert len(everything) == job_count
        for job in everything:
            log = log_of(db, job.id).events
            kinds = Counter(event.type for event in log)
            assert job.state in TERMINAL
            assert sum(kinds[end] for end in ENDS) == 1 and log[-1].type in ENDS, (job, kinds)
            assert kinds["queue.claimed"] == sum(
                kinds[f"queue.{word}"] for word in ("completed", "given_up", "parked", "crashed", "failed")
            )
            assert kinds["queue.failed"] + kinds["queue.given_up"] == job.attempts <= job.max_attempts
            assert job.crashes <= job.max_crashes
        poison = everything[7]
        assert poison.state == "failed" and poison.crashes == poison.max_crashes, poison
        assert problems(db) == []


def finish_the_rest(db: Database) -> None:
    me = current_identity()
    jobs.recover(db)
    assert jobs.list_jobs(db, states=HELD).jobs == ()
    while (job := jobs.claim(db, me)) is not None:
        if job.payload["name"] == "poison":  # the last of its victims
            jobs.transfer(db, job.id, me, died())
            jobs.recover(db)
        else:
            jobs.finish(db, job.id, me)


def test_a_hundred_and_fifty_kills_of_workers(tmp_path: Path) -> None:
    kill_workers(tmp_path / "gilde mit leerzeichen", lives=150, job_count=120, seed=int.from_bytes(os.urandom(3)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_kills_of_workers(tmp_path: Path) -> None:
    kill_workers(tmp_path / "guild", lives=2000, job_count=2000, seed=20261123)


ENQUEUER = """
import sys
from pathlib import Path
from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
with open_guild(Places(Path(sys.argv[1]))) as db:
    number = int(sys.argv[2])
    while True:
        many = jobs.enqueue_many(db, [jobs.NewJob("train_file", {"file": f"f{number}-{part}.jsonl"}) for part in range(number % 3 + 1)])
        for job in many:
            print(job.name, flush=True)
        number += 1
"""


def test_what_was_enqueued_and_acknowledged_survives_kills(tmp_path: Path) -> None:
    told: list[str] = []
    for life in range(6):
        process = subprocess.Popen([sys.executable, "-c", ENQUEUER, str(tmp_path), str(life * 10_000)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told += [process.stdout.readline().strip() for _ in range(5 + life * 7)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().split("\n")[:-1]
        process.communicate()
    with open_guild(Places(tmp_path)) as db:
        names = [job.name for job in jobs.list_jobs(db, limit=10**6).jobs]
        assert set(told) <= set(names)
        assert len(names) == len(set(names)) <= len(told) + 3 * 6
        whole = Counter(str(name).split("-")[0] for name in names)
        assert all(count == int(batch[1:]) % 3 + 1 for batch, count in whole.items()), "a batch came half"


# --- migrations

MIGRATOR = """
import sys
from pathlib import Path
from modelwright.database import Database
FIRST = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL); CREATE TABLE more (x);"
LATER = ("ALTER TABLE notes ADD COLUMN stars INTEGER DEFAULT 0;", "CREATE TABLE tags (x); INSERT INTO tags SELECT text FROM notes;")
path, formats = Path(sys.argv[1]), int(sys.argv[2])
with Database(path, (FIRST, *LATER)[:formats], application_id=7) as db:
    if formats == 1:
        with db.transaction() as connection:
            connection.executemany("INSERT INTO notes (text) VALUES (?)", [(str(number) * 300,) for number in range(100)])
    print(db.row("SELECT count(*) AS n, user_version AS v FROM notes, pragma_user_version"))
"""


def migrate(path: Path, formats: int, inject: str = "") -> subprocess.CompletedProcess[str]:
    calls = inject.split(":", 1)[0]
    traced = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={inject}"] if inject else []
    return subprocess.run(
        [*traced, sys.executable, "-c", MIGRATOR, str(path), str(formats)], env=environment(), capture_output=True, text=True
    )


def killed_migrations(tmp_path: Path, call: str, numbers: range) -> int:
    need_strace()
    kills, old = 0, tmp_path / call / "old.db"
    assert migrate(old, 1).returncode == 0
    for number in numbers:
        path = tmp_path / call / str(number) / "notes.db"
        path.parent.mkdir()
        shutil.copy(old, path)
        done = migrate(path, 3, f"{call}:signal=KILL:when={number}")
        kills += done.returncode in (-9, 137)
        connection = apsw.Connection(str(path))
        assert connection.execute("PRAGMA user_version").fetchall()[0][0] in (1, 3), "between two formats"
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        again = migrate(path, 3)
        assert again.returncode == 0 and again.stdout == "{'n': 100, 'v': 3}\n", again.stderr
        if done.returncode == 0:
            break
    return kills


@pytest.mark.needs_strace
def test_a_migration_killed_at_some_writes(tmp_path: Path) -> None:
    assert killed_migrations(tmp_path, "pwrite64", range(1, 100, 24)) >= 2
    assert killed_migrations(tmp_path, "fdatasync", range(1, 8, 3)) >= 1


@pytest.mark.slow
@pytest.mark.needs_strace
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate"])
def test_a_migration_killed_at_every_call(tmp_path: Path, call: str) -> None:
    assert killed_migrations(tmp_path, call, range(1, 1000)) >= 1
