"""Correction rows of a checkpoint that training has left behind wait in low. (specs/guild.md 6.4 step 6, acceptance item 34)"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from guild.correction.staleness import demote_stale, origin_of, return_if_stale
from guild.places import Places
from guild.queue.add import add_file
from guild.queue.marks import take
from guild.queue.status import list_queue
from guild.records import events, jobs
from guild.records.checkpoint_record import CampaignId
from guild.records.data_sidecars import new_data_sidecar, write_data_sidecar
from guild.records.database import open_guild
from helpers.guild_house import make_house, new_campaign
from helpers.guild_jobs import ME
from helpers.guild_queue import put
from helpers.guild_rows import chat, write_rows
from helpers.guild_sparring import trained_to
from modelwright.clock import ManualClock
from modelwright.database import Database

TINY = CampaignId("tiny", "campaign-001")
THEN = "2026-03-04T12:00:00Z"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_house(tmp_path / "guild")


def session_file(
    db: Database, places: Places, name: str, checkpoint: Any, *, sidecar: bool = True, level: str = "high", **params: Any
) -> str:
    mark = {"session_checkpoint": checkpoint, "session_timestamp": THEN}
    path = write_rows(places.base / f"sparring_{name}.jsonl", [chat(schema_id="chat_sft_v1", **mark)])
    if sidecar:
        write_data_sidecar(path, new_data_sidecar("sparring", "1.0.0", 1, params={**mark, "campaign": TINY.key, **params}))
    add_file(db, places, path, priority=level)  # type: ignore[arg-type]
    return path.name


def test_item_34_stale_files_are_demoted_and_fresh_ones_stay(places: Places) -> None:
    with open_guild(places) as db:
        trained_to(db, places, 100, TINY)
        old = session_file(db, places, "old", "checkpoint-90")
        now = session_file(db, places, "now", "checkpoint-100-20260101-0000")
        put(places.base / "train_bin_level1_2_x.jsonl")
        add_file(db, places, places.base / "train_bin_level1_2_x.jsonl", priority="high")
        assert demote_stale(db, places) == [old]
        assert {row.name for row in list_queue(places, "high")} == {now, "train_bin_level1_2_x.jsonl"}
        assert [row.name for row in list_queue(places, "low")] == [old] and (places.level("low") / f"{old}.meta.json").exists()
        assert demote_stale(db, places) == [], "once"
        trained_to(db, places, 101, TINY)
        assert demote_stale(db, places) == [now]
        told = [event for event in events.read_after(db, families=("data",)).events if event.type == "data.sparring_stale"]
    assert [event.data["file"] for event in told] == [old, now]


def test_nothing_is_stale_while_nothing_was_saved(places: Places) -> None:
    with open_guild(places) as db:
        session_file(db, places, "a", "checkpoint-5")
        assert demote_stale(db, places) == []


def test_a_file_without_sidecar_is_judged_by_its_first_row(places: Places) -> None:
    with open_guild(places) as db:
        trained_to(db, places, 100, TINY)
        name = session_file(db, places, "bare", "checkpoint-90", sidecar=False)
        by_number = session_file(db, places, "number", 90, sidecar=False)
        kept = session_file(db, places, "kept", 100, sidecar=False)
        strange = put(places.base / "sparring_strange.jsonl")
        add_file(db, places, strange, priority="high")
        assert sorted(demote_stale(db, places)) == [name, by_number]
        assert {row.name for row in list_queue(places, "high")} == {kept, strange.name}
        assert origin_of(places.level("high") / strange.name) is None


def test_a_model_that_is_no_checkpoint_is_left_behind_by_the_first_save_after_the_session(places: Places) -> None:
    with open_guild(places) as db:
        name = session_file(db, places, "base", "tiny-base-model")
        trained_to(db, places, 100, TINY, clock=ManualClock(datetime(2026, 3, 4, 11, 59, tzinfo=UTC)))
        assert demote_stale(db, places) == []
        trained_to(db, places, 100, TINY, clock=ManualClock(datetime(2026, 3, 4, 12, 1, tzinfo=UTC)))
        assert demote_stale(db, places) == [name]


def test_answers_of_another_campaign_are_stale(places: Places) -> None:
    with open_guild(places) as db:
        name = session_file(db, places, "a", "checkpoint-5")
        new_campaign(places, "Second")
        assert demote_stale(db, places) == [name]


def test_a_stale_file_that_was_just_taken_goes_back_to_low_and_is_trained_from_there(places: Places) -> None:
    with open_guild(places) as db:
        name = session_file(db, places, "a", "checkpoint-90")
        taken = take(db, places, ME)
        assert taken is not None
        assert not return_if_stale(db, places, taken.job, ME), "nothing is saved yet"
        trained_to(db, places, 100, TINY)
        assert return_if_stale(db, places, taken.job, ME)
        job = jobs.find_file(db, name)
        assert (job.state, job.level, job.attempts) == ("queued", "low", 0)
        again = take(db, places, ME)
        assert again is not None and again.job.name == name
        assert not return_if_stale(db, places, again.job, ME), "from low it is trained"


def test_other_files_are_never_returned(places: Places) -> None:
    with open_guild(places) as db:
        trained_to(db, places, 100, TINY)
        put(places.level("high") / "train_x.jsonl")
        taken = take(db, places, ME)
        assert taken is not None and not return_if_stale(db, places, taken.job, ME)


def test_a_damaged_sidecar_keeps_the_file_where_it_is(places: Places) -> None:
    with open_guild(places) as db:
        trained_to(db, places, 100, TINY)
        name = session_file(db, places, "a", "checkpoint-90")
        (places.level("high") / f"{name}.meta.json").write_text("{")
        assert demote_stale(db, places) == []
