"""The rules of one row: every fault named with its place, and the fast test never passes a faulty row."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guild.validation.rows import sound_rows, validate_row
from guild.validation.schemas import SCHEMAS
from helpers.guild_rows import chat, turns

CHAT, TEXT = SCHEMAS["chat_sft_v1"], SCHEMAS["completion_v1"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", " ", "a", "user", "assistant", "system", "chat_sft_v1", "nope"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["messages", "role", "content", "text", "metadata", "schema_id"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("row", "place", "found"),
    [
        ([], "", "an empty list"),
        ("text", "", "a text, 'text'"),
        ({}, "messages", "the columns none"),
        ({"text": "plain"}, "messages", "the columns 'text'"),
        ({"messages": None}, "messages", "null"),
        ({"messages": []}, "messages", "an empty list"),
        ({"messages": {"role": "user"}}, "messages", "an object"),
        ({"messages": ["hello", *chat()["messages"]]}, "messages[0]", "a text, 'hello'"),
        (turns(("user", "a"), ("bot", "b"), ("assistant", "c")), "messages[1].role", "a text, 'bot'"),
        ({"messages": [*chat()["messages"], {"content": "x"}]}, "messages[2].role", "nothing"),
        ({"messages": [*chat()["messages"], {"role": ["user"], "content": "x"}]}, "messages[2].role", "a list"),
        ({"messages": [*chat()["messages"], {"role": "user"}]}, "messages[2].content", "nothing"),
        ({"messages": [*chat()["messages"], {"role": "user", "content": None}]}, "messages[2].content", "null"),
        ({"messages": [*chat()["messages"], {"role": "user", "content": [{"type": "text"}]}]}, "messages[2].content", "a list"),
        (turns(("user", "only a question")), "messages", "no turn of the assistant"),
        (turns(("assistant", "only a reply")), "messages", "no turn of the user"),
        (chat(metadata={"schema_id": "chat_sft_v9"}), "schema_id", "a text, 'chat_sft_v9'"),
        (chat(schema_id=7), "schema_id", "a number, 7"),
    ],
)
def test_a_faulty_chat_row_is_named_with_its_place(row: Any, place: str, found: str) -> None:
    faults = validate_row(row, CHAT)
    assert [(fault.place, fault.found.startswith(found)) for fault in faults] == [(place, True)]
    assert faults[0].allowed
    assert not sound_rows(CHAT)(row)


@pytest.mark.parametrize("row", [{}, {"text": None}, {"text": ""}, {"text": " \n\t"}, {"text": ["a"]}, chat()])
def test_a_completion_row_needs_a_text(row: Any) -> None:
    assert [fault.place for fault in validate_row(row, TEXT)] == ["text"]
    assert not sound_rows(TEXT)(row)


@pytest.mark.parametrize(
    ("row", "schema"),
    [
        (chat(), CHAT),
        (turns(("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "")), CHAT),
        (chat(metadata={"schema_id": "chat_sft_v1", "tags": ["x"]}, difficulty="easy", anything=[1]), CHAT),
        (chat(variant="map"), SCHEMAS["syllo_v1"]),
        ({"text": "A plain text."}, TEXT),
    ],
)
def test_good_rows_pass_both_ways(row: Any, schema: Any) -> None:
    assert validate_row(row, schema) == []
    assert sound_rows(schema)(row)


def test_all_faults_of_a_row_are_named_at_once() -> None:
    row = {"messages": [{"role": "bot", "content": 1}, "x", {"role": "user", "content": "hi"}], "schema_id": "odd"}
    places = [fault.place for fault in validate_row(row, CHAT)]
    assert places == ["messages[0].role", "messages[0].content", "messages[1]", "messages", "schema_id"]


def test_strict_mode_asks_where_a_row_comes_from() -> None:
    said = {"generator_id": "bin_api", "generator_version": "1.0.0", "skill": "bin", "level": 3}
    assert validate_row(chat(metadata=said), CHAT, strict=True) == []
    assert validate_row(chat(**said), CHAT, strict=True) == []  # as sparring rows have it
    (fault,) = validate_row(chat(metadata={**said, "skill": None}), CHAT, strict=True)
    assert (fault.place, fault.found) == ("metadata", "no skill")
    assert validate_row(chat(metadata="bin"), CHAT, strict=True)[0].found == "a text, 'bin'"


@settings(max_examples=500, deadline=None)
@given(row=JSON)
def test_the_fast_test_never_passes_what_the_rules_refuse(row: Any) -> None:
    row = orjson.loads(orjson.dumps(row))
    for schema in (CHAT, TEXT):
        if sound_rows(schema)(row):
            assert validate_row(row, schema) == []
