"""One problem of a validation set: its five fields, how it is stored, and its one judge. (specs/guild.md 4.7)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from guild.evaluation import answers
from guild.skills.contract import Sample, Skill, Verdict
from modelwright.errors import DamagedFileError
from modelwright.files import encode_line, read_bytes, write_bytes

SKILL = "skill:"
ANSWER = "answer:"
_TODO = "Correct the line, or move the set away"
FIELDS = ("skill", "difficulty", "user_prompt", "expected_answer", "metadata")


@dataclass(frozen=True)
class Row:
    """A problem. difficulty: easy, medium, hard, or `level_NN`. metadata: `judge` is `answer:<kind>` (see `answers`) or `skill:<id>`; for a
    skill, `sample` holds what its judge needs beside the texts."""

    skill: str
    difficulty: str
    user_prompt: str
    expected_answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judged_by(self) -> str:
        """`answer:<kind>` or `skill:<id>`; a row that names none is judged as text."""
        return str(self.metadata.get("judge") or f"{ANSWER}text")

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**{name: getattr(self, name) for name in FIELDS[:-1]}, "metadata": dict(self.metadata)}

    def sample(self) -> Sample:
        """The row as its skill's judge knows it."""
        told = self.metadata.get("sample")
        known = told if isinstance(told, Mapping) else {}
        return Sample(
            str(known.get("id", "")),
            self.user_prompt,
            self.expected_answer,
            tuple(map(str, known.get("tags", ()))),
            "",
            known.get("scenario"),
            dict(known.get("metadata", {})),
        )


def row_of_sample(skill: Skill, difficulty: str, sample: Sample) -> Row:
    """A skill's sample as a row."""
    kept = {"id": sample.id, "tags": list(sample.tags), "scenario": sample.scenario, "metadata": dict(sample.metadata)}
    meta = {"judge": f"{SKILL}{skill.id}", "version": skill.version, "sample": kept}
    return Row(skill.id, difficulty, sample.user_prompt, sample.assistant_response, meta)


def judge_row(row: Row, reply: str, skills: Mapping[str, Skill]) -> Verdict:
    """The verdict on a reply: the skill's own judge, or that of short answers. skills: those whose rows may come, by id."""
    name = row.judged_by
    if name.startswith(SKILL):
        return skills[name.removeprefix(SKILL)].judge(row.sample(), reply)
    return answers.judge(name.removeprefix(ANSWER), row.expected_answer, reply)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a set's file, one row a line. Raises StorageError."""
    write_bytes(path, b"".join(encode_line(row.as_dict()) for row in rows))


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, also of one that another program wrote with the five fields. Raises DamagedFileError for the first wrong line."""
    rows = []
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DamagedFileError(path, f"line {number} is no JSON ({error.msg})", "one JSON object in each line", _TODO) from error
        texts = {name: found.get(name) if isinstance(found, dict) else None for name in FIELDS[:-1]}
        wrong = [name for name, value in texts.items() if not isinstance(value, str)]
        if wrong:
            raise DamagedFileError(path, f"line {number} has no text {', '.join(wrong)}", f"rows with {', '.join(FIELDS)}", _TODO)
        metadata = found.get("metadata")
        skill, difficulty, prompt, expected = (str(texts[name]) for name in FIELDS[:-1])
        rows.append(Row(skill, difficulty, prompt, expected, metadata if isinstance(metadata, dict) else {}))
    return rows
