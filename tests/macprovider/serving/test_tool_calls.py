"""Calls in text, cut anywhere: the same calls and the same text as uncut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from macprovider.serving.tool_calls import ToolCallParser

NAMES = frozenset({"f", "weather"})
F = '{"name": "f", "arguments": {"x": 1}}'
TEXTS: list[tuple[str, str, list[tuple[str, object]]]] = [
    ("plain text", "plain text", []),
    (f"<tool_call>{F}</tool_call>", "", [("f", {"x": 1})]),
    (f"Well. <tool_call>\n{F}\n</tool_call>\n<tool_call>{F}</tool_call>", "Well. ", [("f", {"x": 1})] * 2),
    (f"<tool_call>{F}", "", [("f", {"x": 1})]),
    ("<tool_call>not json</tool_call> so", "<tool_call>not json</tool_call> so", []),
    ('<tool_call>{"name": "other", "arguments": {}}</tool_call>', '<tool_call>{"name": "other", "arguments": {}}</tool_call>', []),
    ("a < b and <tool", "a < b and <tool", []),
    (f"[TOOL_CALLS][{F}, {F}]", "", [("f", {"x": 1})] * 2),
    ('[TOOL_CALLS]f[ARGS]{"x": 2}', "", [("f", {"x": 2})]),
    ('[TOOL_CALLS]f[ARGS]{"x": 2}[TOOL_CALLS]weather[ARGS]{}', "", [("f", {"x": 2}), ("weather", {})]),
    ("[TOOL_CALLS] nonsense", "[TOOL_CALLS] nonsense", []),
    ('{"name": "f", "parameters": {"y": [1]}}', "", [("f", {"y": [1]})]),
    (' \n{"name": "f", "parameters": {}}; {"name": "weather", "parameters": {}}', "", [("f", {}), ("weather", {})]),
    ('<|python_tag|>{"type": "function", "name": "f", "parameters": {}}', "", [("f", {})]),
    ('{"name": "Ann", "age": 5}', '{"name": "Ann", "age": 5}', []),
    ('{"name": "f", "arguments": "{\\"x\\": 3}"}', "", [("f", {"x": 3})]),
    ('{"name": "f", "arguments": 5}', '{"name": "f", "arguments": 5}', []),
    ('{"na', '{"na', []),
    ('{"name": "f", "arguments": {"n": 123456789012345678901234567890}}', "", [("f", {"n": 123456789012345678901234567890})]),
    ('{"name": "f", "arguments": {"half": "\\ud800"}}', "", [("f", {"half": "\ud800"})]),
    ('{"name": ["f"], "arguments": {}}', '{"name": ["f"], "arguments": {}}', []),
    ('{"name": "f", "arguments": {"x": NaN}}', '{"name": "f", "arguments": {"x": NaN}}', []),
]


def parsed(parts: list[str]) -> tuple[str, list[tuple[str, object]]]:
    parser = ToolCallParser(NAMES)
    results = [parser.push(part) for part in parts] + [parser.finish()]
    calls = [call for _, found in results for call in found]
    return "".join(text for text, _ in results), [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize(("text", "plain", "calls"), TEXTS)
def test_calls_are_found_and_the_rest_is_text(text: str, plain: str, calls: list[tuple[str, object]]) -> None:
    assert parsed([text]) == (plain, calls)


@given(st.sampled_from(TEXTS), st.lists(st.integers(0, 80), max_size=8))
@settings(max_examples=400, deadline=None)
def test_cuts_change_nothing(case: tuple[str, str, list[tuple[str, object]]], cuts: list[int]) -> None:
    text, plain, calls = case
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert parsed([text[a:b] for a, b in pairwise(borders)]) == (plain, calls)


@pytest.mark.parametrize("levels", [300, 5000])
def test_arguments_of_any_depth_are_a_call_or_text(levels: int) -> None:
    text = '{"name": "f", "arguments": ' + '{"a": ' * levels + "1" + "}" * levels + "}"
    parser = ToolCallParser(NAMES)
    before, after = parser.push(text), parser.finish()
    assert before == ("", []) and (after[0] == text or len(after[1]) == 1)


def test_text_before_a_call_is_not_held_back() -> None:
    parser = ToolCallParser(NAMES)
    assert [parser.push(part)[0] for part in ("Let me ", "see", ". <to", "y> ")] == ["Let me ", "see", ". ", "<toy> "]


def test_one_call_where_one_is_allowed() -> None:
    parser = ToolCallParser(NAMES, parallel=False)
    calls = [call for part in (f"<tool_call>{F}</tool_call>", f"<tool_call>{F}</tool_call>") for call in parser.push(part)[1]]
    assert len(calls) == 1
