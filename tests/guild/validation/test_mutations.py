"""A good file with one damage: either it still is good by the rules as written down here, or its line is named."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from guild.validation.validate import validate_file
from helpers.guild_rows import many, turns, write_rows

ODD: Any = st.sampled_from([None, "", " ", "user", "assistant", "system", "User", 0, True, 1.5, [], {}, ["a"], {"role": "user"}])


@st.composite
def mutated(draw: Any) -> Any:
    """A row with one field of some depth changed, removed, added or doubled."""
    row: Any = turns(
        ("system", "Be kind."), ("user", "What is it?"), ("assistant", "It is a stone."), ("user", "Ah"), ("assistant", "Yes.")
    )
    row |= {"metadata": {"level": 3}, "tags": ["a"]}
    place = row
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            return draw(ODD)
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or draw(st.booleans()):
            break
        place = place[key]
    action = draw(st.sampled_from(["change", "remove", "double"]))
    if action == "change":
        place[key] = draw(ODD)
    elif action == "remove":
        del place[key]
    elif isinstance(place, list):
        place.append(place[key])
    else:
        place[f"{key}s"] = place[key]
    return row


def is_good(row: Any) -> bool:
    """The rules of section 5.2, a second time and plainly."""
    if not isinstance(row, dict):
        return False
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return False
    roles = [message.get("role") for message in messages]
    texts = all(isinstance(message.get("content"), str) for message in messages)
    return texts and all(role in ("system", "user", "assistant") for role in roles) and "user" in roles and "assistant" in roles


@settings(max_examples=300, deadline=None)
@given(row=mutated(), at=st.integers(0, 5))
def test_a_mutated_row_is_good_by_the_rules_or_named_with_its_line(tmp_path_factory, row: Any, at: int) -> None:
    rows: list[Any] = many(5)
    rows.insert(at, row)
    path = write_rows(tmp_path_factory.getbasetemp() / "mutated.jsonl", rows)
    report = validate_file(path, schema="chat_sft_v1")
    assert report.valid == is_good(row)
    assert all(error.startswith(f"{path} line {at + 1}") for error in report.errors)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_line_with_one_byte_changed_is_good_by_another_parser_or_named(tmp_path_factory, data: Any) -> None:
    lines = [json.dumps(row).encode() for row in many(3)]
    line = bytearray(lines[1])
    at = data.draw(st.integers(0, len(line) - 1))
    action = data.draw(st.sampled_from(["change", "remove", "cut"]))
    if action == "change":
        line[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte not in b"\n\r"))
    else:
        del line[at : at + 1 if action == "remove" else None]
    path = write_rows(tmp_path_factory.getbasetemp() / "bytes.jsonl", [lines[0], bytes(line), lines[2]])
    try:
        good = is_good(json.loads(bytes(line).decode("utf-8"), parse_constant=int))
    except ValueError:
        good = not bytes(line).strip()  # a blank line is a warning
    report = validate_file(path, schema="chat_sft_v1")
    assert report.valid == good
    assert all(error.startswith(f"{path} line 2") for error in report.errors)
