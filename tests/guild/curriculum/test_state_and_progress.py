"""The document and the rule together: counted once, kept through restarts and kills, adopted as it is."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from guild.campaigns.activation import activate
from guild.curriculum.progress import advance_now, announce, catch_up, register_evaluation, set_mastered, training_level
from guild.curriculum.state import changing, read_state, share, state_path
from guild.errors import RefusedError, UnknownSkillError
from guild.places import Places
from guild.records import events
from guild.records.checkpoint_record import NO_CAMPAIGN, CampaignId
from guild.records.database import open_guild
from guild.records.evaluation_records import Evaluation
from guild.records.evaluations import evaluations_of, record_evaluation
from guild.records.intervals import wilson
from guild.records.status_documents import original_path
from helpers.guild_curriculum import CAMPAIGN, edit_skill, evaluation, make_curriculum_house
from helpers.guild_house import new_campaign
from helpers.guild_records import in_processes, killed_at_line
from modelwright.database import Database
from modelwright.errors import ConfigError, DamagedFileError
from modelwright.files import read_json, write_json


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_curriculum_house(tmp_path / "house")


def died_in_process(work: Callable[[], None]) -> bool:
    """Whether `work` killed the process that it ran in."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode == -signal.SIGKILL


def level_ups(db: Database) -> list[dict[str, object]]:
    return [one.data for one in events.read_after(db, families=("hero",)).events if one.type == "hero.level_up"]


def test_item_33_a_skill_advances_after_three_checkpoints_and_the_state_survives_a_restart(places: Places) -> None:
    with open_guild(places) as db:
        assert not register_evaluation(db, places, evaluation(100)).advanced
        assert not register_evaluation(db, places, evaluation(100, correct=20)).counted
        assert not register_evaluation(db, places, evaluation(200, level=2)).counted
        assert not register_evaluation(db, places, evaluation(200)).advanced
    with open_guild(places) as db:  # another process would see the same
        third = register_evaluation(db, places, evaluation(300))
        assert third.advanced and (third.mastered, third.training_level) == (1, 2)
        assert training_level(places, "binary", CAMPAIGN) == 2
        entry = read_json(state_path(places, CAMPAIGN))["skills"]["bin"]
        assert [one["step"] for one in entry["accuracy_history"]] == [100, 200, 300]
        interval = wilson(18, 20)
        assert entry["accuracy_history"][0]["metadata"]["interval_low"] == interval.low
        assert entry["progression_history"][0]["new_mastered"] == 1
        (told,) = level_ups(db)
        assert (told["skill"], told["earned_level"], told["campaign"]) == ("bin", 1, CAMPAIGN.key)


def test_the_last_level_is_never_exceeded(places: Places) -> None:
    edit_skill(places, "bin", max_level=2)
    with open_guild(places) as db:
        for step in range(5):
            done = register_evaluation(db, places, evaluation(step, level=training_level(places, "bin", CAMPAIGN), correct=20))
    assert (done.mastered, done.training_level, done.counted) == (1, 2, True)


def test_fewer_problems_count_only_where_the_level_has_no_more(places: Places) -> None:
    with open_guild(places) as db:
        assert not register_evaluation(db, places, evaluation(1, correct=6, total=6)).counted
        assert register_evaluation(db, places, evaluation(1, correct=6, total=6, available=6)).counted
        assert not register_evaluation(db, places, evaluation(2, correct=5, total=5, available=6)).counted


def test_evidence_of_a_small_level_survives_a_kill_between_storing_and_counting(places: Places) -> None:
    """The process dies when the evaluation is durable and nobody has counted it yet."""
    few = [evaluation(step, correct=6, total=6, available=6) for step in (1, 2, 3)]

    def work(one: Evaluation) -> None:
        with open_guild(places) as db:
            record_evaluation(db, places, one)
            os.kill(os.getpid(), signal.SIGKILL)

    for one in few:
        assert died_in_process(lambda one=one: work(one))  # type: ignore[misc]
    with open_guild(places) as db:
        record_evaluation(db, places, evaluation(4, correct=5, total=5, available=6))  # not all of the six: no evidence
        assert [one.advanced for one in catch_up(db, places, CAMPAIGN)] == [False, False, True]
        assert read_state(places, CAMPAIGN).standing("bin").mastered == 1 and len(level_ups(db)) == 1
        assert [one.available for one in evaluations_of(db, CAMPAIGN)] == [6, 6, 6, 6]


