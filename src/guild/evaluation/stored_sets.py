"""The validation sets as they lie on disk, ours or a user's. (specs/guild.md 4.7, 6.1)

Rows of `binary` and `syllo_10level` that name no judge, as another program may have written them, are judged by their skill, those of
`binary` also in its older dialect. Evaluation files of BIN that lie in `binary` belong to that set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from guild.evaluation.rows import SKILL, Row, read_rows
from guild.evaluation.sets import SetName
from guild.places import Places
from guild.skills.binary.evalfiles import NAMES, read_evaluation_file, stored_sample
from guild.skills.contract import Sample
from modelwright.errors import MissingFileError
from modelwright.files import sha256_file, sha256_json

OF_SKILLS: tuple[SetName, ...] = ("binary", "syllo_10level")
"""Sets whose rows a skill judges; their parts are difficulties."""


def read_set(places: Places, name: SetName) -> dict[str, list[Row]]:
    """The rows of a set on disk, ours or a user's, by skill, in the order of paths and lines.

    Raises MissingFileError when it is not there or holds no row, DamagedFileError for a line that is no row, ConfigError for an evaluation
    file that is none.
    """
    folder = places.validation_data / name
    found: dict[str, list[Row]] = {}
    for path in _files(folder, name):
        rows = read_rows(path) if path.suffix == ".jsonl" else _evaluation_rows(path)
        for row in rows:
            found.setdefault(row.skill, []).append(_with_judge(row, name))
    if not found:
        raise MissingFileError(f"There is no validation set at {folder}. Make it by `python -m guild.evaluation.sets`.", folder)
    return found


def set_digest(places: Places, name: SetName) -> str:
    """SHA-256 over paths and bytes of a set's files: two scores can be compared when it is the same."""
    folder = places.validation_data / name
    return sha256_json({path.relative_to(folder).as_posix(): sha256_file(path) for path in _files(folder, name)})


def _files(folder: Path, name: SetName) -> list[Path]:
    """The files of a set that hold rows."""
    patterns = ("*.jsonl", *NAMES) if name == "binary" else ("*.jsonl",)
    return sorted({path for pattern in patterns for path in folder.rglob(pattern)})


def _evaluation_rows(path: Path) -> list[Row]:
    return [
        Row("bin", f"level_{level:02d}", one.user_prompt, one.assistant_response, {"id": one.id, **_judged("bin", one)})
        for level, samples in read_evaluation_file(path).items()
        for one in samples
    ]


def _with_judge(row: Row, name: SetName) -> Row:
    """The row itself, or with the judge that a row of this set has when it names none."""
    if name not in OF_SKILLS or "judge" in row.metadata:
        return row
    if name == "binary":
        sample = stored_sample(str(row.metadata.get("id", "")), row.user_prompt, row.expected_answer, row.metadata)
        return replace(row, metadata={**row.metadata, **_judged("bin", sample)})
    puzzle = row.metadata.get("puzzle")
    if not isinstance(puzzle, Mapping) or not puzzle.get("words"):
        return row  # nothing says which answers are right but the text itself
    return replace(row, metadata={**row.metadata, "judge": f"{SKILL}sy", "sample": {"metadata": {"puzzle": puzzle}}})


def _judged(skill: str, sample: Sample) -> dict[str, Any]:
    kept = {"id": sample.id, "tags": list(sample.tags), "scenario": sample.scenario, "metadata": dict(sample.metadata)}
    return {"judge": f"{SKILL}{skill}", "sample": kept}
