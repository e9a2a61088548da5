"""One file of the queue in the trainer: how it is left, and how the trainer goes on. (specs/guild.md 2.1.1, 2.1.3)"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.effective_config import Effective, start_config
from guild.campaigns.pointer import require_active
from guild.control.signals import active, give
from guild.places import Places
from guild.queue.marks import Taken, take
from guild.queue.recovery import recover_queue
from guild.records import jobs
from guild.records.checkpoint_marks import checkpoint_folders
from guild.records.database import open_guild
from guild.trainer import watch
from guild.trainer.job import Desk, Next, train_one
from guild.training.engine import TrainerEngine
from helpers.guild_house import make_house, put, until
from modelwright.clock import SYSTEM_CLOCK
from modelwright.control import SignalFlag
from modelwright.identity import current_identity
from modelwright.rundir import RunDir


@dataclass
class Room:
    """A trainer's desk with one file taken."""

    house: Places
    desk: Desk
    engine: TrainerEngine
    folder: CampaignFolder
    effective: Effective
    taken: Taken

    def train(self) -> Next:
        return train_one(self.desk, self.engine, self.folder, self.effective, self.taken)

    @property
    def job(self) -> jobs.Job:
        return jobs.get(self.desk.db, self.taken.job.id)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    house = make_house(tmp_path)
    put(house, "a.jsonl", 400, folder="queue/normal")
    folder, me = require_active(house), current_identity()
    with open_guild(house) as db:
        recover_queue(db, house, quiet_s=0)
        taken = take(db, house, me, quiet_s=0)
        assert taken is not None
        desk = Desk(db, house, me, SignalFlag(), SYSTEM_CLOCK, 0)
        yield Room(house, desk, TrainerEngine(), folder, start_config(house, folder), taken)


def begun(room: Room) -> bool:
    return room.desk.db.row("SELECT 1 FROM events WHERE type = 'training.started'") is not None


def test_a_signal_while_the_file_is_loaded_leaves_it_unbegun_without_a_mark(room: Room) -> None:
    room.desk.signals.signal = signal.SIGTERM
    assert room.train() != "stop", "the trainer was meant, not the daemon"
    job = room.job
    assert (job.state, job.level, job.attempts, job.crashes, job.position) == ("queued", "normal", 0, 0, 0)
    assert not begun(room) and checkpoint_folders(room.folder.checkpoints) == []
    assert RunDir.open_reader(room.house.base / str(job.run)).record.status == "stopped"


def test_a_stop_while_the_file_is_loaded_ends_the_daemon_before_the_first_step(room: Room) -> None:
    give(room.house, "pause")
    give(room.house, "stop")
    assert room.train() == "stop"
    assert room.job.state == "queued" and not begun(room) and not any(active(room.house).values())


def test_a_skip_or_a_cancellation_while_the_file_is_loaded_is_heard(room: Room) -> None:
    give(room.house, "skip")
    assert room.train() == "next file"
    assert (room.job.state, room.job.level, room.job.skips) == ("queued", "low", 1) and not begun(room)
    again = take(room.desk.db, room.house, room.desk.me, quiet_s=0)
    assert again is not None
    jobs.cancel(room.desk.db, again.job.id)
    assert room.train() == "next file"
    assert room.job.state == "cancelled" and not begun(room)


def test_a_file_that_is_lost_ends_the_trainer_alone(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LEASE_EVERY_S", 0.0)

    def take_it_away() -> None:
        with open_guild(room.house) as db:
            until(lambda: db.row("SELECT 1 FROM events WHERE type = 'training.started'"), "the first step")
            jobs.release(db, room.taken.job.id, room.desk.me)

    thief = Thread(target=take_it_away)
    thief.start()
    assert room.train() == "leave"
    thief.join()
    assert (room.job.state, room.job.attempts) == ("queued", 0)