def test_an_original_document_is_read_in_place_and_put_aside_by_the_first_change(places: Places) -> None:
    entry = {"step": 5, "accuracy": 1.0, "training_level": 4, "mastered_level": 3, "timestamp": "2025-11-01T00:00:00", "metadata": {}}
    original = {
        "skills": {"binary": {"current_level": 3, "accuracy_history": [entry] * 3, "progression_history": [], "colour": "red"}},
        "active_skill": "binary", "started_at": "2025-11-01T00:00:00", "migrated_at": "2025-11-20T00:00:00", "mood": {"a": 1},
    }  # fmt: skip
    write_json(places.curriculum_state, original)
    before = places.curriculum_state.read_bytes()
    state_path(places, CAMPAIGN).unlink()
    assert training_level(places, "bin", CAMPAIGN) == 4 and not state_path(places, CAMPAIGN).exists()
    with open_guild(places) as db:
        assert not register_evaluation(db, places, evaluation(5)).counted  # level 1: nothing changes
        assert not state_path(places, CAMPAIGN).exists()
        assert places.curriculum_state.read_bytes() == before  # nothing was changed
        assert catch_up(db, places, CAMPAIGN) == [] and places.curriculum_state.read_bytes() == before
        assert register_evaluation(db, places, evaluation(5, level=4)).counted
    assert original_path(places.curriculum_state).read_bytes() == before
    assert read_state(places, CampaignId("tiny", "campaign-009")).content == original  # another campaign of the original system
    shared = read_json(places.curriculum_state)
    assert (shared["campaign"], shared["mood"], len(shared["skills"]["bin"]["evidence"])) == (CAMPAIGN.key, {"a": 1}, 1)
    written = read_json(state_path(places, CAMPAIGN))
    assert written["mood"] == {"a": 1} and written["migrated_at"] == "2025-11-20T00:00:00"
    assert list(written["skills"]) == ["bin"] and written["skills"]["bin"]["colour"] == "red"
    assert len(written["skills"]["bin"]["accuracy_history"]) == 4
    assert len(written["skills"]["bin"]["evidence"]) == 1  # the original's repeats are history and no evidence


def test_the_installations_document_says_what_the_active_campaign_does(places: Places) -> None:
    other = CampaignId(*new_campaign(places, "Other", select=False))
    set_mastered(places, "bin", 4, CAMPAIGN)
    set_mastered(places, "bin", 9, other)  # not the active one
    shared = read_json(places.curriculum_state)
    assert (shared["campaign"], shared["skills"]["bin"]["current_level"], shared["schema_version"]) == (CAMPAIGN.key, 4, 1)
    assert share(places, CAMPAIGN) is False and share(places, other) is False
    activate(places, other.hero_id, other.campaign_id)
    with open_guild(places) as db:
        catch_up(db, places, other)  # what every round of a daemon does
    shared = read_json(places.curriculum_state)
    assert (shared["campaign"], shared["skills"]["bin"]["current_level"]) == (other.key, 9)
    places.curriculum_state.unlink()
    assert share(places, other) is True and read_json(places.curriculum_state)["skills"]["bin"]["current_level"] == 9


def test_without_campaigns_the_installation_keeps_the_state(tmp_path: Path) -> None:
    places = Places(tmp_path)
    set_mastered(places, "bin", 4, NO_CAMPAIGN)
    assert read_json(places.curriculum_state)["skills"]["bin"]["current_level"] == 4
    assert training_level(places, "bin") == 5


def test_a_damaged_document_is_named_with_every_fault(places: Places) -> None:
    write_json(state_path(places, CAMPAIGN), {"skills": {"bin": {"current_level": -1, "evidence": [{}]}, "sy": []}})
    with pytest.raises(DamagedFileError) as caught:
        read_state(places, CAMPAIGN)
    for part in ("skills.bin.current_level: found -1", "skills.bin.evidence", "skills.sy: found a list"):
        assert part in str(caught.value)


