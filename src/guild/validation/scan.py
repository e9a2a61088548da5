"""One pass over one range of a training file: each line parsed once, checked by the rules for rows and, when deep, by the row checks.

What a range tells (`RangeFindings`) depends on its bytes only, and findings of neighbouring ranges can be put together (`merging.py`); line
numbers count from the range's first line.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from guild.validation.deep.checks import ROW_CHECKS, RowCheck
from guild.validation.deep.duplicates import digest
from guild.validation.deep.views import view_of
from guild.validation.reading import BLOCK_BYTES, MAX_LINE_BYTES, Line, Overlong, read_blocks
from guild.validation.rows import RowFault, named_schema, shown, sound_rows, validate_row
from guild.validation.schemas import DataSchema, schema_of

EXAMPLES = 5
"""How many rows of each kind of finding are named with their lines."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ScanTask:
    """What to scan and how. budget: stop at this many faults. deep: also the row checks, without those in `skip`."""

    path: str
    start: int
    end: int
    schema_id: str
    budget: int
    strict: bool = False
    deep: bool = False
    skip: tuple[str, ...] = ()
    block_bytes: int = BLOCK_BYTES
    max_line_bytes: int = MAX_LINE_BYTES


@dataclass
class Tally:
    """Rows with one kind of finding: how many, and the first of them as (line, what was found)."""

    rows: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, found: str) -> None:
        self.rows += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((line, found))


@dataclass
class RangeFindings:
    """What a range holds. Counts are of lines and rows (lines that are not blank) of the range.

    faults: (line, fault). stopped: the budget of faults ended the scan. index: (byte, lines before, rows before) where each block begins.
    marked: rows whose reply opens with a thinking mark. digests, digest_lines: of the sound rows, for duplicates (deep only).
    """

    lines: int = 0
    rows: int = 0
    sound: int = 0
    stopped: bool = False
    faults: list[tuple[int, RowFault]] = field(default_factory=list)
    index: list[tuple[int, int, int]] = field(default_factory=list)
    blank: Tally = field(default_factory=Tally)
    other_schema: Tally = field(default_factory=Tally)
    deep: dict[str, Tally] = field(default_factory=dict)
    marked: int = 0
    digests: array[int] = field(default_factory=lambda: array("Q"))
    digest_lines: array[int] = field(default_factory=lambda: array("Q"))


def scan(task: ScanTask, checks: Mapping[str, RowCheck] = ROW_CHECKS) -> RangeFindings:
    """Scan one range. Raises OSError, and whatever a check raises."""
    schema = schema_of(task.schema_id)
    sound = sound_rows(schema)
    deep = _DeepScan(task, schema, checks) if task.deep else None
    findings = RangeFindings()
    number = 0
    for block in read_blocks(task.path, task.start, task.end, block_bytes=task.block_bytes, max_line_bytes=task.max_line_bytes):
        findings.index.append((block.offset, number, number - findings.blank.rows))
        for line in block.lines:
            number += 1
            try:
                row = orjson.loads(line)  # type: ignore[arg-type]  # an Overlong is no input of the parser either
            except orjson.JSONDecodeError as error:
                faults, row = _unparsed(line, error, task.max_line_bytes)
                if faults is None:
                    findings.blank.add(number, "a blank line")
                    continue
                faults += validate_row(row, schema, strict=task.strict) if row is not None else []
            else:
                if sound(row) and not task.strict:
                    if deep:
                        deep.look(number, row, findings)
                    continue
                faults = validate_row(row, schema, strict=task.strict)
            if faults:
                findings.faults += [(number, fault) for fault in faults]
                if len(findings.faults) >= task.budget:
                    findings.stopped = True
                    del findings.faults[task.budget :]
                    break
                continue
            if named_schema(row) not in (None, schema.id):
                findings.other_schema.add(number, named_schema(row))
            if deep:
                deep.look(number, row, findings)
        if findings.stopped:
            break
    findings.lines, findings.rows = number, number - findings.blank.rows
    findings.sound = findings.rows - len({line for line, _ in findings.faults})
    return findings


class _DeepScan:
    """The row checks of one task."""

    def __init__(self, task: ScanTask, schema: DataSchema, checks: Mapping[str, RowCheck]) -> None:
        chat = schema.column == "messages"
        self._checks = [(name, check.find) for name, check in checks.items() if name not in task.skip and (chat or not check.chat_only)]
        self._column = schema.column
        self._digests = "duplicates" not in task.skip

    def look(self, line: int, row: dict[str, Any], findings: RangeFindings) -> None:
        view = view_of(row, self._column)
        for name, find in self._checks:
            found = find(view)
            if found is not None:
                findings.deep.setdefault(name, Tally()).add(line, found)
        findings.marked += view.marked
        if self._digests:
            findings.digests.append(digest(view))
            findings.digest_lines.append(line)


def _unparsed(line: Line, error: orjson.JSONDecodeError, limit: int) -> tuple[list[RowFault] | None, Any]:
    """(faults, row) of a line that is no JSON as it stands: (None, None) for a blank one; behind a byte order mark there may be a row."""
    if isinstance(line, Overlong):
        return [RowFault("", f"{line.size:,} bytes", f"at most {limit:,} bytes in a line", "Split the row, or leave it out")], None
    if not line.strip():
        return None, None
    if line.startswith(_BYTE_ORDER_MARK):
        mark = RowFault("", "a byte order mark", "UTF-8 without one", "Save the file as plain UTF-8")
        try:
            return [mark], orjson.loads(line[3:])
        except orjson.JSONDecodeError as inner:
            return [mark, *(_unparsed(line[3:], inner, limit)[0] or [])], None
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        found = f"the byte 0x{line[wrong.start]:02x} at column {wrong.start + 1}"
        return [RowFault("", found, "UTF-8 text", "Convert the file to UTF-8")], None
    return [RowFault("", f"{shown(text)} ({error.msg} at column {error.colno})", "one JSON object")], None
