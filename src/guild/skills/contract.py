"""What a skill is: problems by level, made from a seed, and one judge for training, evaluation and sparring. (specs/guild.md 2.4, 6)

A problem is held out for evaluation by the digest of its text, so that training and evaluation never meet, on any machine and with any
seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

HELD_OUT_SHARE = 0.2
"""Share of a level's problems that only evaluations see."""


@dataclass(frozen=True)
class Sample:
    """One problem with its golden answer.

    id: unique within its batch. tags: of the problem's kind. rubric: how the reply is judged, a sentence. scenario: the form, when the
    skill has several. metadata: what a judge or a report needs beside the texts.
    """

    id: str
    user_prompt: str
    assistant_response: str
    tags: tuple[str, ...] = ()
    rubric: str = ""
    scenario: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form of the skill API."""
        return {
            "id": self.id,
            "user_prompt": self.user_prompt,
            "assistant_response": self.assistant_response,
            "tags": list(self.tags),
            "rubric": self.rubric,
            **({} if self.scenario is None else {"scenario": self.scenario}),
            **({"metadata": dict(self.metadata)} if self.metadata else {}),
        }


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a reply. partial: credit from 0 to 1, reported beside, never counted as correct. reason: why it is wrong, or
    "". found: the answer as it was read, None when none was."""

    correct: bool
    partial: float
    reason: str = ""
    found: str | None = None


class Skill(Protocol):
    """One skill. `generate` and `evaluation` are pure: the same arguments give the same samples, on every machine."""

    id: str
    name: str
    version: str
    description: str
    max_level: int
    generator_id: str

    def level_info(self, level: int) -> dict[str, Any]:
        """What is asked at a level (1 to max_level), for people and pages. Raises UsageError outside."""
        ...

    def space(self, level: int) -> int | None:
        """How many distinct training problems a level has; None when more than a million."""
        ...

    def generate(self, level: int, count: int, seed: int) -> list[Sample]:
        """`count` training samples; distinct while the level has that many, repeated evenly beyond. Never a held-out problem."""
        ...

    def evaluation(self, level: int, count: int = 20, seed: int = 0) -> list[Sample]:
        """Held-out samples: the level's fixed set for seed 0; fewer than `count` only when the level has no more."""
        ...

    def judge(self, sample: Sample, reply: str) -> Verdict:
        """Judge a reply to a sample's prompt."""
        ...


def held_out(problem: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether a problem, by its canonical text (what makes it the same problem), belongs to evaluation."""
    digest = hashlib.sha256(problem.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
