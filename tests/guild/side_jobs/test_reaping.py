"""Children of the daemon that ended are reaped in its next round, also where no job of their kind waits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from guild.loop.evaluations import Evaluations
from guild.places import Places
from guild.processes import start_process
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.jobs import NewJob
from guild.side_jobs.starting import SideJobs
from helpers.guild_house import make_house
from modelwright.clock import SYSTEM_CLOCK


def ended(pid: int) -> Path:
    """Wait for the end of a child without reaping it; its folder in /proc, which is there as long as nobody does."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    found = Path(f"/proc/{pid}")
    assert found.exists()
    return found


def test_a_runner_that_ended_is_reaped_although_nothing_is_due(tmp_path: Path) -> None:
    house = make_house(tmp_path / "house")
    side = SideJobs(kinds=("health_check",), retention_every_s=float("inf"))
    with open_guild(house) as db:
        job = jobs.enqueue(db, NewJob("health_check", {}))
        assert side.look(db, house, SYSTEM_CLOCK) == ["health_check"]
        runner = side._known["health_check"].runner
        assert runner is not None
        zombie = ended(runner.identity.pid)
        assert jobs.get(db, job.id).state == "completed"
        assert side.look(db, house, SYSTEM_CLOCK) == []
        assert not zombie.exists() and side._known["health_check"].runner is None


def test_an_evaluator_that_failed_is_told_of_although_nothing_waits(tmp_path: Path) -> None:
    house: Places = make_house(tmp_path / "house")
    child = start_process([sys.executable, "-c", "raise SystemExit(7)"], house.logs / "eval_runner.log")
    evaluations = Evaluations(process=child)
    zombie = ended(child.identity.pid)
    with open_guild(house) as db:
        assert evaluations.look(db, house, SYSTEM_CLOCK) is False
        told = db.rows("SELECT message FROM events WHERE type = 'daemon.evaluator_ended'")
    assert not zombie.exists() and evaluations.process is None
    assert len(told) == 1 and "ended with 7" in told[0]["message"]
