"""What the ranges of a file tell, put together in order: the findings of the whole file, the same however it was cut."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from guild.validation.deep.duplicates import CAPACITY, DuplicateCounter
from guild.validation.rows import RowFault
from guild.validation.scan import EXAMPLES, RangeFindings, Tally


@dataclass
class FileFindings:
    """What a file holds; the fields are those of `RangeFindings`, with lines counted from the file's first."""

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
    duplicates: DuplicateCounter = field(default_factory=lambda: DuplicateCounter(CAPACITY, EXAMPLES))

    def add(self, part: RangeFindings) -> None:
        """Take in the range that follows."""
        base = self.lines
        self.faults += [(base + line, fault) for line, fault in part.faults]
        self.index += [(offset, base + lines, self.rows + rows) for offset, lines, rows in part.index]
        _join(self.blank, part.blank, base)
        _join(self.other_schema, part.other_schema, base)
        for name, tally in part.deep.items():
            _join(self.deep.setdefault(name, Tally()), tally, base)
        self.duplicates.add(part.digests, (base + line for line in part.digest_lines))
        self.marked += part.marked
        self.lines += part.lines
        self.rows += part.rows
        self.sound += part.sound
        self.stopped = self.stopped or part.stopped


def to_wire(part: RangeFindings) -> Iterator[bytes | dict[str, Any]]:
    """A range's findings for a pipe: one JSON object, then its digests and their lines as bytes."""
    yield {
        **{name: getattr(part, name) for name in ("lines", "rows", "sound", "stopped", "index", "marked")},
        "faults": [(line, list(fault)) for line, fault in part.faults],
        "blank": _tally_out(part.blank),
        "other_schema": _tally_out(part.other_schema),
        "deep": {name: _tally_out(tally) for name, tally in part.deep.items()},
    }
    yield part.digests.tobytes()
    yield part.digest_lines.tobytes()


def from_wire(head: dict[str, Any], digests: bytes, lines: bytes) -> RangeFindings:
    """The findings that `to_wire` wrote."""
    part = RangeFindings(head["lines"], head["rows"], head["sound"], head["stopped"], marked=head["marked"])
    part.faults = [(line, RowFault(*fault)) for line, fault in head["faults"]]
    part.index = [(offset, before, rows) for offset, before, rows in head["index"]]
    part.blank, part.other_schema = _tally_in(head["blank"]), _tally_in(head["other_schema"])
    part.deep = {name: _tally_in(tally) for name, tally in head["deep"].items()}
    part.digests, part.digest_lines = array("Q", digests), array("Q", lines)
    return part


def _join(whole: Tally, part: Tally, base: int) -> None:
    whole.rows += part.rows
    room = EXAMPLES - len(whole.examples)
    whole.examples += [(base + line, found) for line, found in part.examples[:room]]


def _tally_out(tally: Tally) -> list[Any]:
    return [tally.rows, tally.examples]


def _tally_in(found: Iterable[Any]) -> Tally:
    rows, examples = found
    return Tally(rows, [(line, text) for line, text in examples])
