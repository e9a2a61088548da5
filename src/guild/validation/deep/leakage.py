"""Does the prompt hold the answer? (specs/guild.md 5.2)"""

from __future__ import annotations

import re

from guild.validation.deep.views import RowView

LEAST_ANSWER = 5
"""Characters below which a whole answer found in the prompt is no sign: `True` or a digit stands in many prompts by chance."""
FIRST_LINE = (10, 50)
"""Characters of a first line that is looked for."""
_NUMBERS = re.compile(r"\([0-9\s]+\)")


def find_leakage(view: RowView) -> str | None:
    """A reply, its first line or its bracketed numbers that stand in what was said to the assistant before."""
    before: list[str] = []
    for role, content in zip(view.roles, view.contents, strict=True):
        if role != "assistant":
            before.append(content)
            continue
        prompt = before[0] if len(before) == 1 else "\n".join(before)
        found = _leaked(content.strip(), prompt)
        if found:
            return found
    return None


def _leaked(answer: str, prompt: str) -> str | None:
    if len(answer) >= LEAST_ANSWER and answer in prompt:
        return "the whole answer stands in the prompt"
    first = answer.partition("\n")[0].strip()
    if FIRST_LINE[0] <= len(first) <= FIRST_LINE[1] and first in prompt:
        return f"the first line of the answer, {first!a}, stands in the prompt"
    if "(" in answer and "(" in prompt:
        shared = next((group for group in _NUMBERS.findall(answer) if group in prompt), None)
        if shared:
            return f"the numbers {shared!a} of the answer stand in the prompt"
    return None
