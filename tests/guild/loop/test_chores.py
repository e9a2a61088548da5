"""The daily snapshot: whole weights copied once a day, nothing merged, nothing of the house overwritten. (specs/guild.md 2.1.1, G1)"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from guild.loop.chores import Chores
from guild.places import Places
from guild.records import events, ledger
from guild.records.checkpoint_marks import model_faults
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from guild.records.tidying import EVENTS_FOR
from helpers.guild_house import make_house
from helpers.guild_watchdog import told
from modelwright.clock import ManualClock
from modelwright.database import Database
from modelwright.tiny import tiny_model_path

TINY = CampaignId("tiny", "campaign-001")
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
DAY_S = 86400.0


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path)


@pytest.fixture
def db(house: Places) -> Iterator[Database]:
    with open_guild(house) as opened:
        yield opened


def saved(db: Database, places: Places, step: int) -> Path:
    """A whole checkpoint with its record and the optimizer's state."""
    path = places.campaigns / TINY.key / "checkpoints" / f"checkpoint-{step}"
    shutil.copytree(tiny_model_path("modelwright/tiny-0.4m"), path)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (path / "optimizer.pt").write_bytes(b"moments")
    ledger.record(db, places, path, campaign=TINY)
    return path


def days(places: Places) -> list[str]:
    return sorted(path.name for path in places.snapshots.iterdir())


def test_a_snapshot_is_the_newest_checkpoint_without_its_optimizer_once_a_day(db: Database, house: Places) -> None:
    saved(db, house, 10)
    newest = saved(db, house, 20)
    before = {path: path.read_bytes() for path in newest.iterdir()}
    (house.base / ".last_consolidation").write_text("2025-12-01")
    house.current_model.mkdir()
    (house.current_model / "config.json").write_text("{}")
    clock = ManualClock(NOON)
    chores = Chores(db, house, clock, "00:00")
    chores.do(TINY)
    chores.do(TINY)
    first = clock.now().astimezone().date().isoformat()
    assert days(house) == [first]
    kept = house.snapshots / first
    assert model_faults(kept) == [] and (kept / "model.safetensors").read_bytes() == (newest / "model.safetensors").read_bytes()
    assert json.loads((kept / "trainer_state.json").read_text()) == {"global_step": 20} and not (kept / "optimizer.pt").exists()
    assert {path: path.read_bytes() for path in newest.iterdir()} == before
    assert (house.base / ".last_consolidation").read_text() == "2025-12-01"
    assert [path.name for path in house.current_model.iterdir()] == ["config.json"]
    assert [event.data["step"] for event in told(db, "vault.snapshot")] == [20]


def test_fault_9_a_clock_that_jumps_takes_each_day_once(db: Database, house: Places) -> None:
    saved(db, house, 10)
    clock = ManualClock(NOON)
    chores = Chores(db, house, clock, "00:00")
    for jump in (0.0, DAY_S, -DAY_S, DAY_S):
        clock.jump(jump)
        chores.do(TINY)
    assert len(days(house)) == 2 and len(told(db, "vault.snapshot")) == 2


def test_before_its_time_and_without_a_checkpoint_there_is_none(db: Database, house: Places) -> None:
    clock = ManualClock(NOON)
    Chores(db, house, clock, "00:00").do(TINY)
    assert days(house) == []
    saved(db, house, 10)
    local = clock.now().astimezone()
    late = f"{min(local.hour + 1, 23):02d}:{59 if local.hour == 23 else local.minute:02d}"
    Chores(db, house, clock, late).do(TINY)
    assert days(house) == []


def test_a_snapshot_that_fails_is_told_once_and_leaves_nothing_half(db: Database, house: Places) -> None:
    gone = saved(db, house, 10)
    shutil.rmtree(gone)
    clock = ManualClock(NOON)
    chores = Chores(db, house, clock, "00:00")
    chores.do(TINY)
    chores.do(TINY)
    assert len(told(db, "daemon.snapshot_failed")) == 1
    assert days(house) == []
    saved(db, house, 20)
    chores.do(TINY)
    assert days(house) == []  # not again today
    clock.jump(DAY_S)
    chores.do(TINY)
    assert len(days(house)) == 1


def test_what_a_killed_copy_left_goes_at_the_next_start(db: Database, house: Places) -> None:
    (house.snapshots / ".2026-03-01.new").mkdir(parents=True)
    (house.snapshots / ".2026-03-01.new" / "model.safetensors").write_bytes(b"half")
    (house.snapshots / "2026-02-28").mkdir()
    Chores(db, house, ManualClock(NOON), "00:00")
    assert days(house) == ["2026-02-28"]


def test_old_events_and_jobs_go_once_a_day(db: Database, house: Places) -> None:
    clock = ManualClock(NOON)
    events.record(db, "data.swept", "long ago", source="test", clock=clock)
    chores = Chores(db, house, clock, "23:59")
    chores.do(TINY)
    assert told(db, "data.swept")
    clock.advance(EVENTS_FOR.total_seconds() + DAY_S)
    chores.do(TINY)
    assert not told(db, "data.swept")
