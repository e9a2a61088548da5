"""Jobs inside the runner, and the daemon's look that starts runners. (issue decision One job system; specs/guild.md 8.5, item 35)"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from guild.analytics.reports import REPORTS
from guild.places import Places
from guild.records import events, jobs, kinds
from guild.records.database import open_guild
from guild.records.jobs import NewJob
from guild.records.turns import whose_turn
from guild.side_jobs import handlers
from guild.side_jobs.device import visible
from guild.side_jobs.handlers import carried_out_here
from guild.side_jobs.rooms import ROOMS, value_of
from guild.side_jobs.runner import inside, work_on
from guild.side_jobs.starting import SideJobs, leave
from guild.side_jobs.work import Desk, Stopped, Work
from helpers.guild_house import make_house, put, until
from helpers.guild_side_jobs import ask_for_toy, job_now, runner, starts, toy_room
from modelwright.clock import SYSTEM_CLOCK, ManualClock
from modelwright.control import SignalFlag
from modelwright.database import Database
from modelwright.files import read_json
from modelwright.identity import current_identity

NOT_RETENTION = float("inf")


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "a house")


def done_with(side: SideJobs, places: Places) -> None:
    """Let the runners that were started leave, and reap them."""
    assert leave(places, 30) == []
    for known in side._known.values():
        assert known.runner is None or known.runner.wait(30)


def desk_of(db: Database, places: Places) -> Desk:
    return Desk(db, places, current_identity(), SignalFlag(), grace_s=5, poll_s=0.02, lease_every_s=0.05)


def test_retention_and_health_check_are_carried_out(house: Places) -> None:
    with open_guild(house) as db:
        asked = [jobs.enqueue(db, NewJob("retention", {"dry_run": True})), jobs.enqueue(db, NewJob("health_check", {}))]
        desk = desk_of(db, house)
        assert [work_on(desk, kind) for kind in ("retention", "health_check")] == [1, 1]
        retention, health = (jobs.get(db, job.id) for job in asked)
        assert retention.state == "completed" and retention.result and retention.result["dry_run"] is True
        assert health.state == "completed" and health.result is not None
        assert health.result["hosts"]["local"]["status"] in ("degraded", "offline")
        assert read_json(house.status / "health.json") == health.result
        unknown = jobs.enqueue(db, NewJob("health_check", {"hosts": ["nowhere"]}))
        work_on(desk, "health_check")
        assert jobs.get(db, unknown.id).state == "rejected" or "nowhere" in str(jobs.get(db, unknown.id).error)


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        ("health_check", {"hosts": ["nowhere"]}, "nowhere"),
        ("report", {"name": "layer-drift", "campaign": "tiny/campaign-099"}, "campaign-099"),
        ("sparring", {"skill": "bin", "level": 999, "count": 2}, "999"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_rejected_at_once(house: Places, kind: str, payload: dict[str, object], words: str) -> None:
    with open_guild(house) as db:
        asked = jobs.enqueue(db, NewJob(kind, payload))
        assert work_on(desk_of(db, house), kind, at_most=3) == 1
        job = jobs.get(db, asked.id)
        assert (job.state, job.attempts) == ("rejected", 0) and words in str(job.error)


def test_a_work_that_is_cancelled_or_out_of_time_stops_between_two_steps(house: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(work: Work) -> dict[str, object]:
        while True:
            SYSTEM_CLOCK.sleep(0.02)
            if step == "cancel" and not jobs.get(work.db, work.job.id).cancel_asked:
                jobs.cancel(work.db, work.job.id)
            if work.stop():
                raise Stopped(work.stop(), position=7)

    monkeypatch.setattr("guild.side_jobs.runner.handler_of", lambda kind: slow)
    with open_guild(house) as db:
        for step, state in (("cancel", "cancelled"), ("time", "failed")):
            job = jobs.enqueue(db, NewJob("health_check", {}))
            held = jobs.claim(db, current_identity(), kinds=("health_check",))
            assert held is not None and held.id == job.id
            if step == "time":
                short = dict(kinds.KINDS) | {"health_check": kinds.Kind("health_check", "HealthCheck", "cpu", 0.3, max_attempts=1)}
                monkeypatch.setattr("guild.side_jobs.work.KINDS", short)
            inside(desk_of(db, house), held)
            done = jobs.get(db, job.id)
            assert (done.state, done.position) == (state, 7)
        assert "queue.overdue" in [event.type for event in events.log_of(db, job.id).events]


def test_a_deaf_work_ends_with_its_process_and_its_group(house: Places) -> None:
    code = f"""
