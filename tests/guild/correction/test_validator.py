"""Checking sparring files. (specs/guild.md 3.8, 6.4 step 4)"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from guild.correction.rows import CONFIRM, CORRECT, IDENTIFY, SessionMark, WrongAnswer, correction_rows
from guild.correction.validator import all_files, check_file, row_faults
from guild.places import Places
from guild.prompts import BASE_TEMPLATE
from guild.skills.contract import Sample
from helpers.guild_rows import write_rows

MARK = SessionMark("bin", 2, "checkpoint-5", "2026-03-04T12:00:00Z")


def triple() -> list[dict[str, Any]]:
    return correction_rows(WrongAnswer(Sample("a", "1 + 1", "10"), "11"), Sample("b", "1 + 0", "1"), MARK)


def test_rows_that_we_write_are_valid() -> None:
    assert [row_faults(row) for row in triple()] == [[], [], []]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "sparring_other"), ("type", None), ("skill", " "), ("level", 0), ("level", True), ("level", "2"),
        ("generator_id", "bin_api"),
        ("generator_version", "0.9.0"), ("session_checkpoint", ""), ("session_checkpoint", None), ("session_timestamp", "yesterday"),
        ("session_timestamp", 5), ("messages", []), ("messages", [{"role": "user", "content": "x"}]),
    ],
)  # fmt: skip
def test_a_wrong_or_missing_field_is_named(at: int, name: str, value: Any) -> None:
    row = triple()[at]
    for changed in ({**row, name: value}, {key: kept for key, kept in row.items() if key != name}):
        faults = row_faults(changed)
        assert len(faults) == 1 and faults[0].startswith(name) and "allowed" in faults[0]


def test_all_faults_of_a_row_are_named() -> None:
    assert len(row_faults({**triple()[0], "type": "x", "level": 0, "skill": ""})) == 3
    assert row_faults([1]) == ["row: found a list, [1]; allowed: an object with the column 'messages'"]


@pytest.mark.parametrize(
    ("at", "answer"), [(0, "It is correct."), (0, "It is incorrect"), (1, "It is correct."), (1, " "), (2, "It is incorrect."), (2, "yes")]
)
def test_the_answer_must_be_the_one_of_its_type(at: int, answer: str) -> None:
    row = copy.deepcopy(triple()[at])
    row["messages"][1]["content"] = answer
    assert len(row_faults(row)) == 1 and row["type"] in row_faults(row)[0]


def test_turns_other_than_question_and_answer_are_wrong_but_the_base_prompt_may_stand() -> None:
    row = triple()[0]
    system = {"role": "system", "content": BASE_TEMPLATE.format(date="2025-11-20")}
    assert row_faults({**row, "messages": [system, *row["messages"]]}) == []
    other = {"role": "system", "content": "You are an assistant."}
    assert "another system prompt" in row_faults({**row, "messages": [other, *row["messages"]]})[0]
    assert "the turns" in row_faults({**row, "messages": row["messages"] * 2})[0]


@pytest.mark.parametrize(("bad", "passes", "strictly"), [(0, True, True), (1, True, False), (3, True, False), (4, False, False)])
def test_ninety_five_of_a_hundred_pass_and_strict_wants_all(tmp_path: Path, bad: int, passes: bool, strictly: bool) -> None:
    rows = triple() * 20
    path = write_rows(tmp_path / "sparring_a.jsonl", [*rows[bad:], *[b"{"] * bad])
    report = check_file(path)
    assert (report.rows, report.valid, report.passed) == (60, 60 - bad, passes)
    assert check_file(path, strict=True).passed is strictly
    assert len(report.faults) == bad and all("line" in fault for fault in report.faults)


def test_a_file_without_rows_does_not_pass_and_unequal_types_are_told(tmp_path: Path) -> None:
    empty = check_file(write_rows(tmp_path / "a.jsonl", ["", "  "]))
    assert not empty.passed and empty.share == 0
    uneven = check_file(write_rows(tmp_path / "b.jsonl", triple()[:2]))
    assert uneven.passed and uneven.warnings == [
        f"b.jsonl: found 1 {IDENTIFY}, 1 {CORRECT}, 0 {CONFIRM}; a session writes as many of each."
    ]
    many = check_file(write_rows(tmp_path / "c.jsonl", [b"{"] * 50))
    assert (many.rows, many.valid, len(many.faults)) == (50, 0, 20)


def test_all_files_are_those_kept_and_those_waiting(tmp_path: Path) -> None:
    places = Places(tmp_path)
    for number, folder in enumerate((places.sparring_data, places.inbox, places.level("low"), places.recently_completed)):
        folder.mkdir(parents=True)
        write_rows(folder / "sparring_a.jsonl", triple() * (number + 1))
        write_rows(folder / "train_b.jsonl", triple())
    assert [path.parent for path in all_files(places)] == [places.sparring_data, places.inbox, places.level("low")]
