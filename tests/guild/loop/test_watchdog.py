"""A trainer that lives and makes no step: what counts as that, and how it is ended. (specs/guild.md G5, G11; parts.md, faults 6, 7, 9)"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from guild.loop.daemon import Daemon
from guild.loop.start import start
from guild.loop.trainer_sight import is_halted, look_at
from guild.places import Places
from guild.processes import OwnProcess
from guild.records import events, jobs
from guild.records.database import open_guild
from helpers.guild_house import daemon as daemon_process
from helpers.guild_house import job_of, make_house, put, trained_steps, trainer_pid, until
from helpers.guild_watchdog import hanging_file, standing_trainer, told, watchdog_settings
from modelwright.clock import ManualClock
from modelwright.control import SignalFlag, answers
from modelwright.identity import liveness

EVERY_S, STEP_S, EVALUATING_S, LONG_S = 30.0, 600.0, 1800.0, 7200.0


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "a house")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keeper(house: Places, clock: ManualClock) -> Iterator[Daemon]:
    """A daemon that a test moves by hand, with the default limits; one file waits."""
    put(house, "a.jsonl", 20, folder="queue/normal")
    started = start(house)
    try:
        yield Daemon(started, SignalFlag(), 60.0, grace_s=120.0, say=lambda line: None, clock=clock)
    finally:
        started.close()


def pass_time(keeper: Daemon, clock: ManualClock, seconds: float) -> None:
    """Let time pass with a look in every interval."""
    for _ in range(int(seconds / EVERY_S)):
        clock.advance(EVERY_S)
        assert keeper.tick() == ""


def names(keeper: Daemon) -> list[str]:
    """The types of all events about the trainer, in order."""
    return [event.type for event in events.read_after(keeper.db).events if event.type.startswith("daemon.trainer_")]


def adopt(keeper: Daemon, trainer: OwnProcess) -> None:
    keeper.trainer = trainer
    assert keeper.tick() == ""


def test_ten_minutes_without_a_step_and_it_is_asked_then_terminated(keeper: Daemon, clock: ManualClock) -> None:
    with standing_trainer(keeper.places) as trainer:
        adopt(keeper, trainer)
        pass_time(keeper, clock, STEP_S / 2 - EVERY_S)
        assert names(keeper) == []
        pass_time(keeper, clock, EVERY_S)
        assert names(keeper) == ["daemon.trainer_stalled"]  # shown first
        pass_time(keeper, clock, STEP_S / 2)
        assert names(keeper) == ["daemon.trainer_stalled", "daemon.trainer_stuck"] and trainer.alive()
        job = job_of(keeper.places, "a.jsonl")
        assert job.run is not None and [path.name for path in (keeper.places.base / job.run / "control").glob("*.request")] == [
            "stop.request"
        ]
        pass_time(keeper, clock, EVERY_S)
        assert trainer.wait(30) and trainer.exit_code == -signal.SIGTERM
        assert keeper.tick() == "" and keeper.trainer is None
    job = job_of(keeper.places, "a.jsonl")
    assert (job.state, job.attempts, job.level) == ("queued", 0, "normal")
    assert names(keeper)[-1] == "daemon.trainer_replaced" and keeper.not_before <= clock.monotonic()


def test_one_that_hears_the_request_leaves_in_order_and_the_daemon_stays(keeper: Daemon, clock: ManualClock) -> None:
    with standing_trainer(keeper.places, manner="obeys") as trainer:
        adopt(keeper, trainer)
        pass_time(keeper, clock, STEP_S)
        assert trainer.wait(30) and trainer.exit_code == 0
        assert keeper.tick() == "" and keeper.trainer is None
    job = job_of(keeper.places, "a.jsonl")
    assert (job.state, job.position, job.crashes) == ("queued", 5, 0)
    assert "saved first" in told(keeper.db, "daemon.trainer_replaced")[0].message


def test_a_deaf_one_is_killed_when_the_grace_is_over(keeper: Daemon, clock: ManualClock) -> None:
    with standing_trainer(keeper.places, manner="deaf") as trainer:
        adopt(keeper, trainer)
        pass_time(keeper, clock, STEP_S + EVERY_S)  # asked, then SIGTERM
        pass_time(keeper, clock, keeper.grace_s - EVERY_S)
        assert trainer.alive() and not told(keeper.db, "daemon.trainer_killed")
        pass_time(keeper, clock, EVERY_S)
        assert trainer.wait(30) and trainer.exit_code == -signal.SIGKILL
        keeper.tick()
    assert len(told(keeper.db, "daemon.trainer_killed")) == 1 and job_of(keeper.places, "a.jsonl").state == "queued"


@pytest.mark.parametrize(
    ("phase", "busy", "limit"),
    [
        ("loading", "", None),
        ("loading", "loading", None),
        ("training", "saving", None),
        ("paused", "", None),
        ("training", "evaluating", EVALUATING_S),
        ("silent", "", EVALUATING_S),
    ],
)  # fmt: skip
def test_what_may_last_is_let_last(keeper: Daemon, clock: ManualClock, phase: str, busy: str, limit: float | None) -> None:
    with standing_trainer(keeper.places, phase, busy=busy) as trainer:
        adopt(keeper, trainer)
        pass_time(keeper, clock, LONG_S if limit is None else limit - EVERY_S)
        assert "daemon.trainer_stuck" not in names(keeper) and trainer.alive()
        if limit is not None:
            pass_time(keeper, clock, EVERY_S)
            assert "daemon.trainer_stuck" in names(keeper)


def test_one_that_has_nothing_to_do_is_left_alone(keeper: Daemon, clock: ManualClock) -> None:
    with standing_trainer(keeper.places) as trainer:
        held = job_of(keeper.places, "a.jsonl")
        jobs.cancel_held(keeper.db, held.id, held.owner)  # type: ignore[arg-type]
        adopt(keeper, trainer)
        pass_time(keeper, clock, LONG_S)
        assert names(keeper) == [] and trainer.alive()


def test_fault_9_neither_a_clock_that_jumps_nor_sleep_counts(keeper: Daemon, clock: ManualClock) -> None:
    with standing_trainer(keeper.places) as trainer:
        adopt(keeper, trainer)
        pass_time(keeper, clock, EVERY_S)
        clock.jump(86400.0)
        pass_time(keeper, clock, EVERY_S)
        clock.jump(-10 * 86400.0)
        pass_time(keeper, clock, EVERY_S)
        for _ in range(3):  # machine, container or daemon slept: nobody looked for a day
            clock.advance(86400.0)
            keeper.tick()
        assert names(keeper) == [] and trainer.alive()


def test_a_halted_process_is_left_alone_and_its_time_begins_when_it_goes_on(keeper: Daemon, clock: ManualClock) -> None:
    with standing_trainer(keeper.places) as trainer:
        adopt(keeper, trainer)
        pass_time(keeper, clock, STEP_S / 2)
        os.kill(trainer.identity.pid, signal.SIGSTOP)
        until(lambda: is_halted(trainer.identity), "the process to stand")
        pass_time(keeper, clock, LONG_S)
        assert "daemon.trainer_stuck" not in names(keeper)
        os.kill(trainer.identity.pid, signal.SIGCONT)
        until(lambda: not is_halted(trainer.identity), "the process to go on")
        pass_time(keeper, clock, STEP_S)
        assert "daemon.trainer_stuck" not in names(keeper)  # the first look begins the count
        pass_time(keeper, clock, EVERY_S)
        assert "daemon.trainer_stuck" in names(keeper)


def test_the_fourth_time_without_a_saved_step_is_a_failed_attempt(keeper: Daemon, clock: ManualClock) -> None:
    for time in range(1, 5):
        with standing_trainer(keeper.places) as trainer:
            adopt(keeper, trainer)
            pass_time(keeper, clock, STEP_S + EVERY_S)
            assert trainer.wait(30)
            keeper.tick()
        job = job_of(keeper.places, "a.jsonl")
        assert (job.attempts, job.level) == ((0, "normal") if time < 4 else (1, "low"))
        assert keeper.not_before <= clock.monotonic()  # ten minutes apart they are no burst
    assert "4 times without a saved step" in str(job.error) and "watchdog.step_limit_s" in str(job.error)
    assert "failed attempt (1)" in told(keeper.db, "daemon.trainer_replaced")[-1].message


def test_no_more_than_three_new_trainers_in_five_minutes(house: Places, clock: ManualClock) -> None:
    watchdog_settings(house, check_every_s=EVERY_S, step_limit_s=EVERY_S)
    put(house, "a.jsonl", 20, folder="queue/normal")
    started = start(house)
    keeper = Daemon(started, SignalFlag(), 60.0, grace_s=120.0, say=lambda line: None, clock=clock)
    try:
        first = None
        for time in range(1, 5):
            with standing_trainer(house) as trainer:
                adopt(keeper, trainer)
                pass_time(keeper, clock, 2 * EVERY_S)
                assert trainer.wait(30)
                keeper.tick()
            first = clock.monotonic() if first is None else first
            assert keeper.not_before == (clock.monotonic() if time < 4 else first + 300.0)
        assert job_of(house, "a.jsonl").attempts == 1
    finally:
        started.close()


def test_switched_off_it_does_nothing(house: Places, clock: ManualClock) -> None:
    watchdog_settings(house, enabled=False)
    put(house, "a.jsonl", 20, folder="queue/normal")
    started = start(house)
    keeper = Daemon(started, SignalFlag(), 60.0, say=lambda line: None, clock=clock)
    try:
        with standing_trainer(house) as trainer:
            adopt(keeper, trainer)
            pass_time(keeper, clock, LONG_S)
            assert names(keeper) == [] and trainer.alive()
    finally:
        started.close()


def test_fault_6_a_process_of_another_identity_is_never_met(keeper: Daemon, clock: ManualClock) -> None:
    """The trainer died and its number went to somebody else: nothing is looked at, nothing is signalled."""
    from dataclasses import replace

    with standing_trainer(keeper.places) as stranger:
        former = OwnProcess(replace(stranger.identity, start_time=(stranger.identity.start_time or 0) - 1))
        assert liveness(former.identity) == "dead" and not former.signal(signal.SIGKILL)
        keeper.trainer = former
        pass_time(keeper, clock, STEP_S + 10 * EVERY_S)
        assert keeper.trainer is None and stranger.alive() and "daemon.trainer_stuck" not in names(keeper)


@pytest.mark.slow  # its parts are shown above with a process that stands still
def test_g11_a_trainer_that_hangs_for_good_is_replaced_and_its_file_trained_once(house: Places) -> None:
    """Whole processes: every write of the run's metrics hangs in the kernel, so that neither request nor SIGTERM is heard."""
    watchdog_settings(house, check_every_s=0.2, step_limit_s=5.0)
    put(house, "a.jsonl", 100)
    run = house.campaigns / "tiny" / "campaign-001" / "runs" / "000001-a"
    with hanging_file(run / "metrics.jsonl") as hanging, daemon_process(house, "--grace", "1") as running:
        first = until(lambda: trainer_pid(house), "a trainer")
        until(lambda: "lives and has made no step" in running.said(), "the watchdog to see it")
        hanging.unlink()  # the mount is back, which the hanging trainer does not notice
        until(lambda: trainer_pid(house) not in (None, first), "another trainer")
        until(lambda: job_of(house, "a.jsonl").state == "completed", "the file to be trained")
    steps = trained_steps(house, "a.jsonl")
    assert job_of(house, "a.jsonl").attempts == 0 and steps == list(range(1, len(steps) + 1))
    with open_guild(house) as db:
        assert [len(told(db, f"daemon.trainer_{word}")) for word in ("stuck", "replaced")] == [1, 1]
        assert f"(process {first}) did not leave" in told(db, "daemon.trainer_killed")[0].message
        assert "goes on at its last checkpoint" in told(db, "daemon.trainer_replaced")[0].message


