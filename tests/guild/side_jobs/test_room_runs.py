"""Runs of other rooms as jobs: started, paused, cancelled, killed, adopted; never two for one job. (parts.md, faults 5 to 7)"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from guild.campaigns.store import find_campaign
from guild.places import Places
from guild.records import events, job_rows, jobs
from guild.records.database import open_guild
from guild.records.kinds import DAY
from guild.side_jobs import adoption
from guild.side_jobs.job_folder import folder_of
from helpers.guild_house import make_house, until
from helpers.guild_side_jobs import ask_for_toy, job_now, runner, starts, toy_room
from modelwright.control import ask
from modelwright.files import read_json, write_json
from modelwright.identity import current_identity, process_start

LONG = ("--steps", "2000", "--every", "0.02")


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "a house")


def live(places: Places, job: jobs.Job) -> bool:
    """Whether the run of a job is at work and has taken a step."""
    folder = folder_of(places, job)
    return adoption.look(folder).state == "live" and folder.run is not None and (folder.run / "step").exists()


def kinds_of_events(places: Places, job: int) -> list[str]:
    with open_guild(places) as db:
        return [event.type for event in events.log_of(db, job).events]


def test_a_run_is_carried_out_and_becomes_part_of_the_campaigns_history(house: Places, tmp_path: Path) -> None:
    job = ask_for_toy(house, "--steps", "4", campaign="tiny/campaign-001")
    process = runner(house, toy_room(tmp_path))
    assert process.wait(60) == 0
    done = job_now(house, job.id)
    assert done.state == "completed" and done.result is not None
    assert done.position == 4 and done.result["exit_code"] == 0 and done.result["metrics"]["train/loss"] == 0.25
    assert done.run == f"campaigns/tiny/campaign-001/side_runs/{job.id:06d}-medic_train"
    milestone = find_campaign(house, "tiny", "campaign-001").campaign.milestones[-1]
    assert milestone.metrics["job"] == job.id and milestone.metrics["train/loss"] == 0.25 and "Medic training" in milestone.note
    assert len(starts(house)) == 1


@pytest.mark.parametrize(("code", "state", "attempts"), [(2, "rejected", 0), (1, "failed", 2), (77, "failed", 2)])
def test_exit_codes_decide_what_becomes_of_a_job(house: Places, tmp_path: Path, code: int, state: str, attempts: int) -> None:
    job = ask_for_toy(house, "--steps", "1", "--code", str(code))
    assert runner(house, toy_room(tmp_path)).wait(60) == 0
    done = job_now(house, job.id)
    assert (done.state, done.attempts) == (state, attempts)
    assert done.error


def test_a_killed_runner_leaves_the_run_alive_and_the_next_one_adopts_it(house: Places, tmp_path: Path) -> None:
    """parts.md, fault 5."""
    job, environment = ask_for_toy(house, *LONG, campaign="tiny/campaign-001"), toy_room(tmp_path)
    first = runner(house, environment)
    until(lambda: live(house, job), "the run to be at work")
    first.kill()
    first.wait()
    pid = starts(house)[0]
    second = runner(house, environment)
    until(lambda: "queue.adopted" in kinds_of_events(house, job.id), "the adoption")
    held = job_now(house, job.id)
    assert held.state == "running" and held.owner is not None and held.owner.pid == second.pid and held.crashes == 0
    os.kill(pid, 0)
    ask(folder_of(house, job).path, "pause", actor="test")
    until(lambda: job_now(house, job.id).state == "paused", "the pause")
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    assert starts(house) == [pid] and job_now(house, job.id).state == "queued"


def test_a_run_that_ended_while_nobody_followed_it_is_settled_and_not_run_again(house: Places, tmp_path: Path) -> None:
    job, environment = ask_for_toy(house, "--steps", "30", "--every", "0.03"), toy_room(tmp_path)
    first = runner(house, environment)
    until(lambda: live(house, job), "the run to be at work")
    first.kill()
    first.wait()
    folder = folder_of(house, job)
    until(lambda: adoption.look(folder).state == "ended", "the end of the run")
    assert runner(house, environment).wait(60) == 0
    done = job_now(house, job.id)
    assert (done.state, done.attempts, done.crashes, len(starts(house))) == ("completed", 0, 0, 1)


def test_a_run_killed_with_its_runner_goes_back_to_the_queue_and_goes_on(house: Places, tmp_path: Path) -> None:
    job, environment = ask_for_toy(house, "--steps", "60", "--every", "0.02"), toy_room(tmp_path)
    first = runner(house, environment)
    until(lambda: live(house, job), "the run to be at work")
    first.kill()
    first.wait()
    keeper = adoption.look(folder_of(house, job)).process
    assert keeper is not None and keeper.signal_group(signal.SIGKILL)
    until(lambda: adoption.look(folder_of(house, job)).state == "none", "the run to be gone")
    assert runner(house, environment).wait(60) == 0
    done = job_now(house, job.id)
    assert done.state == "completed" and len(starts(house)) == 2 and "queue.crashed" in kinds_of_events(house, job.id)
    assert read_json(house.base / done.run / "run.json")["attempt"] == 2


def test_the_keeper_alone_killed_and_the_command_is_still_followed(house: Places, tmp_path: Path) -> None:
    job, environment = ask_for_toy(house, "--steps", "60", "--every", "0.02"), toy_room(tmp_path)
    process = runner(house, environment)
    until(lambda: live(house, job), "the run to be at work")
    keeper = adoption.look(folder_of(house, job)).process
    assert keeper is not None and keeper.signal(signal.SIGKILL)
    assert process.wait(60) == 0
    assert job_now(house, job.id).state == "completed" and len(starts(house)) == 1


def test_a_runner_that_is_asked_to_leave_pauses_the_run_and_the_next_goes_on(house: Places, tmp_path: Path) -> None:
    job, environment = ask_for_toy(house, "--steps", "80", "--every", "0.02"), toy_room(tmp_path)
    first = runner(house, environment)
    until(lambda: live(house, job), "the run to be at work")
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    waiting = job_now(house, job.id)
    assert (waiting.state, waiting.attempts) == ("queued", 0)
    reached = int((house.base / waiting.run / "step").read_text())
    assert runner(house, environment).wait(60) == 0
    assert job_now(house, job.id).state == "completed" and reached >= 1
    record = read_json(house.base / waiting.run / "run.json")
    assert [change["status"] for change in record["history"]] == ["running", "paused", "running", "completed"]


def test_a_person_pauses_and_resumes_a_run_through_its_jobs_folder(house: Places, tmp_path: Path) -> None:
    job = ask_for_toy(house, "--steps", "80", "--every", "0.02")
    process = runner(house, toy_room(tmp_path))
    until(lambda: live(house, job), "the run to be at work")
    ask(folder_of(house, job).path, "pause", actor="test", body={"reason": "lunch"})
    until(lambda: job_now(house, job.id).state == "paused", "the pause")
    assert adoption.look(folder_of(house, job)).state == "ended" and process.poll() is None
    ask(folder_of(house, job).path, "resume", actor="test")
    assert process.wait(60) == 0
    assert job_now(house, job.id).state == "completed" and len(starts(house)) == 2


def test_a_cancelled_job_ends_its_run(house: Places, tmp_path: Path) -> None:
    job = ask_for_toy(house, *LONG)
    process = runner(house, toy_room(tmp_path))
    until(lambda: live(house, job), "the run to be at work")
    ask(folder_of(house, job).path, "stop", actor="test")
    assert process.wait(60) == 0
    assert job_now(house, job.id).state == "cancelled"
    assert adoption.look(folder_of(house, job)).state == "none"


def test_a_deaf_run_is_asked_then_signalled_then_killed(house: Places, tmp_path: Path) -> None:
    job = ask_for_toy(house, *LONG, "--deaf")
    process = runner(house, toy_room(tmp_path), "medic_train", "--grace", "0.3")
    until(lambda: live(house, job), "the run to be at work")
    pid = starts(house)[0]
    ask(folder_of(house, job).path, "stop", actor="test")
    assert process.wait(60) == 0
    assert job_now(house, job.id).state == "cancelled"
    told = [word for word in kinds_of_events(house, job.id) if word == "queue.run_pressed"]
    assert len(told) == 2  # SIGTERM, SIGKILL
    assert process_start(pid) is None


def test_a_run_beyond_its_time_is_told_asked_to_stop_and_counts_as_a_failure(house: Places, tmp_path: Path) -> None:
    job = ask_for_toy(house, *LONG)
    process = runner(house, toy_room(tmp_path), "medic_train", "--renew", "0.2", "--jobs", "1")
    until(lambda: live(house, job), "the run to be at work")
    assert jobs_overdue(house) == []
    with open_guild(house) as db, db.transaction() as connection:
        now = job_rows.read_one(connection, job.id)
        job_rows.update(connection, replace(now, running_since=(now.running_since or 0.0) - 10 * DAY))
    assert process.wait(60) == 0
    late = job_now(house, job.id)
    assert (late.state, late.attempts) == ("queued", 1) and "time was over" in str(late.error)
    assert "queue.overdue" in kinds_of_events(house, job.id) and "queue.run_pressed" not in kinds_of_events(house, job.id)
    assert read_json(house.base / str(late.run) / "run.json")["status"] == "paused"


def test_a_silent_run_is_told_as_stalled_and_left_alone(house: Places, tmp_path: Path) -> None:
    """parts.md, fault 7."""
    job = ask_for_toy(house, "--steps", "3", "--every", "1.5")
    process = runner(house, toy_room(tmp_path), "medic_train", "--renew", "0.1")
    until(lambda: live(house, job), "the run to be at work")
    beat = folder_of(house, job).place / "heartbeat.json"
    write_json(beat, {**read_json(beat), "stale_after_s": 0.5})
    until(lambda: "queue.stalled" in kinds_of_events(house, job.id), "the word of it")
    assert process.wait(60) == 0
    assert job_now(house, job.id).state == "completed" and len(starts(house)) == 1


def jobs_overdue(places: Places) -> list[int]:
    with open_guild(places) as db:
        return [job.id for job in jobs.overdue(db)]


def test_two_runners_at_once_never_start_one_job_twice(house: Places, tmp_path: Path) -> None:
    environment = toy_room(tmp_path)
    asked = [ask_for_toy(house, "--steps", "2") for _ in range(3)]
    both = [runner(house, environment) for _ in range(2)]
    codes = sorted(process.wait(60) for process in both)
    assert codes in ([0, 3], [0, 0])  # the second is refused, or comes when the first has left
    assert runner(house, environment).wait(60) == 0
    assert len(starts(house)) == 3 and {job_now(house, job.id).state for job in asked} == {"completed"}


@pytest.mark.slow
def test_runners_killed_at_random_moments_start_the_run_once(house: Places, tmp_path: Path) -> None:
    """parts.md, faults 5 and 10: also between starting the keeper and the keeper's first word."""
    rng, environment = random.Random(7), toy_room(tmp_path)
    job = ask_for_toy(house, "--steps", "400", "--every", "0.02", campaign="tiny/campaign-001")
    for _ in range(8):
        process = runner(house, environment)
        try:
            process.wait(rng.uniform(0.2, 1.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert runner(house, environment).wait(60) == 0
    done = job_now(house, job.id)
    assert (done.state, done.attempts, len(starts(house))) == ("completed", 0, 1)
    assert read_json(house.base / str(done.run) / "run.json")["attempt"] == 1
    assert len(find_campaign(house, "tiny", "campaign-001").campaign.milestones) == 1


def test_a_stranger_with_the_same_number_is_neither_adopted_nor_signalled(house: Places, tmp_path: Path) -> None:
    """parts.md, fault 6: the recorded keeper and command are gone, and this very test process has their number."""
    job = ask_for_toy(house, "--steps", "2")
    folder = folder_of(house, job)
    me = current_identity()
    gone = {**me.as_dict(), "start_time": (me.start_time or 0) - 5000}
    folder.path.mkdir(parents=True)
    write_json(folder.launch, {"launch": "a", "argv": [], "started_at": "2026-01-01T00:00:00Z", "keeper": gone, "child": gone})
    write_json(folder.path / "writer.lock", {**gone, "since": "2026-01-01T00:00:00Z", "command": "x"})
    seen: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        assert adoption.look(folder).state == "none"
        assert runner(house, toy_room(tmp_path)).wait(60) == 0
    finally:
        signal.signal(signal.SIGTERM, former)
    assert seen == [] and job_now(house, job.id).state == "completed"