import subprocess, sys, time
from guild.places import Places
from guild.records import jobs, kinds
from guild.records.database import open_guild
from guild.side_jobs import runner, work
work.KINDS = {{**kinds.KINDS, "health_check": kinds.Kind("health_check", "HealthCheck", "cpu", 0.3, max_attempts=1)}}
def deaf(given):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    print(child.pid, flush=True)
    time.sleep(100)
runner.handler_of = lambda kind: deaf
places = Places.of({str(house.base)!r})
runner.main(["--base-dir", str(places.base), "--kind", "health_check", "--grace", "0.3", "--renew", "0.1"])
"""
    with open_guild(house) as db:
        job = jobs.enqueue(db, NewJob("health_check", {}))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == -9
    failed = job_now(house, job.id)
    assert failed.state == "failed" and "did not stop" in str(failed.error)
    from modelwright.identity import process_start

    until(lambda: process_start(int(said)) is None, "the child of the work to be gone")


def test_a_look_with_nothing_due_starts_nothing_and_one_with_a_job_starts_one_runner(house: Places) -> None:
    side = SideJobs(kinds=("retention", "health_check"), retention_every_s=NOT_RETENTION)
    side._cleaned = SYSTEM_CLOCK.monotonic()
    with open_guild(house) as db:
        assert side.look(db, house, SYSTEM_CLOCK) == []
        jobs.enqueue(db, NewJob("health_check", {}))
        assert side.look(db, house, SYSTEM_CLOCK) == ["health_check"]
        assert side.look(db, house, SYSTEM_CLOCK) == []
        until(lambda: jobs.counts(db, "health_check").states["completed"] == 1, "the check")
        done_with(side, house)


def test_retention_is_asked_for_at_most_every_half_hour(house: Places) -> None:
    side, clock = SideJobs(kinds=("retention",)), ManualClock()
    side.arguments = ("--jobs", "0")  # its runners carry nothing out here
    with open_guild(house) as db:
        for wait, expected in ((0, 1), (600, 1), (1000, 1)):
            clock.advance(wait)
            side.look(db, house, clock)
            assert jobs.counts(db, "retention").states["queued"] == expected
        for job in jobs.list_jobs(db, kinds=("retention",)).jobs:
            jobs.cancel(db, job.id)
        clock.advance(300)
        side.look(db, house, clock)
        assert jobs.counts(db, "retention").states["queued"] == 1
        done_with(side, house)


def test_item_35_jobs_of_the_processor_run_while_the_trainers_device_is_busy(house: Places, tmp_path: Path) -> None:
    """A training file is held; a run that needs the trainer's device waits, and a check of the hosts does not."""
    side = SideJobs(kinds=("medic_train", "health_check"))
    with open_guild(house) as db:
        jobs.enqueue(db, NewJob("train_file", {"file": "a.jsonl"}))
        file = jobs.claim(db, current_identity(), kinds=("train_file",))
        run = ask_for_toy(house, "--steps", "1")
        check = jobs.enqueue(db, NewJob("health_check", {}))
        assert side.look(db, house, SYSTEM_CLOCK) == ["health_check"]
        until(lambda: jobs.get(db, check.id).state == "completed", "the check")
        assert runner(house, toy_room(tmp_path)).wait(60) == 4 and starts(house) == []
        assert file is not None
        jobs.finish(db, file.id, current_identity(), {})
        assert runner(house, toy_room(tmp_path)).wait(60) == 0
        assert jobs.get(db, run.id).state == "completed"
        done_with(side, house)


