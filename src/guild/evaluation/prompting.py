"""Under which system prompt a checkpoint is asked, and what its profile puts around an answer. (specs/guild.md 5.4)

Evaluation uses the same prompt as training: the campaign's profile decides its words, the checkpoint's own record its day.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

from guild.prompts import dated_prompt
from guild.training.preparation import DatasetPreparer
from guild.training.profiles import get_profile
from guild.training.profiles.base import DataProfile
from guild.training.profiles.emoji_think import STOP, THINKING, EmojiThink
from guild.training.profiles.regime3 import END, START, Regime3, marked
from modelwright.checkpoints import CheckpointStore
from modelwright.errors import ModelwrightError

_BEGINS = re.compile("(?:" + "|".join(f"(?:{re.escape(emoji)}){{2,8}}" for emoji in THINKING) + r")\s*\n")
_ENDS = re.compile(r"\s*(?:" + "|".join(f"(?:{re.escape(emoji)})+" for emoji in STOP) + r")\s*\Z")


def plain_prompt(day: date) -> str:
    """The base prompt alone, for models outside every campaign."""
    return dated_prompt(day)


def profile_prompt(profile: DataProfile, day: date) -> str:
    """What the training rows of a campaign with this profile carry on that day."""
    return DatasetPreparer(profile, day).prompt


def prompt_day(checkpoint: Path, today: date) -> date:
    """The day in the prompts that a checkpoint was trained with, as its manifest records it; `today` for one that records none."""
    try:
        told = CheckpointStore(checkpoint.parent, writer=False).get(checkpoint.name).metadata.get("prompt_date")
        return date.fromisoformat(told) if isinstance(told, str) else today
    except (ModelwrightError, ValueError):
        return today  # a base model, or a checkpoint of another program


def bare_answer(profile: str, reply: str) -> str:
    """A reply without what its profile adds to every answer, which no judge of a skill knows.

    `regime3`: what stands between the two marks, when both stand there once and in order. `emoji_think`: without the line of thinking
    emoji before and the stop emoji behind. Raises UnknownProfileError.
    """
    known = get_profile(profile)
    if isinstance(known, Regime3):
        whole = reply.count(START) == 1 and reply.count(END) == 1 and reply.index(START) < reply.index(END)
        return reply.partition(START)[2].partition(END)[0].strip() if whole else reply
    if isinstance(known, EmojiThink):
        return _ENDS.sub("", _BEGINS.sub("", reply.lstrip(), count=1))
    return reply


def golden_answer(profile: str, expected: str) -> str:
    """A golden answer as a model of that profile has learnt to say it to a question of an evaluation, which asks for no emoji: `regime3`
    puts its marks around it. Raises UnknownProfileError."""
    return marked(expected) if isinstance(get_profile(profile), Regime3) else expected
