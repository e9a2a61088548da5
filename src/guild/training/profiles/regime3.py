"""`regime3`: canonical tasks `(op arg1 arg2)` and an answer between two marks. (specs/guild.md 2.2.1)"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guild.prompts import BASE_TEMPLATE, with_base_prompt
from guild.training.profiles.base import Example, Processor, contents, rewrite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START = "<<ANS_START>>"
END = "<<ANS_END>>"
# The marks themselves are not named here: they stand in a row once, in the answer.
TEMPLATE = BASE_TEMPLATE + "\n\nSolve the task (op arg1 arg2) and put the answer between the two answer marks."
_HEAD = re.compile(r"\(\s*[A-Za-z_][\w-]*\s+[^\s)]")


@dataclass(frozen=True)
class Regime3:
    """Wraps every answer in its marks, under a system prompt of its own."""

    name: str = "regime3"
    description: str = f"canonical tasks (op arg1 arg2), answers between {START} and {END}"
    version: str = "1.0.0"
    plain_template: bool = True

    def transform_example(self, example: Example, index: int, system_prompt: str) -> dict[str, Any]:
        messages = with_base_prompt(example["messages"], system_prompt)
        return {**example, "messages": rewrite(messages, "assistant", marked)}

    def build_logits_processors(self, tokenizer: PreTrainedTokenizerBase) -> list[Processor]:
        return []

    def get_system_prompt_template(self) -> str | None:
        return TEMPLATE

    def validate_example(self, example: Example) -> list[str]:
        asked = contents(example, "user")
        faults = []
        if not asked or not has_task(asked[-1]):
            faults.append("the last user turn holds no task of the form (op arg1 arg2)")
        if any(mark in text for text in asked for mark in (START, END)):
            faults.append("an answer mark stands in a user turn")
        return faults


def marked(answer: str) -> str:
    """The answer with both marks exactly once, the first before the second. Only what is missing is added; repeated or crossed marks
    are taken out and the whole is wrapped anew."""
    starts, ends = answer.count(START), answer.count(END)
    if starts > 1 or ends > 1 or (starts and ends and answer.index(START) > answer.index(END)):
        answer, starts, ends = answer.replace(START, " ").replace(END, " ").strip(), 0, 0
    return f"{'' if starts else START + ' '}{answer}{'' if ends else ' ' + END}"


def has_task(text: str) -> bool:
    """Whether a balanced `(op arg …)` with at least one argument stands in the text."""
    for head in _HEAD.finditer(text):
        depth = 0
        for sign in text[head.start() :]:
            depth += (sign == "(") - (sign == ")")
            if not depth:
                return True
    return False