@pytest.mark.slow  # a trainer for every step
def test_a_trainer_that_is_only_slow_saves_and_leaves_and_the_daemon_goes_on(tmp_path: Path) -> None:
    """Steps longer than the limit: the request is heard after each, so the file is trained to its end, each step once."""
    house = make_house(tmp_path / "a house", overrides={"batch_size": 1, "gradient_accumulation": 128})
    watchdog_settings(house, check_every_s=0.05, step_limit_s=0.1, window_s=0.5)
    put(house, "a.jsonl", 500)
    with daemon_process(house, "--until-empty") as running:
        assert running.wait() == 0
        assert "asked to save and leave" in running.said() and "nothing is left to train" in running.said()
    steps = trained_steps(house, "a.jsonl")
    assert len(steps) > 1 and steps == list(range(1, len(steps) + 1))
    job = job_of(house, "a.jsonl")
    assert (job.state, job.attempts) == ("completed", 0) and job.run is not None
    asked = [answer for answer in answers(house.base / job.run) if answer["actor"] == "guild.watchdog"]
    assert "stopped" in {answer["outcome"] for answer in asked}


def test_what_a_trainer_is_at_is_read_and_never_asked(house: Places) -> None:
    put(house, "a.jsonl", 20, folder="queue/normal")
    with open_guild(house) as db, standing_trainer(house, busy="evaluating") as trainer:
        sight = look_at(db, house, trainer)
        assert (sight.phase, sight.step) == ("evaluating", 3) and sight.job is not None and sight.job.name == "a.jsonl"
        assert sight.mark == ("evaluating", sight.job.id, 3)
