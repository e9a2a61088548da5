"""Who holds a job, and when it is taken back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from guild.records import jobs, leases
from guild.records.events import log_of
from guild.records.leases import LEASE_S, BootTime, boot_time
from helpers.guild_jobs import ME, died, elsewhere, living, queued, report, store, stranger, words
from modelwright.clock import ManualClock
from modelwright.identity import ProcessIdentity, boot_id

START = BootTime(boot_id(), 1000.0)


def later(seconds: float, boot: str = START.boot) -> BootTime:
    return BootTime(boot, START.seconds + seconds)


@pytest.mark.parametrize("owner", [died(), stranger()], ids=["dead", "its pid belongs to a stranger now"])
def test_what_a_dead_process_holds_is_taken_back_at_once(tmp_path: Path, owner: ProcessIdentity) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, owner, at=START)
        jobs.heartbeat(db, 1, owner, position=300, at=START)
        found = jobs.recover(db, at=START)
        assert [(one.why, one.holder, one.state) for one in found] == [("dead", owner, "queued")]
        job = jobs.get(db, 1)
        assert (job.state, job.position, job.attempts, job.owner) == ("queued", 300, 0, None)
        assert words(log_of(db, 1).events) == ["enqueued", "claimed", "crashed"]
        assert jobs.recover(db, at=START) == []


def test_a_paused_job_of_a_dead_process_is_taken_back_too(tmp_path: Path) -> None:
    owner = died()
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, owner)
        jobs.pause(db, 1, owner, position=10)
        assert [one.job.position for one in jobs.recover(db)] == [10]


def test_a_living_process_keeps_its_job_however_long_it_is_silent(tmp_path: Path) -> None:
    process, owner = living()
    try:
        with store(tmp_path) as db:
            queued(db, "a")
            jobs.claim(db, owner, at=START)
            assert jobs.stalled(db, at=later(LEASE_S - 1)) == []
            assert jobs.recover(db, at=later(LEASE_S * 1000)) == []
            assert [job.id for job in jobs.stalled(db, at=later(LEASE_S))] == [1]
            jobs.heartbeat(db, 1, owner, at=later(LEASE_S))
            assert jobs.stalled(db, at=later(LEASE_S * 2 - 1)) == []
    finally:
        process.communicate()
    with store(tmp_path) as db:
        assert len(jobs.recover(db, at=START)) == 1


def test_an_unreachable_process_keeps_its_job_until_its_lease_is_over(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, elsewhere(), at=START)
        assert jobs.recover(db, at=later(LEASE_S - 0.1)) == []
        jobs.heartbeat(db, 1, elsewhere(), at=later(60))
        assert jobs.recover(db, at=later(LEASE_S + 59)) == []
        assert [one.why for one in jobs.recover(db, at=later(LEASE_S + 60))] == ["unreachable"]
        with pytest.raises(jobs.NotHeldError):
            jobs.finish(db, 1, elsewhere())  # it comes back too late


def test_after_a_reboot_a_lease_of_an_unreachable_process_starts_again(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, elsewhere(), at=START)
        rebooted = BootTime("the-next-boot", 5.0)
        assert jobs.recover(db, at=rebooted) == []
        assert jobs.recover(db, at=replace(rebooted, seconds=5 + LEASE_S - 1)) == []
        assert len(jobs.recover(db, at=replace(rebooted, seconds=5 + LEASE_S))) == 1


def test_after_a_reboot_of_this_machine_its_own_processes_are_dead(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, replace(ME, boot_id="the-boot-before"), at=BootTime("the-boot-before", 10**6))
        assert [one.why for one in jobs.recover(db)] == ["dead"]


@pytest.mark.parametrize("jump", [86400.0, -86400.0, 86400.0 * 400])
def test_a_jump_of_the_wall_clock_changes_no_lease(tmp_path: Path, jump: float) -> None:
    clock = ManualClock()
    with store(tmp_path) as db:
        queued(db, "a", "b")
        jobs.claim(db, elsewhere(), at=START, clock=clock)
        clock.jump(jump)
        assert jobs.recover(db, at=later(1), clock=clock) == []
        jobs.heartbeat(db, 1, elsewhere(), at=later(2), clock=clock)
        assert jobs.recover(db, at=later(LEASE_S + 1), clock=clock) == []
        assert len(jobs.recover(db, at=later(LEASE_S + 2), clock=clock)) == 1


def test_a_job_whose_workers_die_again_and_again_is_parked(tmp_path: Path) -> None:
    owner = died()
    with store(tmp_path) as db:
        queued(db, "poison", "good")
        for crash in range(1, 6):
            job = jobs.claim(db, owner)
            assert job is not None and job.name == "poison.jsonl"
            found = jobs.recover(db)[0]
            assert (found.job.crashes, found.state) == (crash, "failed" if crash == 5 else "queued")
        assert found.job.error is not None and "5 times in a row without getting further; parked" in found.job.error
        after = jobs.claim(db, ME)
        assert after is not None and after.name == "good.jsonl"
        assert jobs.retry(db, 1).crashes == 0


def test_a_long_job_that_gets_further_between_crashes_is_never_parked(tmp_path: Path) -> None:
    owner = died()
    with store(tmp_path) as db:
        queued(db, "long")
        for life in range(1, 30):
            jobs.claim(db, owner)
            if life % 3 == 0:
                jobs.heartbeat(db, 1, owner, position=life)
            assert jobs.recover(db)[0].state == "queued"
        jobs.claim(db, ME)
        assert jobs.finish(db, 1, ME).state == "completed"


def test_only_the_kinds_asked_for_are_recovered(tmp_path: Path) -> None:
    owner = died()
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.enqueue(db, report())
        jobs.claim(db, owner)
        jobs.claim(db, owner)
        assert [one.job.kind for one in jobs.recover(db, kinds=["report"])] == ["report"]
        assert jobs.get(db, 1).state == "running"


def test_a_job_that_runs_beyond_its_timeout_is_overdue_and_a_pause_does_not_count(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        jobs.enqueue(db, jobs.NewJob("health_check"))
        jobs.claim(db, ME, at=START)
        assert jobs.overdue(db, at=later(59)) == []
        assert [job.id for job in jobs.overdue(db, at=later(61))] == [1]
        jobs.pause(db, 1, ME)
        assert jobs.overdue(db, at=later(500)) == []
        jobs.resume(db, 1, ME, at=later(500))
        assert jobs.overdue(db, at=later(559)) == []
        assert len(jobs.overdue(db, at=later(561))) == 1


def test_the_boot_clock_is_that_of_this_boot_and_runs(tmp_path: Path) -> None:
    one, two = boot_time(), boot_time()
    assert one.boot == two.boot == boot_id()
    assert 0 < one.seconds <= two.seconds
    assert os.getpid() == ME.pid
    assert leases.expired(leases.leased(_job(tmp_path), one, 0.0), two) is True


def _job(tmp_path: Path) -> jobs.Job:
    with store(tmp_path) as db:
        return queued(db, "a")[0]
