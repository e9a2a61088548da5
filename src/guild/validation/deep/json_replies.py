"""Does a reply that looks like JSON parse? (specs/guild.md 5.2)"""

from __future__ import annotations

import re

import orjson

from guild.validation.deep.views import RowView

_LOOKS_LIKE = re.compile(r"""\{\s*["'}]|\[\s*[\[{"\]]""")
_FENCE = re.compile(r"```json\s*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def find_broken_json(view: RowView) -> str | None:
    """A reply that begins like a JSON object or list, or has a fenced block of JSON, and does not parse."""
    for reply in view.replies:
        text = reply.strip()
        candidates = [text] if text[:1] in ("{", "[") and _LOOKS_LIKE.match(text) else []
        if "```json" in text:
            candidates += _FENCE.findall(text)
        for candidate in candidates:
            try:
                orjson.loads(candidate)
            except orjson.JSONDecodeError as error:
                return f"JSON that does not parse ({error.msg} at character {error.pos + 1} of it)"
    return None
