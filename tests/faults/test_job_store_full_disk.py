"""Faults 3 and 4 for the job store: a full disk at any write and a sync that fails are named, nothing acknowledged is lost, nothing that
was refused counts as saved, and work goes on when there is space again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guild.places import Places
from guild.records import backups, jobs
from guild.records.database import open_guild
from modelwright.database import Database
from modelwright.errors import DiskFullError
from modelwright.identity import current_identity

from .harness import environment, need_strace

WORKER = """
import sys
from pathlib import Path
from guild.places import Places
from guild.records import backups, jobs
from guild.records.database import open_guild
from modelwright.errors import DiskFullError, ModelwrightError
from modelwright.identity import current_identity
me, places = current_identity(), Places(Path(sys.argv[1]))
try:
    with open_guild(places) as db:
        jobs.recover(db)
        waiting = len(jobs.list_jobs(db).jobs)
        for number in range(waiting, 12):
            print("queued", jobs.enqueue(db, jobs.NewJob("report", {"name": "x" * 150, "options": {"text": "y" * 2000}})).id, flush=True)
        while (job := jobs.claim(db, me)) is not None:
            jobs.finish(db, job.id, me, {"n": 1})
            print("done", job.id, flush=True)
        backups.make(db, places, keep=1)
        print("backup 1", flush=True)
except ModelwrightError as error:
    print(error, file=sys.stderr)
    sys.exit(9 if isinstance(error, DiskFullError) else 1)
"""


def work(base: Path, inject: str = "") -> tuple[int, set[tuple[str, int]], str]:
    """Exit code, what was acknowledged, and what was said of the fault."""
    calls = inject.split(":", 1)[0]
    traced = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={inject}"] if inject else []
    done = subprocess.run(
        [*traced, sys.executable, "-c", WORKER, str(base)], env=environment(), capture_output=True, text=True, timeout=120
    )
    told = {(line.split()[0], int(line.split()[1])) for line in done.stdout.splitlines()}
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, told, done.stderr


def judge(base: Path, told: set[tuple[str, int]]) -> None:
    if not (base / "guild.db").exists():
        assert not told
        return
    with open_guild(Places(base)) as db:
        assert backups.problems(db) == []
        found = {job.id: job.state for job in jobs.list_jobs(db).jobs}
    assert {number for word, number in told if word == "queued"} <= set(found)
    assert {number for word, number in told if word == "done"} <= {number for number, state in found.items() if state == "completed"}


def each_fault(tmp_path: Path, inject: str, numbers: range) -> list[int]:
    need_strace()
    codes = []
    for number in numbers:
        base = tmp_path / str(number)
        code, told, said = work(base, inject.format(number))
        codes.append(code)
        judge(base, told)
        if code == 9:
            assert "no space left" in said
        again, more, said = work(base)
        assert again == 0, said
        judge(base, told | more)
        with open_guild(Places(base)) as db:
            assert [job.state for job in jobs.list_jobs(db).jobs] == ["completed"] * 12
        if code == 0 and number > 40:
            break  # it passes clean: there is no such call
    return codes


@pytest.mark.needs_strace
def test_a_full_disk_at_some_writes(tmp_path: Path) -> None:
    assert each_fault(tmp_path, "pwrite64:error=ENOSPC:when={}", range(3, 160, 31)).count(9) >= 3


@pytest.mark.needs_strace
def test_a_disk_that_stays_full_from_some_write_on(tmp_path: Path) -> None:
    assert each_fault(tmp_path, "pwrite64:error=ENOSPC:when={}+", range(7, 120, 50)).count(9) >= 2


@pytest.mark.needs_strace
def test_a_sync_that_fails_once(tmp_path: Path) -> None:
    codes = each_fault(tmp_path, "fdatasync:error=EIO:when={}", range(2, 20, 8))
    assert codes.count(1) >= 2


@pytest.mark.slow
@pytest.mark.needs_strace
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("inject", ["pwrite64:error=ENOSPC:when={}", "pwrite64:error=ENOSPC:when={}+", "fdatasync:error=EIO:when={}"])
def test_every_single_call(tmp_path: Path, inject: str) -> None:
    assert each_fault(tmp_path, inject, range(1, 2000))[-1] == 0, "the loop must end by passing clean"


def test_a_really_full_disk_refuses_jobs_and_keeps_those_it_took(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(mount)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no small tmpfs can be mounted here: {made.stderr.strip()[:120]}")
    try:
        ballast, me = mount / "ballast", current_identity()
        taken: list[int] = []
        ballast.write_bytes(bytes(15 * 1024 * 1024))

        def fill(db: Database) -> None:
            for number in range(10_000):
                taken.append(jobs.enqueue(db, jobs.NewJob("report", {"name": "x", "options": {"n": number, "text": "y" * 800}})).id)

        with open_guild(Places(mount)) as db:
            with pytest.raises(DiskFullError, match="no space left"):
                fill(db)
            assert len(taken) > 20
            assert [job.id for job in jobs.list_jobs(db, limit=10**5).jobs] == taken
            with pytest.raises(DiskFullError):
                backups.make(db, Places(mount))
            ballast.unlink()
            while (job := jobs.claim(db, me)) is not None:
                jobs.finish(db, job.id, me)
            assert jobs.counts(db, "report").states["completed"] == len(taken)
            assert backups.problems(db) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)
