"""What a save calls for, as jobs and as the view of the queue. (specs/guild.md 2.1.4, 2.1.9, acceptance item 20)"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guild.campaigns.store import create_campaign
from guild.evaluation.due import ASKED_PRIORITY, Wanted, backfill, campaign_skills, enqueue, enqueue_for_checkpoint, waiting
from guild.evaluation.passives import MODULES
from guild.places import Places
from guild.records import jobs
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from guild.records.evaluation_records import new_evaluation, new_passive
from guild.records.evaluations import record_evaluation
from guild.records.kinds import KINDS
from guild.records.passives import record_passive
from helpers.guild_evaluation import CAMPAIGN, add_checkpoint
from helpers.guild_house import make_house
from modelwright.files import read_json

NAME = "checkpoint-{}-20260101-1000"


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path)


def _told(job: jobs.Job) -> tuple[str, int, int]:
    return job.payload.get("skill") or job.payload["passive"], job.payload["step"], job.priority


def test_item_20_a_save_queues_quick_evaluations_at_10_and_every_5000_steps_full_ones_at_6(house: Places) -> None:
    with open_guild(house) as db:
        first = enqueue_for_checkpoint(db, house, CAMPAIGN, 4800, NAME.format(4800), previous_step=4000)
        assert [_told(job) for job in first.jobs] == [("bin", 4800, 10), ("sy", 4800, 10), *((one.id, 4800, 8) for one in MODULES)]
        assert all(job.payload["level"] == 1 and job.payload["suite"] == "quick" for job in first.jobs[:2])
        assert all(job.payload["mode"] == "lite" for job in first.jobs[2:])
        second = enqueue_for_checkpoint(db, house, CAMPAIGN, 5600, NAME.format(5600), previous_step=4800)  # passed 5000
        full = [job for job in second.jobs if job.payload["suite"] == "full"]
        assert [_told(job) for job in full] == [("bin", 5600, 6), ("sy", 5600, 6), *((one.id, 5600, 4) for one in MODULES)]
        assert [job.payload["level"] for job in full[:2]] == [None, None]  # every level up to the one that is trained
        assert all(job.payload["mode"] == "full" for job in full[2:])
        view = read_json(house.status / "eval_queue.json")
        assert view["count"] == 6  # passives have a ledger of their own
        assert [(entry["skill"], entry["checkpoint_step"], entry["eval_type"], entry["priority"]) for entry in view["queue"]] == [
            ("bin", 5600, "quick", 10), ("sy", 5600, "quick", 10), ("bin", 4800, "quick", 10), ("sy", 4800, "quick", 10),
            ("bin", 5600, "full", 6), ("sy", 5600, "full", 6),
        ]  # fmt: skip
        assert [_told(job) for job in waiting(db)][:4] == [("bin", 5600, 10), ("sy", 5600, 10), ("bin", 4800, 10), ("sy", 4800, 10)]


def test_the_same_save_told_again_adds_nothing(house: Places) -> None:
    with open_guild(house) as db:
        first = enqueue_for_checkpoint(db, house, CAMPAIGN, 10, NAME.format(10))
        again = enqueue_for_checkpoint(db, house, CAMPAIGN, 10, NAME.format(10))
        assert (len(again.jobs), len(again.known)) == (0, len(first.jobs))
        assert len(waiting(db)) == len(first.jobs) == 6


def test_the_save_before_is_the_ledgers_when_none_is_named(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 4990)
        queued = enqueue_for_checkpoint(db, house, CAMPAIGN, 5010, NAME.format(5010), passives=False)
        assert [job.payload["suite"] for job in queued.jobs] == ["quick", "quick", "full", "full"]
        none = enqueue_for_checkpoint(db, house, CAMPAIGN, 4995, NAME.format(4995), passives=False)
        assert [job.payload["suite"] for job in none.jobs] == ["quick", "quick"]


def test_priority_then_step_then_quick_before_full_whatever_the_order_of_asking(house: Places) -> None:
    asked = [
        Wanted(1, "c", "skill", "bin", "full", 5, 1), Wanted(2, "c", "skill", "bin", "full", 5, 1),
        Wanted(2, "c", "skill", "bin", "quick", 5, 1),
        Wanted(1, "c", "skill", "bin", "quick", 5, 1), Wanted(1, "c", "passive", "logic", "lite", 5),
        Wanted(3, "c", "skill", "bin", "quick", 4, 1),
        Wanted(0, "c", "skill", "bin", "full", ASKED_PRIORITY, 1),
    ]  # fmt: skip
    with open_guild(house) as db:
        enqueue(db, house, CAMPAIGN, asked)
        found = [(job.priority, job.payload["step"], job.payload["suite"], bool(job.payload["passive"])) for job in waiting(db)]
    assert found == [
        (30, 0, "full", False), (5, 2, "quick", False), (5, 2, "full", False), (5, 1, "quick", False), (5, 1, "quick", True),
        (5, 1, "full", False), (4, 3, "quick", False),
    ]  # fmt: skip


def test_a_campaign_is_evaluated_on_its_own_skills(house: Places) -> None:
    focused = create_campaign(house, "tiny", "Focused", skills=["binary"])
    assert campaign_skills(house, CAMPAIGN) == ("bin", "sy")
    assert campaign_skills(house, CampaignId(*focused.key)) == ("bin",)


def test_a_full_queue_is_told_and_stops_nobody(house: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace
    from types import MappingProxyType

    from guild.records import kinds

    few = MappingProxyType({**KINDS, "eval": replace(KINDS["eval"], max_pending=7)})
    monkeypatch.setattr(kinds, "KINDS", few)
    with open_guild(house) as db:
        assert not enqueue_for_checkpoint(db, house, CAMPAIGN, 10, NAME.format(10)).refused
        refused = enqueue_for_checkpoint(db, house, CAMPAIGN, 20, NAME.format(20))
        assert "allowed: 7" in refused.refused
        assert len(waiting(db)) == 6  # all of a save, or nothing
        assert db.row("SELECT severity FROM events WHERE type = 'data.evaluation_refused'") == {"severity": "warning"}


def test_backfill_queues_what_standing_checkpoints_lack(house: Places) -> None:
    with open_guild(house) as db:
        for step in (10, 20, 30):
            folder = add_checkpoint(db, house, step)
        shutil.rmtree(folder)  # the newest is gone
        record_evaluation(db, house, new_evaluation(CAMPAIGN, 10, "bin", 1, correct=1, total=20, timestamp="2026-01-01T00:00:00Z"))
        one = MODULES[0]
        record_passive(db, house, new_passive(
            CAMPAIGN, 20, one.id, "lite", one.version, correct=1, total=5, timestamp="2026-01-01T00:00:00Z",
        ))  # fmt: skip
        record_passive(db, house, new_passive(
            CAMPAIGN, 10, one.id, "lite", "0.9.0", correct=1, total=5, timestamp="2026-01-01T00:00:00Z",  # another version is another one
        ))  # fmt: skip
        queued = backfill(db, house, CAMPAIGN)
        found = {(job.payload["skill"] or job.payload["passive"], job.payload["step"]) for job in queued.jobs}
        passives = {(module.id, step) for module in MODULES for step in (10, 20)} - {(one.id, 20)}
        assert found == {("bin", 20), ("sy", 10), ("sy", 20)} | passives
        assert {job.priority for job in queued.jobs} == {3}
        assert not backfill(db, house, CAMPAIGN).jobs
