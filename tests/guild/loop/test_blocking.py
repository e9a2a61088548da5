"""Effects that block training: what pauses it, once, until a person resumes. (specs/guild.md 2.3.5, G10)"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from guild.control.signals import active, clear
from guild.loop.blocking import Blocking
from guild.places import Places
from guild.records import events
from guild.records.database import open_guild
from helpers.guild_house import daemon, job_of, make_house, put, state, until
from helpers.guild_watchdog import broken_model, told
from modelwright.clock import SYSTEM_CLOCK
from modelwright.database import Database


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path / "a house")


@pytest.fixture
def db(house: Places) -> Iterator[Database]:
    with open_guild(house) as opened:
        yield opened


def torn(db: Database, file: str, step: int = 7) -> None:
    data = {"file": file, "campaign": "tiny/campaign-001", "error_type": "non_finite_loss", "step": step}
    events.record(db, "training.failed", "the loss is not a number", source="trainer", data=data)


def test_the_second_file_in_a_row_without_a_finite_loss_blocks(db: Database, house: Places) -> None:
    looking = Blocking(db, house, SYSTEM_CLOCK)
    assert looking.look() == ""
    for _ in range(3):  # one file, tried three times: its own affair
        torn(db, "a.jsonl")
    assert looking.look() == "" and not active(house)["pause"]
    torn(db, "b.jsonl")
    assert "reality_tear" in looking.look() and active(house)["pause"]
    assert "a.jsonl, b.jsonl" in told(db, "daemon.training_blocked")[0].message
    clear(house)
    assert looking.look() == ""  # a person resumed
    torn(db, "c.jsonl")
    assert looking.look() == ""
    torn(db, "d.jsonl")
    assert looking.look() != ""  # it is no better


def test_a_checkpoint_between_says_that_the_model_is_sound(db: Database, house: Places) -> None:
    looking = Blocking(db, house, SYSTEM_CLOCK)
    torn(db, "a.jsonl")
    events.record(db, "training.saved", "Step 8 is saved.", source="trainer")
    torn(db, "b.jsonl")
    assert looking.look() == ""


def test_the_rules_of_the_house_decide(db: Database, house: Places) -> None:
    rules = house.schedule.with_name("effects.yaml")
    rules.write_text("schema_version: 1\neffects:\n  reality_tear: {trigger: not_finite}\n")
    looking = Blocking(db, house, SYSTEM_CLOCK)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        torn(db, name)
    assert looking.look() == ""


def test_g10_a_broken_model_pauses_the_queue_instead_of_parking_every_file(tmp_path: Path) -> None:
    """Whole processes: weights that are no numbers, and four files that would all be parked."""
    house = make_house(tmp_path / "a house", overrides={"model_path": str(broken_model(tmp_path / "broken"))})
    names = [f"{letter}.jsonl" for letter in "abcd"]
    for number, name in enumerate(names):
        put(house, name, 40, first=100 * number)
    with daemon(house) as running:
        until(lambda: "Training is blocked" in running.said(), "the block")
        until(lambda: state(house).get("status") == "paused", "the pause")
        assert "reality_tear" in state(house)["reason"]
    assert "failed" not in [job_of(house, name).state for name in names]
