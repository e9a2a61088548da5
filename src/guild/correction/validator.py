"""Are sparring files what they should be? (specs/guild.md 3.8, 6.4 step 4)

A row counts as valid when it is chat, has every field of a session, and its answer is the one that its type asks for. A file passes when
at least 95 % of its rows are valid, with `strict` when all are.
"""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from guild.correction.files import PATTERN
from guild.correction.rows import CONFIRM, CORRECT, CORRECT_REPLY, GENERATOR, IDENTIFY, INCORRECT_REPLY, TYPES
from guild.places import PRIORITIES, Places
from guild.prompts import validate_prompt_contains_base
from guild.records.data_sidecars import generator_version
from guild.validation.rows import shown, validate_row
from guild.validation.schemas import DEFAULT_SCHEMA, schema_of
from modelwright.clock import parse_stamp
from modelwright.errors import storage_error

SHARE = 0.95
MOST_FAULTS = 20
"""Sentences that are kept of a file; the counts are whole."""
_VERDICTS = {IDENTIFY: INCORRECT_REPLY, CONFIRM: CORRECT_REPLY}


@dataclass
class FileReport:
    """What was found in a file. faults: sentences about the first wrong rows. types: rows of each type. needed: share of valid rows."""

    path: Path
    needed: float
    rows: int = 0
    valid: int = 0
    faults: list[str] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Valid rows of all, 0 to 1; 0 for a file without rows."""
        return self.valid / self.rows if self.rows else 0.0

    @property
    def passed(self) -> bool:
        return self.rows > 0 and self.valid >= self.needed * self.rows

    @property
    def warnings(self) -> list[str]:
        """What is odd and fails nothing."""
        counts = {self.types[name] for name in TYPES}
        told = ", ".join(f"{self.types[name]} {name}" for name in TYPES)
        return [] if len(counts) == 1 else [f"{self.path.name}: found {told}; a session writes as many of each."]

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "file": str(self.path), "passed": self.passed, "rows": self.rows, "valid": self.valid, "share": self.share,
            "needed": self.needed, "types": dict(self.types), "faults": self.faults, "warnings": self.warnings,
        }  # fmt: skip


def check_file(path: Path, *, strict: bool = False) -> FileReport:
    """Check every row, in constant memory. Raises MissingFileError, StorageError."""
    report = FileReport(path, 1.0 if strict else SHARE)
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    _count(report, number, line)
    except OSError as error:
        raise storage_error(error, path, "read") from error
    return report


def row_faults(row: Any) -> list[str]:
    """Every fault of one parsed row as `place: found …; allowed: …`; none when it is a row of a session."""
    faults = [
        f"{fault.place or 'row'}: found {fault.found}; allowed: {fault.allowed}" for fault in validate_row(row, schema_of(DEFAULT_SCHEMA))
    ]
    if not isinstance(row, dict):
        return faults
    for name, allowed, is_right in _FIELDS:
        if name not in row:
            faults.append(f"{name}: found nothing; allowed: {allowed}")
        elif not is_right(row[name]):
            faults.append(f"{name}: found {shown(row[name])}; allowed: {allowed}")
    return faults or list(_conversation_faults(row))


def all_files(places: Places) -> list[Path]:
    """Every sparring file that is kept or waits: of `guild/sparring_data/`, the inbox and the queue. A copy of a kept one, which is how
    it gets into the queue, is left out. Raises StorageError."""
    folders = (places.sparring_data, places.inbox, *(places.level(level) for level in PRIORITIES), places.processing)
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.glob(PATTERN)):
            same = found.setdefault(path.name, [])
            if path.is_file() and not any(_equal(path, other) for other in same):
                same.append(path)
    return [path for same in found.values() for path in same]


def _equal(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError as error:
        raise storage_error(error, one, "read") from error


def _count(report: FileReport, number: int, line: bytes) -> None:
    report.rows += 1
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        faults = [f"row: found no JSON ({error}); allowed: one JSON object in a line"]
    else:
        faults = row_faults(row)
        if isinstance(row, dict) and isinstance(row.get("type"), str):
            report.types[row["type"]] += 1
    report.valid += not faults
    report.faults += [f"{report.path.name} line {number}: {fault}" for fault in faults][: MOST_FAULTS - len(report.faults)]


def _conversation_faults(row: dict[str, Any]) -> Iterator[str]:
    """Faults of a row whose fields are right."""
    messages = row["messages"]
    roles = [message["role"] for message in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        yield f"messages: found the turns {', '.join(roles)}; allowed: user, assistant"
        return
    if roles[0] == "system" and not validate_prompt_contains_base(messages[0]["content"]):
        yield "messages[0]: found another system prompt; allowed: the base prompt, or none"
    asked, answer = messages[-2]["content"], messages[-1]["content"]
    if not asked.strip():
        yield "messages: found an empty question; allowed: the problem"
    wanted = _VERDICTS.get(row["type"])
    if wanted is not None and answer.strip() != wanted:
        yield f"messages: found the answer {shown(answer)}; allowed in {row['type']}: {wanted!r}"
    elif row["type"] == CORRECT and (not answer.strip() or answer.strip() in _VERDICTS.values()):
        yield f"messages: found the answer {shown(answer)}; allowed in {CORRECT}: the golden answer"


def _is_stamp(value: Any) -> bool:
    try:
        parse_stamp(value)
    except (ValueError, TypeError):
        return False
    return True


def _is_level(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_FIELDS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("type", f"one of {', '.join(TYPES)}", lambda value: value in TYPES),
    ("skill", "the id of a skill", _is_text),
    ("level", "a whole number of at least 1", _is_level),
    ("generator_id", repr(GENERATOR), lambda value: value == GENERATOR),
    ("generator_version", repr(generator_version(GENERATOR)), lambda value: value == generator_version(GENERATOR)),
    ("session_checkpoint", "the checkpoint that was asked", lambda value: _is_text(value) or _is_level(value)),
    ("session_timestamp", "a time stamp", _is_stamp),
)
