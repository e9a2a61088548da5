"""Profiles change text and nothing else: determinism, idempotence and the table of specs/guild.md 2.2.1."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.errors import UnknownProfileError
from guild.prompts import BASE_PROMPT, dated_prompt
from guild.training.profiles import get_profile, profile_names
from guild.training.profiles.base import contents
from guild.training.profiles.emoji_think import COUNT_WORDS, STOP, STOP_TIMES, THINKING, stance
from guild.training.profiles.regime3 import END, START, has_task, marked

PROMPT = dated_prompt(date(2026, 1, 2))
PIECES = [
    START,
    END,
    "<think>",
    "</think>",
    "<thinking>",
    "<thi",
    "nk>",
    *THINKING[:2],
    *STOP[:2],
    "⏹️⏹️",
    "🤔🤔\n",
    "x",
    " ",
    "\n",
    "(add 1 2)",
]
texts = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
rows = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(
    lambda pairs: {
        "messages": [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)],
        "tags": ["kept"],
    }
)


def _row(user: str = "Compute: (add 1 2)", answer: str = "3", system: str | None = None) -> dict[str, Any]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*head, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]}


def test_item_12_an_unknown_profile_is_an_error_that_names_the_known_ones() -> None:
    assert profile_names() == ("emoji_think", "regime3", "none")
    with pytest.raises(UnknownProfileError, match=r"emoji_thnk.*emoji_think, regime3, none.*Did you mean 'emoji_think'"):
        get_profile("emoji_thnk")


@pytest.mark.parametrize("name", profile_names())
@settings(max_examples=150, deadline=None)
@given(row=rows, index=st.integers(0, 10_000))
def test_item_13_applying_a_profile_twice_equals_once(name: str, row: dict[str, Any], index: int) -> None:
    profile = get_profile(name)
    once = profile.transform_example(row, index, PROMPT)
    assert profile.transform_example(once, index, PROMPT) == once
    assert profile.transform_example(row, index, PROMPT) == once
    assert once["tags"] == ["kept"]
    assert [m["role"] for m in once["messages"]] == ["system", *(m["role"] for m in row["messages"])]
    assert once["messages"][0]["content"].count(BASE_PROMPT) == 1


def test_item_13_about_half_of_a_thousand_rows_are_in_emoji_mode() -> None:
    share = sum(stance(index).emoji for index in range(1000)) / 1000
    assert 0.45 < share < 0.55
    assert [stance(index) for index in range(50)] == [stance(index) for index in range(50)]
    assert {stance(index).thinking for index in range(1000)} == set(THINKING)
    assert {stance(index).stop for index in range(1000)} == set(STOP)
    assert {stance(index).thinking_count for index in range(1000)} == set(COUNT_WORDS)
    assert {stance(index).stop_count for index in range(1000)} == set(STOP_TIMES)


def test_emoji_mode_asks_for_what_the_answer_then_does() -> None:
    profile = get_profile("emoji_think")
    index = next(i for i in range(100) if stance(i).emoji)
    chosen = stance(index)
    made = profile.transform_example(_row(answer="<think>two and one</think>3"), index, PROMPT)
    (user,), (answer,) = contents(made, "user"), contents(made, "assistant")
    assert user == (
        f"Compute: (add 1 2)\n\nFor this task, think with {chosen.thinking} /{COUNT_WORDS[chosen.thinking_count]}/ times.\n"
        f"When finished, emit {chosen.stop} /{STOP_TIMES[chosen.stop_count]}/ to signal completion."
    )
    assert answer == chosen.thinking * chosen.thinking_count + "\ntwo and one3" + chosen.stop * chosen.stop_count


def test_direct_mode_leaves_the_answer_but_for_think_tags() -> None:
    profile = get_profile("emoji_think")
    index = next(i for i in range(100) if not stance(i).emoji)
    assert contents(profile.transform_example(_row(answer=" 3 \n"), index, PROMPT), "assistant") == [" 3 \n"]
    for answer in ("<think>\n\n</think>\n\n3", "<thi<think>nk>3</Thinking>"):
        assert contents(profile.transform_example(_row(answer=answer), index, PROMPT), "assistant") == ["3"]


def test_text_that_is_marked_already_is_left_alone() -> None:
    profile = get_profile("emoji_think")
    index = next(i for i in range(100) if stance(i).emoji)
    done = "💡💡💡\n3🛡️🛡️"
    assert contents(profile.transform_example(_row(answer=done), index, PROMPT), "assistant") == [done]


@given(texts)
def test_item_14_both_marks_stand_once_and_in_order(text: str) -> None:
    done = marked(text)
    assert done.count(START) == done.count(END) == 1
    assert done.index(START) < done.index(END)
    assert marked(done) == done


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("42", f"{START} 42 {END}"),
        (f"so {START} 42", f"so {START} 42 {END}"),
        (f"42 {END}", f"{START} 42 {END}"),
        (f"{START}42{END}", f"{START}42{END}"),
        (f"{END}42{START}", f"{START} 42 {END}"),
    ],
)
def test_only_missing_marks_are_added(answer: str, expected: str) -> None:
    assert marked(answer) == expected


def test_item_14_regime3_has_the_base_prompt_and_each_mark_once_in_the_whole_row() -> None:
    profile = get_profile("regime3")
    template = profile.get_system_prompt_template()
    assert template is not None
    prompt = template.format(date="2026-01-02")
    made = profile.transform_example(_row(system="You are an old message."), 0, prompt)
    whole = "".join(m["content"] for m in made["messages"])
    assert whole.count(START) == whole.count(END) == 1
    assert made["messages"][0]["content"].startswith(PROMPT)
    assert "old message" not in whole


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("Compute: (add 1 2)", True),
        ("(add (mul 2 3) 4)", True),
        ("(add)", False),
        ("add 1 2", False),
        ("(add 1 2", False),
        ("(see f(x) ok)", True),
    ],
)
def test_regime3_expects_a_canonical_task(text: str, fits: bool) -> None:
    assert has_task(text) is fits
    assert bool(get_profile("regime3").validate_example(_row(text))) is not fits


def test_none_adds_the_prompt_only_where_there_is_none() -> None:
    profile = get_profile("none")
    assert profile.transform_example(_row(), 0, PROMPT)["messages"][0] == {"role": "system", "content": PROMPT}
    kept = _row(system="You are happy. You enjoy helping others. And brief.")
    assert profile.transform_example(kept, 0, PROMPT) == kept
