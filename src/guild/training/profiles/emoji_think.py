"""`emoji_think`: half of the rows think in emoji before they answer and say with emoji that they are done. (specs/guild.md 2.2.1)

A row's mode and its emoji come from its place in the file alone, so that a file is trained the same way on every machine and after
every restart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from guild.prompts import BASE_TEMPLATE, with_base_prompt
from guild.training.profiles.base import Example, Processor, contents, rewrite
from guild.validation.marks import STOP, THINKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMOJI_MODE_RATIO = 0.5
COUNT_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}
STOP_TIMES = {2: "twice", 3: "three times", 4: "four times"}
SEED_FACTOR = 7919

_TAG = re.compile(r"</?think(?:ing)?\s*>", re.IGNORECASE)
_BEGINS = re.compile("(?:" + "|".join(f"(?:{re.escape(e)}){{2,8}}" for e in THINKING) + r")\n")
_ENDS = re.compile("(?:" + "|".join(f"(?:{re.escape(e)}){{2,4}}" for e in STOP) + r")\Z")
_ASKED = re.compile(r"For this task, think with \S+ /\w+/ times\.")
STOP_REQUEST = re.compile(r"When finished, emit (\S+) /(" + "|".join(STOP_TIMES.values()) + r")/ to signal completion\.")
"""Groups: the stop emoji and how often, in words."""


@dataclass(frozen=True)
class Stance:
    """How one row is answered. emoji: in emoji mode, else directly. thinking, stop: one emoji each, with how often it stands."""

    emoji: bool
    thinking: str
    thinking_count: int
    stop: str
    stop_count: int

    @property
    def request(self) -> str:
        """What a user turn asks for in emoji mode."""
        return (
            f"For this task, think with {self.thinking} /{COUNT_WORDS[self.thinking_count]}/ times.\n"
            f"When finished, emit {self.stop} /{STOP_TIMES[self.stop_count]}/ to signal completion."
        )


def stance(index: int, ratio: float = EMOJI_MODE_RATIO) -> Stance:
    """The stance of the row at `index`, drawn with the seed `index * 7919`; `ratio` of all rows are in emoji mode."""
    draw = Random(index * SEED_FACTOR)
    emoji = draw.random() < ratio
    return Stance(emoji, draw.choice(THINKING), draw.randint(2, 8), draw.choice(STOP), draw.randint(2, 4))


@dataclass(frozen=True)
class EmojiThink:
    """Strips think tags everywhere; in emoji mode asks for marks in the user turns and sets them in the answers."""

    ratio: float = EMOJI_MODE_RATIO
    name: str = "emoji_think"
    description: str = "half of the rows think with emoji first and end with a stop emoji; think tags are stripped"
    version: str = "1.0.0"
    plain_template: bool = True

    def transform_example(self, example: Example, index: int, system_prompt: str) -> dict[str, Any]:
        messages = rewrite(with_base_prompt(example["messages"], system_prompt), "assistant", without_think_tags)
        chosen = stance(index, self.ratio)
        if chosen.emoji:
            messages = rewrite(messages, "user", lambda text: _asking(text, chosen))
            messages = rewrite(messages, "assistant", lambda text: _answering(text, chosen))
        return {**example, "messages": messages}

    def build_logits_processors(self, tokenizer: PreTrainedTokenizerBase) -> list[Processor]:
        from guild.training.processors import StopEmojiHandling, ThinkTagPenalty

        return [ThinkTagPenalty.of(tokenizer), StopEmojiHandling.of(tokenizer)]

    def get_system_prompt_template(self) -> str | None:
        return BASE_TEMPLATE

    def validate_example(self, example: Example) -> list[str]:
        return [] if contents(example, "user") and contents(example, "assistant") else ["a user and an assistant turn are needed"]


def without_think_tags(answer: str) -> str:
    """The answer without `<think>`, `</think>` and their `thinking` forms; what stood between them stays."""
    if not _TAG.search(answer):
        return answer
    while _TAG.search(answer):  # taking one out can join the halves of another
        answer = _TAG.sub("", answer)
    return answer.strip()


def _asking(text: str, chosen: Stance) -> str:
    return text if _ASKED.search(text) else f"{text}\n\n{chosen.request}"


def _answering(text: str, chosen: Stance) -> str:
    before = "" if _BEGINS.match(text) else f"{chosen.thinking * chosen.thinking_count}\n"
    after = "" if _ENDS.search(text) else chosen.stop * chosen.stop_count
    return f"{before}{text}{after}"
