"""The flags of the context benchmark become the demo's recipe; the run itself is tested end to end elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.context.run import main, parse, recipe_from, refused_rung, rows_of

from modelwright.files import write_json
from scaler_wizard.demo import Recipe


def test_the_defaults_reach_sixteen_windows_with_steps_for_every_rung() -> None:
    recipe = recipe_from(parse([]))
    assert recipe.base_model == "modelwright/tiny-5m"
    assert recipe.target == 16 * recipe.base_context
    assert [length for length, _ in recipe.rung_steps] == [512, 1024, 2048, 4096, 8192]


def test_pieces_of_source_grow_with_the_target() -> None:
    assert recipe_from(parse([])).piece_characters == 4 * Recipe().piece_characters


def test_one_number_of_steps_is_for_every_rung() -> None:
    assert recipe_from(parse(["--schedule", "1024,2048", "--steps", "5"])).steps == (5, 5, 5)


def test_a_wrong_number_of_steps_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schedule", "1024,2048", "--steps", "5,6"]) == 2
    assert "found 2 numbers for 3 rungs" in capsys.readouterr().err


def test_unknown_flags_go_to_the_command() -> None:
    assert parse(["--lora-rank", "32", "--steps", "5"]).extra == ["--lora-rank", "32"]


def test_rows_hold_before_and_after_by_length() -> None:
    state = {"perplexity": {"512": 5.0, "1024": None}, "scores": {"passkey": {"512": 1.0}}, "details": []}
    after = {**state, "details": [{"name": "passkey", "length": 512, "n": 20, "ci_low": 0.8, "ci_high": 1.0}]}
    rows = rows_of({"base_context": 512, "preflight": state, "final": after})
    assert [row["times"] for row in rows] == [1.0, 2.0]
    assert rows[0]["trials"] == 20 and rows[0]["passkey_after_95"] == [0.8, 1.0]
    assert rows[1]["perplexity_before"] is None and rows[1]["passkey_after"] is None


def test_the_rung_that_was_not_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "evaluations").mkdir()
    found = {"sliding_ppl/1024": {"perplexity": 9.0}, "passkey/1024": {"mean": 0.5, "n": 20}, "passkey/512": {"mean": 1.0, "n": 20}}
    write_json(tmp_path / "evaluations" / "rung_1024.json", found)
    write_json(tmp_path / "evaluations" / "rung_512.json", {})
    assert refused_rung(tmp_path, 512) == {"length": 1024, "perplexity": 9.0, "passkey": 0.5, "trials": 20}
    assert refused_rung(tmp_path, 1024) is None
