"""Does a prepared row carry the dated base prompt exactly once? (specs/guild.md 5.4, acceptance item 19)"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from guild.prompts import BASE_PROMPT, BASE_TEMPLATE

_DATED = re.compile(re.escape(BASE_TEMPLATE).replace(re.escape("{date}"), r"(\d{4}-\d{2}-\d{2})"))


def check_base_prompt(row: Mapping[str, Any], *, day: date | None = None) -> str | None:
    """What is wrong with the base prompt of a row as it is trained, in words; None when it stands there once, dated and in its place.

    row: with `messages` (the base prompt belongs into the one system message, which is the first) or `text`. day: the date that it must
    carry; None allows every real date.
    """
    if "messages" in row:
        systems = [at for at, message in enumerate(row["messages"]) if message["role"] == "system"]
        if systems != [0]:
            found = "a system message that is not the first" if len(systems) == 1 else f"{len(systems)} system messages"
            return f"{found}; allowed: one, as the first message"
        home = row["messages"][0]["content"]
        whole = [message["content"] for message in row["messages"]]
    else:
        home = row["text"]
        whole = [home]
    times = sum(text.count(BASE_PROMPT) for text in whole)
    if times != 1:
        return f"the base prompt {times} times; allowed: exactly once"
    dated = _DATED.search(home)
    if dated is None:
        return "the base prompt without its date or outside the system message; allowed: " + BASE_TEMPLATE.format(date="YYYY-MM-DD")
    try:
        carried = date.fromisoformat(dated[1])
    except ValueError:
        return f"the date {dated[1]}, which no calendar has; allowed: a real day"
    if day is not None and carried != day:
        return f"the date {dated[1]}; allowed: {day.isoformat()}, the day of the run"
    return None
