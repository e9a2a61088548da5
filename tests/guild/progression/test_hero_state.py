"""The hero's state is a fold over the records. (specs/guild.md 2.3.5)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guild.curriculum.progress import register_evaluation
from guild.places import Places
from guild.progression.hero_state import export_hero_state, hero_state
from guild.progression.history import history, results_of
from guild.records import events
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from guild.records.evaluation_records import Evaluation, new_evaluation
from guild.records.evaluations import record_evaluation
from helpers.guild_house import make_house
from helpers.guild_sparring import trained_to
from modelwright.database import Database
from modelwright.files import read_json, write_json

TINY = CampaignId("tiny", "campaign-001")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_house(tmp_path / "guild")


def evaluation(step: int, marks: str, *, skill: str = "bin", level: int = 1, problems: bool = True) -> Evaluation:
    """marks: `!` exact, `+` right, `~` half right, `-` wrong with credit, `0` wrong, `?` no result."""
    told: list[dict[str, Any]] = []
    partial = {"!": 1.0, "+": 1.0, "~": 0.5, "-": 0.1, "0": 0.0}
    for at, mark in enumerate(marks):
        right = mark in "!+"
        reply = f"answer {at}" if mark == "!" else f"said {at}"
        told.append({"expected": f"answer {at}", "reply": reply, "correct": right, "partial": partial.get(mark)})
        if mark == "?":
            told[-1] |= {"reply": None, "correct": None}
    total = sum(mark != "?" for mark in marks)
    correct = sum(mark in "!+" for mark in marks)
    return new_evaluation(
        TINY,
        step,
        skill,
        level,
        correct=correct,
        total=total,
        timestamp=f"2026-01-01T00:00:{step % 60:02d}Z",
        problems=told if problems else (),
    )


def test_answers_become_results_and_questions_without_result_do_not_count() -> None:
    assert results_of(evaluation(1, "!+~-0?")) == ("crit", "hit", "glancing", "miss", "crit_miss")
    assert results_of(evaluation(1, "0+-", problems=False)) == ("hit", "crit_miss", "crit_miss")


def test_experience_follows_the_closed_form(places: Places) -> None:
    with open_guild(places) as db:
        record_evaluation(db, places, evaluation(100, "+++0!", level=2))
        found = hero_state(db, places, TINY)
    skill = found["skills"]["bin"]
    assert skill["xp"] == round(1.2 * 1.1 * (10 * (1 + 1.05 + 1.10) + 0 + 15), 2)  # 1.2: xp_multiplier of bin
    assert (skill["streak"], skill["best_streak"], skill["answers"], skill["accuracy"]) == (1, 3, 5, 0.8)
    assert skill["results"] == {"crit": 1, "hit": 3, "glancing": 0, "miss": 0, "crit_miss": 1}
    assert (skill["level"], skill["xp_to_next_level"]) == (1, round(100 - skill["xp"], 2))


def test_an_evaluation_earns_what_its_quest_template_is_worth(places: Places) -> None:
    common = "name: A, generator_id: g, evaluator_id: e"
    (places.base / "configs" / "quests.yaml").write_text(
        f"templates:\n  - {{id: a, skills: [binary], difficulty_level: 6, params: {{level: 2}}, base_xp: 30, {common}}}\n"
    )
    with open_guild(places) as db:
        record_evaluation(db, places, evaluation(100, "+~", level=2))
        record_evaluation(db, places, evaluation(100, "0+", level=3))
        found = hero_state(db, places, TINY)["skills"]["bin"]
    assert found["xp"] == round(30 * 1.7 + 15 * 1.7 + 12 * 1.2, 2)


def test_steps_are_the_heros_experience(places: Places) -> None:
    with open_guild(places) as db:
        assert (hero_state(db, places, TINY)["xp"], hero_state(db, places, TINY)["skills"]) == (0, {})
        trained_to(db, places, 2500, TINY)
        found = hero_state(db, places, TINY)
    assert (found["steps"], found["xp"], found["level"]) == (2500, 2500, 2)


def test_effects_change_what_is_earned_after_them(places: Places) -> None:
    with open_guild(places) as db:
        record_evaluation(db, places, evaluation(10, "00000"))
        record_evaluation(db, places, evaluation(20, "+"))
        record_evaluation(db, places, evaluation(600, "+", skill="sy"))
        found = hero_state(db, places, TINY)
    assert found["skills"]["bin"]["xp"] == 9.6 and found["skills"]["sy"]["xp"] == 10.0
    assert found["effect_history"] == [{"name": "confusion", "began": True, "step": 10}, {"name": "confusion", "began": False, "step": 510}]
    assert found["effects"] == []


def test_mastering_a_level_is_seen_in_the_curriculum(places: Places) -> None:
    with open_guild(places) as db:
        for step in (10, 20, 30):
            one = evaluation(step, "+" * 20)
            record_evaluation(db, places, one)
            register_evaluation(db, places, one)
        levelled = [seen.observation.step for seen in history(db, places, TINY) if seen.observation.level_up]
        found = hero_state(db, places, TINY)
    assert levelled == [30] and [one["name"] for one in found["effects"]] == ["momentum", "insight"]


def test_a_loss_that_was_no_number_blocks_until_the_next_good_checkpoint(places: Places) -> None:
    with open_guild(places) as db:
        for data in ({"error_type": "non_finite_loss", "step": 40}, {"error_type": "other", "step": 50}):
            events.record(db, "training.failed", "it failed", source="trainer", severity="error", data=data)
        other = {"error_type": "non_finite_loss", "step": 60, "campaign": "tiny/campaign-002"}
        events.record(db, "training.failed", "it failed", source="trainer", severity="error", data=other)
        assert hero_state(db, places, TINY)["blocks_training"] == ["reality_tear"]
        trained_to(db, places, 41, TINY, train_loss=1.0)
        assert hero_state(db, places, TINY)["blocks_training"] == []


def test_the_order_of_recording_does_not_matter(tmp_path: Path) -> None:
    made = [evaluation(step, "+0!~" * 5, skill=skill) for step in (30, 10, 20) for skill in ("bin", "sy")]

    def earned(base: Path, order: list[Evaluation]) -> Any:
        places = make_house(base)
        with open_guild(places) as db:
            for one in order:
                record_evaluation(db, places, one)
            return hero_state(db, places, TINY)["skills"]

    assert earned(tmp_path / "a", made) == earned(tmp_path / "b", made[::-1])


def test_the_document_is_an_export_that_keeps_what_others_wrote(places: Places) -> None:
    path = places.status / "hero_state.json"
    write_json(path, {"xp": 7, "portrait": "dio.png"})
    with open_guild(places) as db:
        trained_to(db, places, 1000, TINY)
        for _ in range(2):
            assert export_hero_state(db, places) == path
    found = read_json(path)
    assert (found["schema_version"], found["xp"], found["portrait"], found["campaign_id"]) == (1, 1000, "dio.png", "campaign-001")
    assert read_json(places.status / "hero_state.json.original") == {"xp": 7, "portrait": "dio.png"}


def record_many(db: Database, places: Places, count: int) -> None:
    from guild.records.evaluations import store_evaluation

    for step in range(count):
        store_evaluation(db, evaluation(step, "+-!0~" * 4))


def test_a_long_history_is_read_whole(places: Places) -> None:
    with open_guild(places) as db:
        record_many(db, places, 60)
        assert hero_state(db, places, TINY)["skills"]["bin"]["answers"] == 1200
