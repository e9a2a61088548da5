"""The messages of a chat request, checked, in the form that chat templates read."""

from __future__ import annotations

from typing import Any

import orjson

from macprovider.serving.errors import ApiError, invalid, shown
from macprovider.serving.fields import MAX_DEPTH, Document, deeper, required

ROLES = ("system", "developer", "user", "assistant", "tool")


def parse_messages(document: Document) -> list[Document]:
    """The conversation for a chat template: content is one text, the arguments of earlier tool calls are objects.

    Raises ApiError 400 naming the first message that is wrong (`messages[2].role`).
    """
    messages = required(document, "messages")
    if not isinstance(messages, list) or not messages:
        raise invalid(f"messages: found {shown(messages)}; allowed: a list of at least one message.", "messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Any, at: str) -> Document:
    if not isinstance(message, dict):
        raise invalid(f"{at}: found {shown(message)}; allowed: an object with role and content.", at)
    role = message.get("role")
    if role not in ROLES:
        found = "nothing" if role is None else shown(role)
        raise invalid(f"{at}.role: found {found}; allowed: {', '.join(ROLES)}.", f"{at}.role")
    # "developer" is the newer name of the same thing; no template knows it
    plain: Document = {"role": "system" if role == "developer" else role}
    calls = message.get("tool_calls")
    if calls and role != "assistant":
        raise invalid(f"{at}.tool_calls: only an assistant's message has them.", f"{at}.tool_calls")
    plain["content"] = _content(message.get("content"), f"{at}.content", optional=role == "assistant" and bool(calls))
    if calls:
        plain["tool_calls"] = _calls(calls, f"{at}.tool_calls")
    if role == "tool":
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str) or not call_id:
            raise invalid(f"{at}.tool_call_id: found {shown(call_id)}; a tool's message names the call it answers.", f"{at}.tool_call_id")
        plain["tool_call_id"] = call_id
    name = message.get("name")
    if name is not None:
        if not isinstance(name, str):
            raise invalid(f"{at}.name: found {shown(name)}; allowed: text.", f"{at}.name")
        plain["name"] = name
    return plain


def _content(content: Any, at: str, *, optional: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None and optional:
        return ""
    if not isinstance(content, list) or not content:
        raise invalid(f"{at}: found {shown(content)}; allowed: text, or a list of parts of type text.", at)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            what = f"a part of type {shown(kind)}" if isinstance(part, dict) else shown(part)
            raise invalid(f"{at}[{index}]: found {what}; this model reads parts of type text only.", f"{at}[{index}].type")
        if not isinstance(part.get("text"), str):
            raise invalid(f"{at}[{index}].text: found {shown(part.get('text'))}; allowed: text.", f"{at}[{index}].text")
        texts.append(part["text"])
    return "".join(texts)


def _calls(calls: Any, at: str) -> list[Document]:
    if not isinstance(calls, list):
        raise ApiError(400, "invalid_tools", f"{at}: found {shown(calls)}; allowed: a list of calls.", at)
    return [_call(call, f"{at}[{index}]") for index, call in enumerate(calls)]


def _call(call: Any, at: str) -> Document:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, "invalid_tools", f"{at}.function: found {shown(function)}; allowed: an object with name and arguments.", at)
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            pass  # a model's own broken call, sent back as history: the template shows the text as it was
    elif not isinstance(arguments, dict):
        raise ApiError(400, "invalid_tools", f"{at}.function.arguments: found {shown(arguments)}; allowed: JSON text.", at)
    if deeper(arguments):
        at = f"{at}.function.arguments"
        raise ApiError(400, "invalid_tools", f"{at}: found more than {MAX_DEPTH} levels of JSON; allowed: at most {MAX_DEPTH}.", at)
    return {"id": call.get("id") or "", "type": "function", "function": {"name": function["name"], "arguments": arguments}}
