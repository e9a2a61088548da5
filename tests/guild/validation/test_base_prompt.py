"""Acceptance item 19, as a rule that a row can be held to."""

from __future__ import annotations

from datetime import date

import pytest

from guild.prompts import BASE_PROMPT, dated_prompt, with_base_prompt
from guild.validation.base_prompt import check_base_prompt
from helpers.guild_rows import chat, turns

DAY = date(2026, 3, 4)
PROMPT = dated_prompt(DAY)


def test_item_19_a_prepared_row_carries_the_dated_base_prompt_once() -> None:
    for row in (chat(), turns(("system", "Be brief."), ("user", "a"), ("assistant", "b"))):
        for prompt in (PROMPT, dated_prompt(DAY, "Answer in one line.")):
            prepared = {"messages": with_base_prompt(row["messages"], prompt)}
            assert check_base_prompt(prepared) is None
            assert check_base_prompt(prepared, day=DAY) is None
    assert check_base_prompt({"text": f"{PROMPT}\n\nA plain text."}, day=DAY) is None


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (chat(), "0 system messages"),
        ({"text": "A plain text."}, "the base prompt 0 times"),
        ({"text": f"{PROMPT} {PROMPT}"}, "the base prompt 2 times"),
        (turns(("system", PROMPT), ("system", PROMPT), ("user", "a"), ("assistant", "b")), "2 system messages"),
        (turns(("system", f"{PROMPT}\n{BASE_PROMPT}"), ("user", "a"), ("assistant", "b")), "the base prompt 2 times"),
        (turns(("system", PROMPT), ("user", PROMPT), ("assistant", "b")), "the base prompt 2 times"),
        (turns(("user", "a"), ("system", PROMPT), ("assistant", "b")), "not the first"),
        (turns(("system", BASE_PROMPT), ("user", "a"), ("assistant", "b")), "without its date"),
        (turns(("system", "Be brief."), ("user", PROMPT), ("assistant", "b")), "outside the system message"),
        (turns(("system", PROMPT.replace("-03-04", "-02-30")), ("user", "a"), ("assistant", "b")), "no calendar"),
        (turns(("system", PROMPT.replace("-03-04", "-03-05")), ("user", "a"), ("assistant", "b")), "allowed: 2026-03-04"),
    ],
)
def test_item_19_what_is_wrong_is_said(row: dict, says: str) -> None:
    assert says in (check_base_prompt(row, day=DAY) or "")