def test_an_operator_sets_a_level_and_evidence_begins_anew(places: Places) -> None:
    with open_guild(places) as db:
        register_evaluation(db, places, evaluation(1))
        assert set_mastered(places, "bin", 7, CAMPAIGN, reason="elsewhere").training_level == 8
        assert read_state(places, CAMPAIGN).standing("bin").evidence == ()
        assert catch_up(db, places, CAMPAIGN) == [] and level_ups(db) == []
    with pytest.raises(ConfigError, match="found 31; allowed: a whole number from 0"):
        set_mastered(places, "bin", 31, CAMPAIGN)
    with pytest.raises(UnknownSkillError, match="bim"):
        set_mastered(places, "bim", 1, CAMPAIGN)


def test_progress_needs_evidence_and_a_lowered_threshold_is_enough(places: Places) -> None:
    with open_guild(places) as db:
        for step in range(3):
            register_evaluation(db, places, evaluation(step, correct=12))
        with pytest.raises(RefusedError, match=r"stays at level 1\. The mean of the last 3 is 0\.600; 0\.8 is needed"):
            advance_now(db, places, "bin", CAMPAIGN)
        edit_skill(places, "bin", accuracy_thresholds={1: 0.5})
        assert advance_now(db, places, "bin", CAMPAIGN).mastered == 1
        assert len(level_ups(db)) == 1


def test_evaluations_that_were_stored_and_not_registered_are_caught_up_once(places: Places) -> None:
    with open_guild(places) as db:
        for step in (1, 2, 3):
            record_evaluation(db, places, evaluation(step))
        record_evaluation(db, places, evaluation(4, level=2))  # before level 2 began: it was not the training level then
        assert [one.advanced for one in catch_up(db, places, CAMPAIGN)] == [False, False, True]
        assert catch_up(db, places, CAMPAIGN) == []
        assert read_state(places, CAMPAIGN).standing("bin").evidence == ()
        assert len(level_ups(db)) == 1


def test_a_level_up_is_told_exactly_once_wherever_the_process_is_killed(places: Places) -> None:
    number, died = 0, True
    while died:
        number += 37
        assert number < 3000
        campaign = CampaignId("tiny", f"campaign-{number + 100}")  # a history that does not grow, so that the lines come to an end
        three = [evaluation(step).model_copy(update={"campaign_id": campaign.campaign_id}) for step in (1, 2, 3)]
        with open_guild(places) as db:
            for one in three[:2]:
                register_evaluation(db, places, one)
            before = len(level_ups(db))

        def work(third: Evaluation = three[2]) -> None:
            with open_guild(places) as db:
                register_evaluation(db, places, third)

        died = killed_at_line(number, ("curriculum/progress.py", "curriculum/state.py"), work)
        with open_guild(places) as db:
            register_evaluation(db, places, three[2])
            announce(db, places, campaign)
            assert read_state(places, campaign).standing("bin").mastered == 1
            assert len(level_ups(db)) == before + 1
    assert number > 50


def test_many_writers_lose_nothing(places: Places) -> None:
    def writer(first: int) -> None:
        with open_guild(places) as db:
            for step in range(first, first + 5):
                register_evaluation(db, places, evaluation(step, correct=0))

    in_processes([lambda first=first: writer(first) for first in (0, 3, 10)])  # type: ignore[misc]
    counted = read_state(places, CAMPAIGN).standing("bin").counted
    assert counted == {f"{CAMPAIGN.key}:{step}" for step in (*range(8), *range(10, 15))}


def test_history_is_bounded_and_nothing_is_written_without_a_change(places: Places) -> None:
    with open_guild(places) as db:
        for step in range(3):
            register_evaluation(db, places, evaluation(step, correct=0))
        with changing(places, CAMPAIGN) as document:
            old = document.entry("bin")["accuracy_history"]
            document.put("bin", document.standing("bin"), accuracy_history=[*old, *[{"step": 7}] * 97])
        register_evaluation(db, places, evaluation(120, correct=0))
        history = read_json(state_path(places, CAMPAIGN))["skills"]["bin"]["accuracy_history"]
        assert len(history) == 100 and history[0]["step"] == 1 and history[-1]["step"] == 120
        before = state_path(places, CAMPAIGN).stat().st_mtime_ns
        assert not register_evaluation(db, places, evaluation(0, correct=0)).counted  # forgotten by the history, not by the count
    with changing(places, CAMPAIGN) as document:
        assert document.skills == ("bin",)
    assert state_path(places, CAMPAIGN).stat().st_mtime_ns == before
