"""A daemon is pointed at an installation of the original system, or at a house whose database is lost. (specs/guild.md 1.1, item 22)"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guild.curriculum.state import read_state
from guild.evaluation.baselines import baseline_path, read_baseline, tags
from guild.init import initialise
from guild.loop.start import Started, start
from guild.places import Places
from guild.queue.reconcile import reconcile
from guild.records import evaluations, ledger, lineage_documents, passives
from guild.records.checkpoint_record import CampaignId
from guild.records.evaluation_records import new_evaluation
from guild.records.jobs import find_file
from helpers.guild_queue import age
from helpers.guild_records import digests, original_tree, write_checkpoint
from helpers.guild_rows import chat, write_rows
from modelwright.files import read_json

TINY = CampaignId("tiny", "campaign-001")


@pytest.fixture
def original(tmp_path: Path) -> Places:
    """An original tree with heroes and hosts, its campaign active, and a file that names no schema, as its rows never did."""
    places = Places(tmp_path)
    initialise(places)
    original_tree(tmp_path, owner=TINY)
    document = {
        "id": TINY.campaign_id,
        "hero_id": TINY.hero_id,
        "name": "The first",
        "description": "",
        "created_at": "2025-11-01T00:00:00Z",
    }
    document |= {"status": "active", "starting_checkpoint": None, "starting_step": 0, "current_step": 184000, "total_examples": 9}
    document |= {"skills_focus": ["bin", "syllo"], "config_overrides": {}, "milestones": [], "archived_at": None, "parent_campaign": None}
    (places.campaigns / TINY.key / "campaign.json").write_text(json.dumps(document))
    places.control.mkdir(exist_ok=True)
    pointer = {"hero_id": TINY.hero_id, "campaign_id": TINY.campaign_id, "campaign_path": f"campaigns/{TINY.key}", "activated_at": "x"}
    places.active_campaign.write_text(json.dumps(pointer))
    places.state.write_text(json.dumps({"status": "idle", "current_file": None}))
    places.level("normal").mkdir(parents=True, exist_ok=True)
    age(write_rows(places.level("normal") / "waiting.jsonl", [chat(), chat()]), 60)
    return places


@contextmanager
def started(places: Places) -> Iterator[Started]:
    begun = start(places)
    try:
        yield begun
    finally:
        begun.close()


def test_item_22_a_daemon_takes_an_original_installation_over_and_leaves_every_file_as_it_was(original: Places) -> None:
    before = digests(original.base)
    with started(original) as begun:
        db = begun.db
        assert [record.step for record in ledger.list_all(db, TINY)] == [184001, 184000, 183000, 100000, 99999]
        assert [(one.skill, one.level, one.correct) for one in evaluations.evaluations_of(db, TINY)] == [("bin", 2, 1), ("sy", 2, 3)]
        assert [one.key for one in passives.passives_of(db, TINY)] == ["184000:arithmetic:lite:1.0.0"]
        assert lineage_documents.lineage_document(db)["total_validations"] == 12
        assert read_state(original, TINY).standing("sy").mastered == 1
        assert tags(original) == ["base_qwen"] and read_baseline(baseline_path(original, "base_qwen")) is not None
        assert "5 checkpoints, 2 evaluations and 1 passives" in "\n".join(begun.said)
        waiting = find_file(db, "waiting.jsonl")
        assert waiting.state == "queued" and waiting.payload["allow_default"] is True
    after = digests(original.base)
    assert {name: after.get(name) for name in before} == before
    with started(original) as again:
        assert not any("taken over" in line for line in again.said)
        age(write_rows(original.level("normal") / "later.jsonl", [chat()]), 60)
        reconcile(again.db, original)
        assert find_file(again.db, "later.jsonl").payload["allow_default"] is False, "what comes later must name its schema"


def test_after_the_loss_of_the_database_the_older_results_stand_beside_the_next_one(original: Places) -> None:
    folder = original.campaigns / TINY.key / "checkpoints"
    path = write_checkpoint(folder, "checkpoint-185000")
    with started(original) as begun:
        ledger.record(begun.db, original, path)
        for skill, correct in (("bin", 18), ("sy", 11)):
            made = new_evaluation(TINY, 185000, skill, 2, correct=correct, total=20, timestamp="2026-01-01T00:00:00Z")
            evaluations.record_evaluation(begun.db, original, made)
        old = passives.passives_of(begun.db, TINY)[0]
        passives.record_passive(begun.db, original, old.model_copy(update={"checkpoint_step": 185000, "correct": 5}))
        known = evaluations.evaluations_of(begun.db, TINY, problems=True)
        of_passives = passives.passives_of(begun.db, TINY)
    for file in original.base.glob("guild.db*"):
        file.unlink()
    with started(original) as begun:
        assert evaluations.evaluations_of(begun.db, TINY, problems=True) == known
        assert passives.passives_of(begun.db, TINY) == of_passives
        made = new_evaluation(TINY, 185000, "bin", 3, correct=9, total=20, timestamp="2026-01-02T00:00:00Z")
        evaluations.record_evaluation(begun.db, original, made)
    listed = read_json(path / ".evals.json")["evaluations"]
    assert [(one["skill"], one["level"], one["correct"]) for one in listed] == [("bin", 2, 18), ("bin", 3, 9), ("sy", 2, 11)]


def test_a_new_house_is_not_called_taken_over(tmp_path: Path) -> None:
    from helpers.guild_house import make_house

    places = make_house(tmp_path)
    age(write_rows(places.level("normal") / "by hand.jsonl", [chat()]), 60)
    with started(places) as begun:
        assert not any("taken over" in line for line in begun.said)
        assert find_file(begun.db, "by hand.jsonl").payload["allow_default"] is False