def test_a_runner_that_fails_is_started_again_later_and_later(house: Places) -> None:
    side, clock = SideJobs(kinds=("health_check",), arguments=("--no-such-flag",)), ManualClock()
    with open_guild(house) as db:
        jobs.enqueue(db, NewJob("health_check", {}))
        for wait in (5.1, 10.1):
            assert side.look(db, house, clock) == ["health_check"]
            failing = side._known["health_check"].runner
            assert failing is not None and failing.wait(30) and failing.exit_code == 2
            clock.advance(wait - 0.2)
            assert side.look(db, house, clock) == []  # its end is noted: the time runs from here
            clock.advance(wait - 0.2)
            assert side.look(db, house, clock) == []
            clock.advance(0.2)
        assert side._known["health_check"].backoff_s >= 10
        assert any(event.type == "daemon.runner_ended" for event in events.read_after(db, 0).events)


def test_every_kind_but_training_has_somebody_who_carries_it_out() -> None:
    elsewhere = {"train_file", *handlers.ELSEWHERE}
    assert set(ROOMS) | set(handlers.HANDLERS) == set(kinds.KINDS) - elsewhere == set(carried_out_here())
    assert all(callable(handlers.handler_of(kind)) for kind in handlers.HANDLERS)


@pytest.mark.parametrize(
    ("device", "already", "expected"),
    [("cpu", None, ""), ("cpu", "0,1", ""), ("cuda:1", None, "1"), ("cuda", None, "0"), ("cuda:1", "4,7", "7"), ("cuda:3", "4,7", "")],
)
def test_a_job_sees_the_device_of_its_role_alone(device: str, already: str | None, expected: str) -> None:
    assert visible(device, already) == expected


def test_the_trainers_device_goes_to_whoever_is_first_in_line(house: Places) -> None:
    with open_guild(house) as db:
        assert whose_turn(db, "trainer") is None
        jobs.enqueue(db, NewJob("train_file", {"file": "a.jsonl"}, ordinal=10))
        jobs.enqueue(db, NewJob("scale", {"arguments": ["x"]}, ordinal=5))
        assert whose_turn(db, "trainer") == "scale"
        jobs.enqueue(db, NewJob("train_file", {"file": "b.jsonl"}, "high", ordinal=20))
        assert whose_turn(db, "trainer") == "train_file"
        assert whose_turn(db, "cpu") is None


def test_a_report_is_made(house: Places) -> None:
    with open_guild(house) as db:
        name = next(iter(REPORTS))
        job = jobs.enqueue(db, NewJob("report", {"name": name, "campaign": "tiny/campaign-001"}))
        assert work_on(desk_of(db, house), "report") == 1
        done = jobs.get(db, job.id)
        assert done.state == "completed" and done.result and done.result["report"] == name, done.error


def test_flags_are_read_in_both_forms() -> None:
    assert value_of(["--a", "1", "--b=2", "--a=3"], "--a") == "3" and value_of(["--b=2"], "--a") is None


def test_the_daemon_carries_out_side_jobs(house: Places) -> None:
    """The real daemon with SideJobs in its rounds: a file is trained and a check is made."""
    put(house, "small.jsonl", 40)
    with open_guild(house) as db:
        check = jobs.enqueue(db, NewJob("health_check", {}))
    code = f"""
from guild.loop.daemon import Daemon
from guild.loop.start import start
from guild.places import Places
from guild.side_jobs.starting import SideJobs
from modelwright.control import signals_as_requests
with signals_as_requests() as signals:
    started = start(Places.of({str(house.base)!r}))
    try:
        arguments = ("--idle-exit", "1", "--min-free-gb", "0")
        Daemon(started, signals, 1.0, 60.0, arguments, side_work=(SideJobs(),)).run(until_empty=True)
    finally:
        started.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    until(lambda: job_now(house, check.id).state == "completed", "the check", 30)
    leave(house, 30)
