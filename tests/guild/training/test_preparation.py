"""A file to rows: order, hold-out, the base prompt, what is mended and what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from guild.prompts import BASE_PROMPT, dated_prompt
from guild.training.preparation import DatasetPreparer, ProfileRuleError
from guild.training.profiles import get_profile, profile_names
from guild.training.profiles.none import NoProfile
from modelwright.errors import LoadError, MissingFileError

DAY = date(2026, 1, 2)


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def _chat(number: int, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"(add {number} 1)"}, {"role": "assistant", "content": f"{number + 1}"}]
    return {"messages": turns, "number": number, **more}


@pytest.mark.parametrize("profile", profile_names())
@pytest.mark.parametrize("system", [None, "You are a pirate.", BASE_PROMPT, f"Today is 2020-05-05. {BASE_PROMPT}"])
@pytest.mark.parametrize("argument", ["", "Be brief.", f"Today is 2019-09-09. {BASE_PROMPT} Be brief."])
def test_item_19_every_row_carries_the_dated_base_prompt_exactly_once(
    tmp_path: Path, profile: str, system: str | None, argument: str
) -> None:
    rows = [_chat(n) for n in range(40)]
    if system is not None:
        rows = [{**row, "messages": [{"role": "system", "content": system}, *row["messages"]]} for row in rows]
    made = DatasetPreparer(get_profile(profile), DAY, system_prompt=argument).prepare(_write(tmp_path / "a.jsonl", rows))
    for row in (*made.training, *made.validation):
        systems = [m["content"] for m in row["messages"] if m["role"] == "system"]
        assert len(systems) == 1 and row["messages"][0]["role"] == "system"
        assert systems[0].count(dated_prompt(DAY)) == systems[0].count(BASE_PROMPT) == 1
        assert "pirate" not in systems[0] and "2020" not in systems[0] and "2019" not in systems[0]
        assert ("Be brief." in systems[0]) is (profile == "none" and bool(argument))
    assert made.report.prompt_date == "2026-01-02"
    assert made.report.system_prompt.startswith(dated_prompt(DAY))


@pytest.mark.parametrize(("rows", "held"), [(1, 0), (19, 0), (20, 1), (100, 5), (3000, 100)])
def test_the_smaller_of_a_hundred_and_five_percent_is_held_out(tmp_path: Path, rows: int, held: int) -> None:
    made = DatasetPreparer(get_profile("none"), DAY).prepare(_write(tmp_path / "a.jsonl", [_chat(n) for n in range(rows)]))
    assert (len(made.validation), len(made.training)) == (held, rows - held)
    numbers = [row["number"] for row in (*made.training, *made.validation)]
    assert sorted(numbers) == list(range(rows))
    assert all(row["index"] == row["number"] for row in made.training)


def test_the_order_is_the_seeds_and_every_read_gives_the_same(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", [_chat(n) for n in range(200)])
    preparer = DatasetPreparer(get_profile("emoji_think"), DAY)
    first, second = preparer.prepare(path), preparer.prepare(path)
    assert list(first.training) == list(first.training) == list(second.training)
    assert [first.training[at] for at in (0, 7, -1)] == [list(first.training)[at] for at in (0, 7, -1)]
    numbers = [row["number"] for row in first.training]
    assert numbers != sorted(numbers)
    assert numbers != [row["number"] for row in replace(preparer, seed=1).prepare(path).training]


def test_contents_that_are_no_text_are_mended_and_bad_lines_are_counted(tmp_path: Path) -> None:
    user = {"role": "user", "content": "(add 1 1)"}
    rows: list[Any] = [
        {"messages": [user, {"role": "assistant", "content": 2}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "(add"}, {"type": "text", "text": "1 1)"}]},
                {"role": "assistant", "content": "2"},
            ]
        },
        {"messages": [{"role": "system", "content": None}, user, {"role": "assistant", "content": {"answer": 2}}]},
        '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": NaN}]}',
        '{"messages": [{"role": "user"',
        "",
        "[1, 2]",
        {"messages": []},
        {"messages": [user]},
        {"messages": [user, {"role": "robot", "content": "2"}]},
        {"other": 1},
    ]
    made = DatasetPreparer(get_profile("none"), DAY).prepare(_write(tmp_path / "a.jsonl", rows))
    answers = {row["index"]: row["messages"][-1]["content"] for row in made.training}
    assert answers == {0: "2", 1: "2", 2: '{"answer": 2}'}
    assert made.training[list(answers).index(1)]["messages"][1]["content"] == "(add\n1 1)"
    assert (made.report.lines, made.report.rows, made.report.mended) == (10, 3, 4)
    assert made.report.left_out == {
        "an empty assistant turn": 1,
        "no JSON": 1,
        "no JSON object": 1,
        "messages is not a list with turns": 1,
        "no user or no assistant turn": 1,
        "a turn whose role is none of system, user, assistant": 1,
        "neither messages nor a text": 1,
    }
    assert made.report.examples[0] == "a.jsonl line 4: found an empty assistant turn; the row is left out."
    assert len(made.report.examples) == 5
    json.dumps(made.report.as_dict())


def test_a_file_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    preparer = DatasetPreparer(get_profile("none"), DAY)
    with pytest.raises(LoadError, match="no row can be trained \\(2 with no JSON\\)"):
        preparer.prepare(_write(tmp_path / "a.jsonl", ["{", "["]))
    with pytest.raises(LoadError, match="it has no lines"):
        preparer.prepare(_write(tmp_path / "b.jsonl", []))
    with pytest.raises(MissingFileError):
        preparer.prepare(tmp_path / "c.jsonl")


def test_rows_that_do_not_fit_the_profile_are_left_out_and_named(tmp_path: Path) -> None:
    wrong = {"messages": [{"role": "user", "content": "add one and one"}, {"role": "assistant", "content": "2"}]}
    made = DatasetPreparer(get_profile("regime3"), DAY).prepare(_write(tmp_path / "a.jsonl", [_chat(1), wrong]))
    assert made.report.left_out == {"the last user turn holds no task of the form (op arg1 arg2)": 1}


def test_a_row_of_text_gets_the_prompt_as_its_preface(tmp_path: Path) -> None:
    made = DatasetPreparer(get_profile("none"), DAY).prepare(_write(tmp_path / "a.jsonl", [{"text": "once upon a time"}]))
    assert made.training[0] == {"text": "once upon a time", "preface": dated_prompt(DAY), "index": 0}


class _Forgetful(NoProfile):
    def transform_example(self, example: Any, index: int, system_prompt: str) -> dict[str, Any]:
        return {"messages": [m for m in example["messages"] if m["role"] != "system"]}


class _Doubling(NoProfile):
    def transform_example(self, example: Any, index: int, system_prompt: str) -> dict[str, Any]:
        head, *rest = example["messages"]
        return {"messages": [{**head, "content": head["content"] * 2}, *rest]}


@pytest.mark.parametrize("profile", [_Forgetful(), _Doubling()])
def test_a_profile_that_loses_or_doubles_the_base_prompt_is_stopped(tmp_path: Path, profile: NoProfile) -> None:
    made = DatasetPreparer(profile, DAY).prepare(_write(tmp_path / "a.jsonl", [_chat(1)]))
    with pytest.raises(ProfileRuleError, match="exactly once"):
        list(made.training)
