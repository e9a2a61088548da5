"""`python -m guild.curriculum_manager`. (specs/guild.md 2.4, 6.3; item 33)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guild import curriculum_manager
from guild.places import Places
from helpers.guild_curriculum import edit_skill, make_curriculum_house
from helpers.guild_house import command, new_campaign

MODULE = "guild.curriculum_manager"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_curriculum_house(tmp_path / "house")


def test_item_33_three_records_advance_and_another_process_sees_it(places: Places) -> None:
    for step, code, words in (
        (100, 0, "It counts."),
        (100, 1, "has counted already"),
        (200, 0, "It counts."),
        (300, 0, "Level 1 is mastered;"),
    ):
        done = command(places, MODULE, "record", "binary", "--step", str(step), "--correct", "17", "--total", "20")
        assert done.returncode == code and words in done.stdout, (step, done)
    status = command(places, MODULE, "status", "--json")
    bin = json.loads(status.stdout)["skills"]["bin"]
    assert (bin["mastered"], bin["training_level"], bin["evaluations"], bin["threshold"]) == (1, 2, 0, 0.8)


def run(places: Places, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = curriculum_manager.main(["--base-dir", str(places.base), *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_check_and_progress_say_what_is_missing(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(places, capsys, "check", "bin")[:2] == (
        1, "bin at level 1: not ready. 0 of 3 evaluations on different checkpoints are there.\n",
    )  # fmt: skip
    for step in ("1", "2", "3"):
        run(places, capsys, "record", "bin", "--step", step, "--correct", "12", "--total", "20")
    code, _, error = run(places, capsys, "progress", "bin")
    assert code == 1 and "The mean of the last 3 is 0.600; 0.8 is needed." in error
    assert "mean accuracy 0.600 (95 % interval 0.474 to 0.714)" in run(places, capsys, "status", "bin")[1]
    edit_skill(places, "bin", level_progression={"min_evals": 3, "threshold": 0.5})
    edit_skill(places, "bin", accuracy_thresholds={})
    assert run(places, capsys, "check", "bin")[0] == 0
    assert run(places, capsys, "progress", "bin")[:2] == (0, "Level 1 is mastered; bin trains at level 2.\n")


def test_levels_are_set_and_given_up_only_with_a_word(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(places, capsys, "set-level", "bin", "6", "--reason", "elsewhere")[:2] == (0, "bin: mastered 6; it trains at level 7.\n")
    code, _, error = run(places, capsys, "reset", "bin")
    assert code == 1 and "--yes" in error
    assert run(places, capsys, "reset", "bin", "--yes")[0] == 0
    assert run(places, capsys, "set-level", "bin", "31")[0] == 2
    code, _, error = run(places, capsys, "status", "bim")
    assert code == 1 and "Did you mean 'bin'?" in error


def test_every_campaign_has_levels_of_its_own(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    run(places, capsys, "set-level", "bin", "6")
    new_campaign(places, "Second")
    assert "bin: mastered 0" in run(places, capsys, "status")[1]
    assert "bin: mastered 6" in run(places, capsys, "status", "--campaign", "tiny", "campaign-001")[1]


def test_wrong_numbers_are_named_at_once(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(places, capsys, "record", "bin", "--step", "-1", "--correct", "30", "--total", "20")
    assert code == 2 and "--step: found -1" in error and "--correct: found 30" in error


def test_gen_params_say_what_comes_next(places: Places, capsys: pytest.CaptureFixture[str]) -> None:
    run(places, capsys, "set-level", "bin", "3")
    params = json.loads(run(places, capsys, "gen-params", "--json")[1])
    assert {name: params[name] for name in ("preset", "skill", "level", "count", "priority", "number", "address")} == {
        "preset": "bin_only", "skill": "bin", "level": 4, "count": 40, "priority": "normal", "number": 1, "address": "in this process",
    }  # fmt: skip
