"""The three rows that a wrong answer yields, and the fields that each carries. (specs/guild.md 6.4 steps 3 and 4, 5.5)

No row has a system message: the preparation of training data puts the dated base prompt in front. (2.1.6)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from guild.errors import RefusedError
from guild.records.data_sidecars import generator_version
from guild.skills.contract import Sample, Skill
from guild.validation.schemas import DEFAULT_SCHEMA

GENERATOR = "sparring"
IDENTIFY, CORRECT, CONFIRM = "sparring_identify_incorrect", "sparring_correction", "sparring_confirm_correct"
TYPES = (IDENTIFY, CORRECT, CONFIRM)
INCORRECT_REPLY, CORRECT_REPLY = "It is incorrect.", "It is correct."
_SHOWN = "{prompt}\n\nProposed answer:\n{answer}\n\nIs the proposed answer correct or incorrect?"


@dataclass(frozen=True)
class SessionMark:
    """What every row of a session says of it. checkpoint: the name of the checkpoint that was asked, of the served model when it is
    none. timestamp: when the session began, a stamp."""

    skill: str
    level: int
    checkpoint: str
    timestamp: str


@dataclass(frozen=True)
class WrongAnswer:
    """A problem and what the model said instead of the golden answer."""

    sample: Sample
    attempt: str


def correction_rows(wrong: WrongAnswer, fresh: Sample, mark: SessionMark) -> list[dict[str, Any]]:
    """Name the error, give the right answer, and confirm a right one: of `fresh`, another problem."""
    asked, golden = wrong.sample.user_prompt, wrong.sample.assistant_response
    return [
        _row(IDENTIFY, wrong.sample, _SHOWN.format(prompt=asked, answer=wrong.attempt), INCORRECT_REPLY, mark),
        _row(CORRECT, wrong.sample, asked, golden, mark),
        _row(CONFIRM, fresh, _SHOWN.format(prompt=fresh.user_prompt, answer=fresh.assistant_response), CORRECT_REPLY, mark),
    ]


def rows_of(wrong: Sequence[WrongAnswer], fresh: Sequence[Sample], mark: SessionMark) -> list[dict[str, Any]]:
    """The rows of a session, three for each wrong answer. fresh: one problem for each."""
    return [row for one, other in zip(wrong, fresh, strict=True) for row in correction_rows(one, other, mark)]


def fresh_problems(skill: Skill, level: int, wrong: Sequence[WrongAnswer], asked: Sequence[Sample], seed: int) -> list[Sample]:
    """One problem for each wrong answer that was not asked in the session, as far as the level has such; another than the wrong one in any
    case. Raises RefusedError when the level has only one problem."""
    if not wrong:
        return []
    drawn = skill.generate(level, len(wrong) + len(asked), seed)
    seen = {sample.user_prompt for sample in asked}
    unseen = [sample for sample in {sample.user_prompt: sample for sample in drawn}.values() if sample.user_prompt not in seen]
    return [unseen[at] if at < len(unseen) else _another(one.sample, [*drawn, *asked], at) for at, one in enumerate(wrong)]


def _another(sample: Sample, pool: Sequence[Sample], start: int) -> Sample:
    turned = [pool[(start + at) % len(pool)] for at in range(len(pool))]
    found = next((other for other in turned if other.user_prompt != sample.user_prompt), None)
    if found is None:
        raise RefusedError("sparring: found a level with a single problem; allowed: at least two. Choose another level.")
    return found


def _row(kind: str, sample: Sample, user: str, assistant: str, mark: SessionMark) -> dict[str, Any]:
    signed = {"generator_id": GENERATOR, "generator_version": generator_version(GENERATOR), "skill": mark.skill, "level": mark.level}
    about = {"source": GENERATOR, "sample_id": sample.id, "scenario": sample.scenario, "tags": list(sample.tags), "rubric": sample.rubric}
    bits = sample.metadata.get("bits")
    return {
        "type": kind,
        **signed,
        "session_checkpoint": mark.checkpoint,
        "session_timestamp": mark.timestamp,
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}],
        "metadata": {"schema_id": DEFAULT_SCHEMA, **signed, **about, **({} if bits is None else {"bits": bits})},
    }
