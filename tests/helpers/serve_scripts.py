"""What the scripted model of the serving tests says, by the last letter of the prompt."""

from __future__ import annotations

from typing import Any

from helpers.script_model import SELF_TEST

SPECIAL = ("<|note|>", "[TOOL_CALLS]")
CALL = '{"name": "weather", "arguments": {"city": "Bern"}}'
SCRIPTS: dict[str, Any] = {
    **SELF_TEST,
    # h: a plain sentence
    "h": ("The", " quick", " brown", " fox"),
    # u: characters cut into bytes, and a special token in the middle
    "u": ("caf", b"\xc3", b"\xa9", "<|note|>", " ", b"\xf0", b"\x9f", b"\x99", b"\x82", "!!"),
    # b: bytes that are no character
    "b": ("bad:", b"\xff", b"\xe2", ":end"),
    # s: a stop text across the borders of three tokens
    "s": ("one t", "wo ST", "O", "P three", " four"),
    # e: for ever
    "e": ("again and ", "once more ", "again and "),
    # t, m, l, j: calls as Hermes, Mistral and Llama write them, and JSON that is no call
    "t": (
        "Let me look.",
        "<tool_call>",
        '\n{"name": "weather", ',
        '"arguments": {"city": "Bern"}}',
        "\n</tool_",
        "call>\n<tool_call>",
        f"\n{CALL}</tool_call>",
    ),
    "m": ("[TOOL_CALLS]", f"[{CALL}", "]"),
    "l": ('{"name": "weather",', ' "parameters": {"city": "Basel"}}'),
    "j": ('{"answer":', "42}"),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Basel"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CONTEXT = 12_000


def say(letter: str) -> list[dict[str, str]]:
    """The messages that make the model follow a script."""
    return [{"role": "user", "content": letter}]
