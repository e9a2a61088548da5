"""Baselines as documents and what training changed between two of them. (specs/guild.md 2.7, 3.7, 4.7; acceptance item 46)"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guild.errors import RefusedError
from guild.evaluation.baselines import MODES, baseline_path, check_tag, partial_path, read_baseline, tags
from guild.evaluation.comparison import skill_metrics
from guild.evaluation.questions import row_questions
from guild.evaluation.sets import make_sets
from guild.evaluation.stored_sets import OF_SKILLS, read_set
from guild.evaluation.transfer import Plan, UnfinishedError, chosen_mode, local_step, model_tag, run_baseline
from guild.places import Places
from helpers.guild_evaluation import Knowing
from modelwright.errors import MissingFileError, UsageError
from modelwright.files import read_json, write_json


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """All validation sets, which every test here begins with."""
    places = Places(tmp_path_factory.mktemp("sets"))
    make_sets(places)
    return places


@pytest.fixture(scope="module")
def table(prepared: Places) -> dict[str, str]:
    rows = [row for name in MODES["both"] for rows in read_set(prepared, name).values() for row in rows]
    return {question.prompt: question.expected for question in row_questions(rows, {})}


@pytest.fixture
def places(prepared: Places, tmp_path: Path) -> Places:
    found = Places(tmp_path)
    shutil.copytree(prepared.validation_data, found.validation_data)
    return found


def test_item_46_a_baseline_has_the_fields_of_the_specification(table: dict[str, str], places: Places) -> None:
    count = iter(range(10**6))
    half = Knowing(table, lambda answer: answer if next(count) % 2 else "I do not know")
    path = run_baseline(places, Plan("base_x", samples=4), half)
    found = read_baseline(path)
    assert found is not None
    assert path == places.baselines / "baseline_base_x.json"
    assert {"tag", "timestamp", "samples_per_skill", "skills", "summary", "schema_version"} <= set(found)
    assert (found["tag"], found["samples_per_skill"], found["complete"], len(found["skills"])) == ("base_x", 4, True, 60)
    for name, one in found["skills"].items():
        assert {"skill", "total", "correct", "errors", "accuracy", "avg_time"} <= set(one)
        assert (one["skill"], one["total"], one["correct"], one["accuracy"], len(one["errors"])) == (name, 4, 2, 0.5, 2)
    nothing = {"count": 0, "avg_accuracy": None}
    assert found["summary"] == {
        "primitives": {"count": 40, "avg_accuracy": 0.5}, "babi": {"count": 20, "avg_accuracy": 0.5},
        "binary": nothing, "syllo_10level": nothing,
    }  # fmt: skip


def test_item_46_skill_metrics_show_the_improvement(table: dict[str, str], places: Places) -> None:
    with pytest.raises(MissingFileError):
        skill_metrics(places, base="base_x")
    assert skill_metrics(places)["skills"] == {}
    run_baseline(places, Plan("base_x", "primitives", samples=3), Knowing(table, lambda answer: "?"))
    run_baseline(places, Plan("trained_100", samples=3), Knowing(table))
    found = skill_metrics(places)
    assert (found["base_model"], found["trained_model"]) == ("base_x", "trained_100")
    assert found["available_versions"] == ["base_x", "trained_100"]
    assert found["skills"]["addition"] == {"base": 0.0, "trained": 1.0, "improvement": 1.0, "category": "primitives"}
    assert found["skills"]["one_fact"] == {"base": None, "trained": 1.0, "improvement": None, "category": "benchmarks"}
    assert found["summary"] == {
        "trained": "trained_100",
        "primitives": {"base_avg": 0.0, "trained_avg": 1.0, "delta": 1.0, "count": 40},
        **{name: {"base_avg": None, "trained_avg": None, "delta": None, "count": 0} for name in ("benchmarks", *OF_SKILLS)},
    }
    assert found["warnings"] == []


def test_a_run_that_is_interrupted_is_saved_and_goes_on(table: dict[str, str], places: Places) -> None:
    who = Knowing(table)
    with pytest.raises(UnfinishedError, match="10 of 40 kinds are saved"):
        run_baseline(places, Plan("base_x", "primitives", 2), who, stop=lambda: len(who.asked) >= 20)
    found = read_baseline(baseline_path(places, "base_x"))
    assert found is not None
    assert (found["complete"], len(found["skills"])) == (False, 10)
    run_baseline(places, Plan("base_x", "primitives", 2), who)
    assert len(who.asked) == 80  # nothing was asked twice
    run_baseline(places, Plan("base_x", "benchmarks", 2), who)  # the other mode joins it
    found = read_baseline(baseline_path(places, "base_x"))
    assert found is not None
    assert (found["complete"], len(found["skills"]), len(who.asked)) == (True, 60, 120)


def test_a_complete_baseline_is_replaced_by_a_complete_one_alone(table: dict[str, str], places: Places) -> None:
    good = Knowing(table)
    path = run_baseline(places, Plan("base_x", "primitives", 2), good)
    before = path.read_bytes()
    dying = Knowing(table, lambda answer: answer if len(dying.asked) < 31 else None, model="another")
    with pytest.raises(UnfinishedError, match="had no result"):
        run_baseline(places, Plan("base_x", "primitives", 2), dying)
    assert path.read_bytes() == before
    partial = read_baseline(partial_path(places, "base_x"))
    assert partial is not None
    assert (partial["complete"], len(partial["skills"])) == (False, 15)
    assert tags(places) == ["base_x"]
    dying.reply = lambda answer: "?"
    run_baseline(places, Plan("base_x", "primitives", 2), dying)
    found = read_baseline(path)
    assert found is not None
    assert found["settings"]["model"] == "another"
    assert not partial_path(places, "base_x").exists()
    assert [name for name, one in found["skills"].items() if one["accuracy"] == 1.0] == list(partial["skills"])


def test_item_46_measuring_one_mode_again_keeps_the_results_of_the_other(table: dict[str, str], places: Places) -> None:
    who = Knowing(table)
    path = run_baseline(places, Plan("base_x", samples=2), who)
    assert len(who.asked) == 120
    failing = Knowing(table, lambda answer: "?" if len(failing.asked) < 21 else None)
    with pytest.raises(UnfinishedError, match="10 of 40 kinds are saved"):
        run_baseline(places, Plan("base_x", "primitives", 2), failing)
    assert (read_baseline(path) or {})["summary"]["primitives"]["avg_accuracy"] == 1.0  # what stood still stands
    run_baseline(places, Plan("base_x", "benchmarks", 2), Knowing(table, lambda answer: "?"))  # and the other mode goes on from there
    found = read_baseline(path)
    assert found is not None
    assert (found["complete"], len(found["skills"]), partial_path(places, "base_x").exists()) == (True, 60, False)
    assert (found["summary"]["babi"]["avg_accuracy"], found["summary"]["primitives"]["avg_accuracy"]) == (0.0, 0.75)
    run_baseline(places, Plan("base_x", "primitives", 2), Knowing(table))
    found = read_baseline(path)
    assert found is not None
    assert found["summary"]["primitives"] == {"count": 40, "avg_accuracy": 1.0}
    assert found["summary"]["babi"] == {"count": 20, "avg_accuracy": 0.0}


def test_other_settings_never_drop_a_category(table: dict[str, str], places: Places) -> None:
    other = Knowing(table, model="another")
    path = run_baseline(places, Plan("base_x", samples=2), Knowing(table))
    before = path.read_bytes()
    refused = r"found base_x, whose 20 results of benchmarks were measured with other settings \(model, samples\) and would be lost"
    with pytest.raises(RefusedError, match=refused):
        run_baseline(places, Plan("base_x", "primitives", 3), other)
    assert other.asked == [] and path.read_bytes() == before  # before hours of asking
    run_baseline(places, Plan("base_x", samples=3), other)
    found = read_baseline(path)
    assert found is not None
    assert (found["settings"]["model"], len(found["skills"])) == ("another", 60)
    original = {"tag": "base_y", "timestamp": "2025-11-01T00:00:00", "skills": {"syllogism": {"skill": "syllogism", "accuracy": 0.5}}}
    write_json(baseline_path(places, "base_y"), original)
    with pytest.raises(RefusedError, match="1 results of no category"):
        run_baseline(places, Plan("base_y", samples=2), other)
    assert read_json(baseline_path(places, "base_y")) == original


def test_item_46_problems_of_the_skills_are_measured_by_difficulty_and_level(places: Places) -> None:
    rows = [row for name in OF_SKILLS for rows in read_set(places, name).values() for row in rows]
    golden = {row.user_prompt: row.expected_answer for row in rows}
    run_baseline(places, Plan("base_x", "skills", samples=2), Knowing(golden, lambda answer: "?"))
    trained = read_baseline(run_baseline(places, Plan("trained_9", "skills", samples=2), Knowing(golden)))
    assert trained is not None
    levels = [f"syllo_10level/level_{level:02d}" for level in range(1, 11)]
    assert list(trained["skills"]) == ["binary/easy", "binary/hard", "binary/medium", *levels]
    assert trained["summary"]["syllo_10level"] == {"count": 10, "avg_accuracy": 1.0}
    assert trained["summary"]["primitives"] == {"count": 0, "avg_accuracy": None}
    found = skill_metrics(places)
    assert found["skills"]["syllo_10level/level_04"] == {"base": 0.0, "trained": 1.0, "improvement": 1.0, "category": "syllo_10level"}
    assert found["summary"]["binary"] == {"base_avg": 0.0, "trained_avg": 1.0, "delta": 1.0, "count": 3}


def test_nothing_is_written_when_nothing_was_measured(table: dict[str, str], places: Places) -> None:
    with pytest.raises(UnfinishedError, match="Nothing was written"):
        run_baseline(places, Plan("base_x", samples=2), Knowing(table, lambda answer: None))
    assert not places.baselines.exists() or list(places.baselines.iterdir()) == []


def test_tags_modes_and_steps(tmp_path: Path) -> None:
    assert check_tag("trained_5000") == "trained_5000"
    for bad in ("", "../x", "a/b", ".x", "x.partial", "a b"):
        with pytest.raises(UsageError, match="--tag"):
            check_tag(bad)
    assert chosen_mode(None, False, False) == "both"
    assert chosen_mode("both", False, False) == "both"
    assert chosen_mode(None, True, False) == "primitives"
    assert chosen_mode("benchmarks", False, True) == "benchmarks"
    for flags in ((None, True, True), ("both", True, False), ("primitives", False, True)):
        with pytest.raises(UsageError, match="one of them"):
            chosen_mode(*flags)  # type: ignore[arg-type]
    assert model_tag(7, "m") == "trained_7"
    with pytest.raises(UsageError, match="base_"):
        model_tag(None, "m")
    named = tmp_path / "checkpoint-1200-20260101-0900"
    named.mkdir()
    (tmp_path / "trainer_state.json").write_text('{"global_step": 9}')
    assert (local_step(str(named)), local_step(str(tmp_path)), local_step("modelwright/tiny-0.4m")) == (1200, 9, None)
