"""What is refused, with which status, code and parameter, and in which order. (spec 3.1)"""

from __future__ import annotations

from typing import Any

import openai
import pytest

from helpers.raw_http import call, get
from helpers.serve_scripts import CONTEXT, TOOL, say
from helpers.served import Refused, Served

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def refusal(server: Served, body: Any, path: str = CHAT) -> tuple[int, str, str | None]:
    """(status, code, param); the envelope must be complete and its message one sentence."""
    status, document, headers = call("POST", server.url + path, body)
    assert headers["content-type"] == "application/json"
    error = document["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] and error["message"].endswith(".")
    if error["param"]:
        assert error["param"].split("[")[0].split(".")[0] in error["message"]
    return status, error["code"], error["param"]


def asked(server: Served, **fields: Any) -> dict[str, Any]:
    body = {"model": server.model, "messages": say("h"), **fields}
    return {name: value for name, value in body.items() if value is not ...}


@pytest.mark.parametrize("body", [b"", b"{", b"hello", b'{"a": NaN}', b"\xff\xfe", b"[" * 5000])
def test_what_is_no_json_is_invalid_json(server: Served, body: bytes) -> None:
    assert refusal(server, body) == (400, "invalid_json", None)


def nested(levels: int) -> Any:
    """So many objects, each in the last."""
    value: Any = {}
    for _ in range(levels - 1):
        value = {"items": value}
    return value


WRONG_FIELDS = [
    ({"model": ...}, "model"),
    ({"model": 5}, "model"),
    ({"model": ""}, "model"),
    ({"messages": ...}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": -1}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 1.5}, "n"),
    ({"n": 1000}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": 5}, "stream_options"),
    ({"seed": "x"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"9999999": 1}}, "logit_bias"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}, "response_format"),
    ({"user": 5}, "user"),
    *(({"response_format": {"type": "json_schema", "json_schema": {"schema": nested(levels)}}}, "response_format") for levels in (65, 900)),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_FIELDS)
def test_a_wrong_field_is_named(server: Served, fields: dict[str, Any], param: str) -> None:
    assert refusal(server, asked(server, **fields)) == (400, "invalid_request", param)


@pytest.mark.parametrize("body", [[], 5, "text", None])
def test_json_that_is_no_object_is_an_invalid_request(server: Served, body: Any) -> None:
    assert refusal(server, b"null" if body is None else body)[:2] == (400, "invalid_request")


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


WRONG_TOOLS = [
    ({"tools": []}, "tools"),
    ({"tools": "weather"}, "tools"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [function(name="has space")]}, "tools[0].function.name"),
    ({"tools": [function(name=None)]}, "tools[0].function.name"),
    ({"tools": [function(parameters=[])]}, "tools[0].function.parameters"),
    ({"tools": [function(parameters={"type": 7})]}, "tools[0].function.parameters"),
    ({"tools": [function(description=7)]}, "tools[0].function.description"),
    ({"tools": [function(), function()]}, "tools"),
    ({"tools": [function(name=f"f{index}") for index in range(129)]}, "tools"),
    ({"tools": [function(parameters=nested(300))]}, "tools[0]"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": nested(300)}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]}, "messages[0].tool_calls[0]"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG_TOOLS)
def test_wrong_tools_are_invalid_tools(server: Served, fields: dict[str, Any], param: str) -> None:
    assert refusal(server, asked(server, **fields)) == (400, "invalid_tools", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"min_p": 0.1}, "min_p"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"guided_regex": "a"}, "guided_regex"),
        ({"modalities": ["audio"]}, "modalities"),
    ],
)
def test_what_nothing_here_can_do_is_refused_by_name(server: Served, fields: dict[str, Any], param: str) -> None:
    assert refusal(server, asked(server, **fields)) == (400, "unsupported_parameter", param)
    assert refusal(server, {"model": server.model, "prompt": "h", "echo": True}, COMPLETION) == (400, "unsupported_parameter", "echo")


def test_neutral_values_of_those_fields_change_nothing(client: Any, server: Served) -> None:
    neutral = {"min_p": 0, "repetition_penalty": 1.0, "functions": None, "modalities": ["text"]}
    answer = client.chat.completions.create(model=server.model, messages=say("h"), temperature=0, extra_body=neutral)
    assert answer.choices[0].finish_reason == "stop"


def test_another_model_is_not_found(server: Served) -> None:
    assert refusal(server, asked(server, model="gpt-4")) == (404, "model_not_found", "model")


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 500])
def test_a_prompt_that_leaves_no_room_is_refused(server: Served, length: int) -> None:
    body = {"model": server.model, "prompt": [1] * length}
    assert refusal(server, body, COMPLETION) == (413, "context_length_exceeded", "prompt")
    long = asked(server, messages=[{"role": "user", "content": "x" * length}])
    assert refusal(server, long) == (413, "context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"),
        ([], "prompt"),
        ([[]], "prompt"),
        ([-1], "prompt"),
        ([10**7], "prompt"),
        ([True], "prompt"),
        (5, "prompt"),
        ({"a": 1}, "prompt"),
        (..., "prompt"),
    ],
)
def test_wrong_prompts_are_named(server: Served, prompt: Any, param: str) -> None:
    body = {"model": server.model} if prompt is ... else {"model": server.model, "prompt": prompt}
    assert refusal(server, body, COMPLETION) == (400, "invalid_request", param)


def test_the_first_failure_in_order_wins(server: Served) -> None:
    """Each body has every later fault as well."""
    long = [{"role": "user", "content": "x" * (CONTEXT + 1)}]
    faults = {"model": "other", "tools": [], "messages": long}
    assert refusal(server, asked(server, **faults, temperature=9))[1] == "invalid_request"
    assert refusal(server, asked(server, **faults))[1] == "invalid_tools"
    assert refusal(server, asked(server, model="other", messages=long))[1] == "model_not_found"
    assert refusal(server, asked(server, messages=long))[1] == "context_length_exceeded"


def test_the_client_raises_its_own_errors(client: Any, server: Served) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=server.model, messages=[])
    assert bad.value.code == "invalid_request" and bad.value.param == "messages"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=say("h"))
    with pytest.raises(openai.APIStatusError) as long:
        client.completions.create(model=server.model, prompt=[1] * (CONTEXT + 1))
    assert (long.value.status_code, long.value.code) == (413, "context_length_exceeded")


def test_a_schema_at_the_limit_of_levels_is_held_to(client: Any, server: Served, refused: Refused) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "deep", "schema": nested(64)}}
    body = {"model": server.model, "messages": say("h"), "max_tokens": 2, "response_format": schema}
    if refused("json_schema", client.chat.completions.create, **body):
        return
    answer = client.chat.completions.create(**body)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_a_schema_that_no_parser_can_begin_is_the_requests_fault(server: Served) -> None:
    endless = {"type": "json_schema", "json_schema": {"name": "endless", "schema": {"$ref": "#"}}}
    known = "json_schema" in get(f"{server.url}/v1/engine")[1]["facts"]["features"]
    code = "invalid_request" if known else "unsupported_parameter"
    assert refusal(server, asked(server, response_format=endless))[:2] == (400, code)
    assert call("GET", f"{server.url}/v1/health")[1]["status"] == "healthy"


def test_a_refusal_before_a_stream_is_no_stream(client: Any, server: Served) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=server.model, messages=say("h"), temperature=7, stream=True)
