"""The tools of a chat request: checked, shown to the model, and, when a call is demanded, turned into a JSON Schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from macprovider.serving.errors import invalid_tools, shown
from macprovider.serving.fields import MAX_DEPTH, Document, deeper, truth

NAME = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
MAX_TOOLS = 128
CHOICES = ("auto", "none", "required")


@dataclass(frozen=True)
class ToolUse:
    """Tools in force for one request. schema: JSON Schema text of the one call that is demanded, None when calls are free.
    parallel: more than one call may be made."""

    tools: tuple[Document, ...]
    schema: str | None = None
    parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool["function"]["name"] for tool in self.tools)


def parse_tools(document: Document) -> ToolUse | None:
    """The tools that the model may call, None when it may call none. Raises ApiError 400 `invalid_tools`."""
    tools = document.get("tools")
    choice = document.get("tool_choice")
    parallel = truth(document, "parallel_tool_calls", True)
    if tools is None:
        if choice not in (None, "none", "auto"):
            raise invalid_tools("tool_choice: found a choice without tools; send tools, or leave it out.", "tool_choice")
        return None
    if not isinstance(tools, list) or not tools:
        raise invalid_tools(f"tools: found {shown(tools)}; allowed: a list of at least one tool.")
    if len(tools) > MAX_TOOLS:
        raise invalid_tools(f"tools: found {len(tools)} tools; allowed: at most {MAX_TOOLS}.")
    checked = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools))
    names = [tool["function"]["name"] for tool in checked]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise invalid_tools(f"tools: found the name {twice[0]!r} more than once; every tool needs its own.")
    return _in_force(checked, choice, parallel)


def _in_force(tools: tuple[Document, ...], choice: Any, parallel: bool) -> ToolUse | None:
    if choice == "none":
        return None
    if choice in (None, "auto"):
        return ToolUse(tools, None, parallel)
    if choice == "required":
        return ToolUse(tools, call_schema(tools), parallel)
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, dict) else None
    chosen = tuple(tool for tool in tools if tool["function"]["name"] == name)
    if not isinstance(name, str):
        allowed = f'{", ".join(CHOICES)}, or {{"type": "function", "function": {{"name": ...}}}}'
        raise invalid_tools(f"tool_choice: found {shown(choice)}; allowed: {allowed}.", "tool_choice")
    if not chosen:
        raise invalid_tools(f"tool_choice: found the name {shown(name)}, which none of the tools has.", "tool_choice")
    return ToolUse(tools, call_schema(chosen), parallel)


def _tool(tool: Any, at: str) -> Document:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise invalid_tools(f'{at}: found {shown(tool)}; allowed: an object of type "function".', at)
    if deeper(tool):
        raise invalid_tools(f"{at}: found more than {MAX_DEPTH} levels of JSON; allowed: at most {MAX_DEPTH}.", at)
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid_tools(f"{at}.function: found {shown(function)}; allowed: an object with a name.", f"{at}.function")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.match(name):
        found = "nothing" if name is None else shown(name)
        raise invalid_tools(f"{at}.function.name: found {found}; allowed: 1 to 64 letters, digits, _ and -.", f"{at}.function.name")
    parameters = function.get("parameters")
    if parameters is not None:
        _check_parameters(parameters, f"{at}.function.parameters")
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise invalid_tools(f"{at}.function.description: found {shown(description)}; allowed: text.", f"{at}.function.description")
    return tool


def _check_parameters(parameters: Any, at: str) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(parameters, dict):
        raise invalid_tools(f"{at}: found {shown(parameters)}; allowed: a JSON Schema, an object.", at)
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        raise invalid_tools(f"{at}: no valid JSON Schema: {error.message}.", at) from error


def call_schema(tools: tuple[Document, ...]) -> str:
    """JSON Schema text of one call of one of the tools, `{"name": ..., "arguments": {...}}`; local references stay reachable."""
    shapes = []
    for tool in tools:
        function = tool["function"]
        arguments = function.get("parameters") or {"type": "object"}
        shapes.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: Document = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    definitions: Document = {}
    for tool in tools:
        parameters = tool["function"].get("parameters") or {}
        definitions |= parameters.get("$defs", {})
    return orjson.dumps(schema | {"$defs": definitions} if definitions else schema).decode()


def instructions(tools: tuple[Document, ...]) -> str:
    """What a system message says about the tools when the model's own template says nothing."""
    lines = "\n".join(orjson.dumps(tool["function"]).decode() for tool in tools)
    return (
        f"You can call these functions, one JSON description per line:\n{lines}\n"
        'To call one, answer with <tool_call>{"name": its name, "arguments": {its arguments}}</tool_call> and nothing else.'
    )
