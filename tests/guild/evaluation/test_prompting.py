"""Evaluation asks under the prompt of training, and takes off what a profile adds. (specs/guild.md 5.4, acceptance item 19)"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from guild.errors import UnknownProfileError
from guild.evaluation.prompting import bare_answer, profile_prompt, prompt_day
from guild.prompts import dated_prompt
from guild.training.preparation import DatasetPreparer
from guild.training.profiles import get_profile, profile_names
from modelwright.checkpoints import CheckpointStore

DAY = date(2026, 3, 4)


@pytest.mark.parametrize("name", profile_names())
def test_item_19_evaluation_has_the_system_prompt_of_the_training_rows(name: str) -> None:
    profile = get_profile(name)
    row = DatasetPreparer(profile, DAY).transform({"messages": [
        {"role": "user", "content": "(add 1 2)"}, {"role": "assistant", "content": "3"},
    ]}, 0)  # fmt: skip
    prompt = profile_prompt(profile, DAY)
    assert row["messages"][0] == {"role": "system", "content": prompt}
    assert prompt.count(dated_prompt(DAY)) == 1


def test_the_day_is_the_one_that_the_checkpoint_was_trained_with(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("checkpoint-5", lambda folder: (folder / "a").write_text("a") and None, step=5, metadata={"prompt_date": "2025-12-31"})
    store.save("checkpoint-6", lambda folder: (folder / "a").write_text("a") and None, step=6, metadata={})
    assert prompt_day(tmp_path / "checkpoint-5", DAY) == date(2025, 12, 31)
    assert prompt_day(tmp_path / "checkpoint-6", DAY) == DAY
    assert prompt_day(tmp_path / "no-checkpoint", DAY) == DAY


@pytest.mark.parametrize(
    ("profile", "reply", "bare"),
    [
        ("none", "<<ANS_START>> 7 <<ANS_END>>", "<<ANS_START>> 7 <<ANS_END>>"),
        ("regime3", "<<ANS_START>> 7 <<ANS_END>>", "7"),
        ("regime3", "It is <<ANS_START>> 7 <<ANS_END>> I think", "7"),
        ("regime3", "7", "7"),
        ("regime3", "<<ANS_END>> 7 <<ANS_START>>", "<<ANS_END>> 7 <<ANS_START>>"),
        ("regime3", "<<ANS_START>> 7 <<ANS_START>> 8 <<ANS_END>>", "<<ANS_START>> 7 <<ANS_START>> 8 <<ANS_END>>"),
        ("emoji_think", "🤔🤔🤔\nadd(①) = ①🛑🛑", "add(①) = ①"),
        ("emoji_think", "add(①) = ①", "add(①) = ①"),
        ("emoji_think", "🤔 add(①) = ①", "🤔 add(①) = ①"),
    ],
)
def test_what_a_profile_puts_around_an_answer_is_taken_off(profile: str, reply: str, bare: str) -> None:
    assert bare_answer(profile, reply) == bare


@pytest.mark.parametrize("name", ["regime3", "emoji_think"])
def test_an_answer_in_its_training_form_is_bare_again(name: str) -> None:
    for index in range(40):
        row = {"messages": [{"role": "user", "content": "(inc 1)"}, {"role": "assistant", "content": "inc(①) = ①⓪"}]}
        made = get_profile(name).transform_example(row, index, dated_prompt(DAY))
        assert bare_answer(name, made["messages"][-1]["content"]) == "inc(①) = ①⓪"


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(UnknownProfileError):
        bare_answer("nobody", "7")
