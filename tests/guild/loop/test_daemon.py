"""The daemon and its trainer as real processes: asked to pause, skip, stop; killed; started twice. (specs/guild.md 9, items 4 to 10, 24)"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from guild.analytics.impact import read_records
from guild.campaigns.activation import activate, status_file
from guild.campaigns.pointer import require_active
from guild.control.signals import active, give
from guild.places import Places
from guild.records.checkpoint_marks import checkpoint_folders, usable_checkpoint
from guild.records.database import open_guild
from guild.records.ledger import list_all
from helpers.guild_house import (
    command,
    daemon,
    is_completed,
    job_of,
    kill_trainer,
    make_house,
    new_campaign,
    put,
    state,
    status,
    trained_steps,
    trainer_pid,
    training,
    until,
)  # fmt: skip
from modelwright.files import read_json, write_json
from modelwright.tiny import tiny_model_path

BIG = 1000  # rows: some ten seconds of the tiny model
CONTROL, QUEUE, DAEMON = "guild.training_controller", "guild.training_queue", "guild.training_daemon"


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "a house")


def checkpoints(places: Places, campaign: str = "campaign-001") -> list[Path]:
    return checkpoint_folders(places.campaigns / "tiny" / campaign / "checkpoints")


def settled_steps(places: Places, *names: str, campaign: str = "campaign-001") -> None:
    """Every step of the campaign was accepted once, over all files, and none is missing."""
    steps = sorted(step for name in names for step in trained_steps(places, name, campaign))
    assert steps == list(range(1, len(steps) + 1))


def test_items_5_6_7_8_9_asked_while_a_file_is_trained(house: Places) -> None:
    """One daemon through a life: a second one refused, pause and resume, skip, stop, and everything trained once in the end."""
    rows = 2 * BIG  # commands are slow beside a training
    put(house, "big.jsonl", rows)
    with daemon(house) as first:
        until(lambda: training(house, "big.jsonl"), "the file to be trained")
        assert command(house, CONTROL, "resume").returncode == 1  # item 8: nothing is paused
        second = command(house, DAEMON)
        assert second.returncode == 1 and "keeps" in second.stderr and str(first.process.pid) in second.stderr  # item 9

        assert command(house, CONTROL, "pause", "--reason", "lunch", "--wait", "60").returncode == 0  # item 5
        assert (state(house)["status"], state(house)["reason"]) == ("paused", "lunch")
        assert (house.processing / "big.jsonl").is_file()
        assert [usable_checkpoint(path) for path in checkpoints(house)] == [[]]
        at_pause = status(house)["batch_step"]

        put(house, "small.jsonl", 40, first=5000)
        assert command(house, CONTROL, "resume", "--wait", "60").returncode == 0
        until(lambda: training(house, "big.jsonl", at_pause + 1), "the file to go on")

        give(house, "skip")  # item 7
        until(lambda: is_completed(house, "small.jsonl"), "the next file")
        assert job_of(house, "big.jsonl").skips == 1
        until(lambda: training(house, "big.jsonl", at_pause + 2), "the skipped file again")

        give(house, "pause")
        until(lambda: state(house)["status"] == "paused", "the second pause")
        assert command(house, CONTROL, "stop", "--wait", "60").returncode == 0  # item 6: heard while paused, with a file in the queue
        assert first.wait(10) == 0
    job = job_of(house, "big.jsonl")
    assert job.state == "queued" and job.position > 0 and (house.level("low") / "big.jsonl").is_file()
    assert state(house)["status"] == "idle" and trainer_pid(house) is None

    house.daemon_pid.write_text('{"pid": 1, "start_time": 1, "boot_id": "another", "host": "nowhere", "namespace": ""}')  # item 9: stale
    with daemon(house, "--until-empty") as last:
        assert last.wait() == 0
    assert job_of(house, "big.jsonl").state == "completed"
    settled_steps(house, "big.jsonl", "small.jsonl")
    with open_guild(house) as db:
        recorded = {Path(record.path) for record in list_all(db)}
    assert recorded == set(checkpoints(house))
    impacts, damaged = read_records(require_active(house))  # item 47: a record for every attempt at a file
    assert not damaged and [line["outcome"] for line in impacts if line["filename"] == "small.jsonl"] == ["completed"]
    of_big = [line for line in impacts if line["filename"] == "big.jsonl"]
    assert [line["outcome"] for line in of_big] == ["skipped", "stopped", "completed"]
    assert sum(line["steps_trained"] for line in impacts) == len(trained_steps(house, "big.jsonl")) + len(
        trained_steps(house, "small.jsonl")
    )
    assert require_active(house).campaign.total_examples == rows + 40 - rows // 20 - 2  # all but the rows held out


def test_item_6_a_stop_begins_no_other_file_and_is_heard_behind_a_pause(house: Places) -> None:
    put(house, "big.jsonl", BIG)
    put(house, "next.jsonl", 40, first=5000)
    with daemon(house) as running:
        until(lambda: training(house, "big.jsonl", 2), "the file to be trained")
        trainer = trainer_pid(house)
        assert trainer is not None
        os.kill(trainer, signal.SIGTERM)  # the trainer alone is meant
        until(lambda: trainer_pid(house) not in (None, trainer), "another trainer")
        assert job_of(house, "big.jsonl").attempts == 0
        until(lambda: training(house, "big.jsonl", 3), "the file to go on")
        trainer = trainer_pid(house)
        assert trainer is not None
        os.kill(trainer, signal.SIGSTOP)  # one long step
        give(house, "pause", "lunch")
        give(house, "stop", "night")
        os.kill(trainer, signal.SIGCONT)
        assert running.wait(60) == 0
    first, second = job_of(house, "big.jsonl"), job_of(house, "next.jsonl")
    assert (first.state, first.position > 0, first.attempts, first.crashes) == ("queued", True, 0, 0)
    assert (second.state, second.run, second.started_at) == ("queued", None, None), "never begun"
    assert not any(active(house).values()) and state(house)["status"] == "idle"


def test_a_trainer_that_is_killed_when_the_daemon_leaves_costs_its_file_nothing(house: Places) -> None:
    """Time for leaving is over while it loads or is held up: no failing of the file."""
    put(house, "big.jsonl", BIG)
    with daemon(house, "--grace", "1") as running:
        until(lambda: training(house, "big.jsonl", 2), "the file to be trained")
        trainer = trainer_pid(house)
        assert trainer is not None
        os.kill(trainer, signal.SIGSTOP)
        running.process.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    job = job_of(house, "big.jsonl")
    assert (job.state, job.level, job.attempts, job.crashes) == ("queued", "normal", 0, 0)
    assert trainer_pid(house) is None and (house.level("normal") / "big.jsonl").is_file()


def test_item_4_everything_killed_in_the_middle_of_a_file(house: Places) -> None:
    put(house, "big.jsonl", BIG)
    with daemon(house) as first:
        until(lambda: training(house, "big.jsonl", 3), "the file to be trained")
        first.kill()
        kill_trainer(house)
    give(house, "pause")
    assert state(house)["status"] == "training"
    with daemon(house) as second:
        until(lambda: "Recovered from crash" in second.said(), "the recovery")
        assert not any(active(house).values()) and "big.jsonl returns to its queue" in second.said()
        until(lambda: job_of(house, "big.jsonl").state == "completed", "the file to be done")
    settled_steps(house, "big.jsonl")


@pytest.mark.slow  # the loop under random kills does it too
def test_a_trainer_outlives_its_daemon_and_is_adopted(house: Places) -> None:
    """parts.md, fault 5: never two trainers, and the file is not begun again."""
    put(house, "big.jsonl", BIG)
    with daemon(house) as first:
        until(lambda: training(house, "big.jsonl", 2), "the file to be trained")
        trainer = trainer_pid(house)
        first.kill()
        with daemon(house) as second:
            until(lambda: "goes on" in second.said(), "the adoption")
            assert trainer_pid(house) == trainer
            until(lambda: job_of(house, "big.jsonl").state == "completed", "the file to be done")
            assert trainer_pid(house) == trainer
    assert job_of(house, "big.jsonl").crashes == 0
    settled_steps(house, "big.jsonl")


@pytest.mark.slow  # the loop under random kills does it too
def test_a_dead_trainer_is_replaced_and_its_file_goes_on(house: Places) -> None:
    """Checkpoints every 40 steps: what lies behind the last one is trained again, what it holds is not."""
    new_campaign(house, "saves", overrides={"save_steps": 40})
    put(house, "big.jsonl", BIG)
    with daemon(house) as running:
        until(lambda: checkpoints(house, "campaign-002") and training(house, "big.jsonl", 1, "campaign-002"), "a checkpoint")
        kill_trainer(house)
        until(lambda: "The trainer (process" in running.said(), "the daemon to see it")
        until(lambda: job_of(house, "big.jsonl").state == "completed", "the file to be done")
    job = job_of(house, "big.jsonl")
    assert job.crashes <= 1 and job.attempts == 0
    settled_steps(house, "big.jsonl", campaign="campaign-002")


@pytest.mark.slow  # test_activation has its parts
def test_item_24_a_switch_of_campaigns_while_a_file_is_trained(house: Places) -> None:
    put(house, "big.jsonl", BIG)
    new_campaign(house, "Other", select=False)
    with daemon(house):
        until(lambda: training(house, "big.jsonl", 2), "the file to be trained")
        activate(house, "tiny", "campaign-002")
        assert status_file(house, "training_status.json").is_relative_to(house.campaigns / "tiny" / "campaign-002")
        until(lambda: training(house, "big.jsonl", 2, "campaign-002"), "the file in the other campaign")
        left = status(house, "campaign-001")
        assert len(checkpoints(house, "campaign-001")) == 1 and left["status"] == "idle"
        until(lambda: status(house, "campaign-002")["batch_step"] > 6, "some steps more")
        assert status(house, "campaign-001") == left


def test_item_10_settings_outside_their_ranges_start_nothing(house: Places) -> None:
    document = house.campaigns / "tiny" / "campaign-001" / "campaign.json"
    write_json(document, {**read_json(document), "config_overrides": {"learning_rate": 5, "batch_size": 0}})
    put(house, "small.jsonl", 40)
    refused = command(house, DAEMON, "--until-empty")
    assert refused.returncode == 1 and "learning_rate" in refused.stderr and "batch_size" in refused.stderr
    write_json(document, {**read_json(document), "config_overrides": {"qlora_enabled": True}})
    refused = command(house, DAEMON, "--until-empty")
    assert refused.returncode == 1 and "qlora_enabled: found true" in refused.stderr
    assert not house.daemon_pid.exists() and (house.inbox / "small.jsonl").exists() and checkpoints(house) == []


def test_a_file_that_is_unfit_is_parked_and_the_next_is_trained(house: Places) -> None:
    bad = put(house, "bad.jsonl", 40)
    bad.write_text(
        '{"schema_id": "chat_sft_v1", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "'
        + "b c d " * 60
        + '"}]}\n' * 4
    )
    put(house, "cut.jsonl", 40, folder="queue/high").write_text('{"messages": [')
    put(house, "good.jsonl", 40)
    with daemon(house, "--until-empty") as running:
        assert running.wait() == 0
    assert [job_of(house, name).state for name in ("bad.jsonl", "cut.jsonl", "good.jsonl")] == ["rejected", "rejected", "completed"]
    assert (house.failed / "bad.jsonl").is_file() and (house.failed / "cut.jsonl").is_file()


def test_item_3_a_file_that_fails_again_and_again(house: Places, tmp_path: Path) -> None:
    """A model with one weight that is not a number: tried three times, parked, and no checkpoint is made of it. (G10)"""
    model = tmp_path / "broken"
    shutil.copytree(tiny_model_path("modelwright/tiny-0.4m"), model)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    new_campaign(house, "broken", overrides={"model_path": str(model)})
    put(house, "small.jsonl", 60)
    with daemon(house, "--until-empty") as running:
        assert running.wait() == 0
    job = job_of(house, "small.jsonl")
    assert (job.state, job.attempts) == ("failed", 3) and "not taken" in str(job.error)
    assert (house.failed / "small.jsonl").is_file() and checkpoints(house, "campaign-002") == []
    assert status(house, "campaign-002")["status"] == "crashed"
