"""Tool calls over HTTP: written by three families of models, demanded, sent back as history."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.raw_http import call
from helpers.serve_scripts import TOOL, say
from helpers.served import Refused, Served

CALLS = {
    "t": ("Let me look.", [{"city": "Bern"}, {"city": "Bern"}]),
    "m": ("", [{"city": "Bern"}]),
    "l": ("", [{"city": "Basel"}]),
}


def ask(client: Any, server: Served, letter: str, **more: Any) -> Any:
    return client.chat.completions.create(model=server.model, messages=say(letter), tools=[TOOL], **{"temperature": 0, **more})


@pytest.mark.parametrize("letter", CALLS)
def test_calls_are_parsed_from_the_text(client: Any, server: Served, letter: str) -> None:
    text, arguments = CALLS[letter]
    (choice,) = ask(client, server, letter).choices
    assert choice.finish_reason == "tool_calls"
    assert (choice.message.content or "") == text
    assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == [
        ("weather", a) for a in arguments
    ]
    assert len({call.id for call in choice.message.tool_calls}) == len(arguments)


@pytest.mark.parametrize("letter", CALLS)
def test_calls_are_streamed_as_deltas(client: Any, server: Served, letter: str) -> None:
    text, arguments = CALLS[letter]
    content, finish = "", None
    calls: dict[int, dict[str, str]] = {}
    for chunk in ask(client, server, letter, stream=True):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or []:
                call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
                call["arguments"] += part.function.arguments or ""
    assert (content, finish) == (text, "tool_calls")
    assert [json.loads(calls[index]["arguments"]) for index in range(len(arguments))] == arguments
    assert all(call["name"] == "weather" and call["id"] for call in calls.values())


def test_without_tools_the_text_stays_text(client: Any, server: Served) -> None:
    for tools in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        answer = client.chat.completions.create(model=server.model, messages=say("l"), temperature=0, **tools)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.content == '{"name": "weather", "parameters": {"city": "Basel"}}'


def test_what_is_no_call_stays_text(client: Any, server: Served) -> None:
    assert ask(client, server, "j").choices[0].message.content == '{"answer":42}'
    assert ask(client, server, "h").choices[0].message.content == "The quick brown fox"


def test_only_one_call_where_only_one_is_wanted(client: Any, server: Served) -> None:
    assert len(ask(client, server, "t", parallel_tool_calls=False).choices[0].message.tool_calls) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_demanded_call_is_made_whatever_the_model_would_say(client: Any, server: Served, choice: Any, refused: Refused) -> None:
    if refused("json_schema", ask, client, server, "h", tool_choice=choice):
        return
    (made,) = ask(client, server, "h", tool_choice=choice, max_tokens=200).choices
    (call,) = made.message.tool_calls
    assert made.finish_reason == "tool_calls" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Bern", "Basel")


def test_a_demanded_call_whose_schema_no_parser_can_begin_is_the_requests_fault(server: Served) -> None:
    endless = {"type": "function", "function": {"name": "weather", "parameters": {"$ref": "#"}}}
    body = {"model": server.model, "messages": say("h"), "tools": [endless], "tool_choice": "required"}
    status, document, _ = call("POST", f"{server.url}/v1/chat/completions", body)
    assert status == 400 and document["error"]["param"] != "response_format", document


def test_a_tools_answer_goes_back_to_the_model(client: Any, server: Served) -> None:
    (choice,) = ask(client, server, "m").choices
    history = [
        *say("m"),
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "sunny, h"},
    ]
    answer = client.chat.completions.create(model=server.model, messages=history, tools=[TOOL], temperature=0)
    assert answer.choices[0].message.content == "The quick brown fox"


def test_the_template_sees_the_tools(client: Any, server: Served) -> None:
    without = client.chat.completions.create(model=server.model, messages=say("h"), temperature=0).usage.prompt_tokens
    assert ask(client, server, "h").usage.prompt_tokens > without + 100
