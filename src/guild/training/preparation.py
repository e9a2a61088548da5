"""A training file to prepared rows: shuffled, a part held out, under one dated system prompt, in the profile's words.

(specs/guild.md 2.1.4, 2.1.6, 5.4) The file is read twice: once for where its usable rows lie (three numbers a row), once row by row
while they are encoded, so a file larger than memory can be prepared. The order depends on the seed alone.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any, overload

from guild.prompts import BASE_PROMPT, dated_prompt, with_base_prompt
from guild.training.profiles.base import DataProfile
from guild.training.rows import UnusableRowError, read_row
from modelwright.errors import LoadError, ModelwrightError, storage_error

VALIDATION_SPLIT = 0.05
MAX_VALIDATION = 100
_BASE = re.compile(r"(?:Today is \S+\s+)?" + re.escape(BASE_PROMPT))
_EXAMPLES = 5


class ProfileRuleError(ModelwrightError):
    """A profile that lost the base prompt or doubled it."""


@dataclass(frozen=True)
class PreparationReport:
    """What became of a file's lines. rows: usable ones, training and validation together. left_out: lines that were not, by reason.
    examples: the first of them, as sentences. mended: contents that were no text and were turned into one."""

    lines: int
    rows: int
    training_rows: int
    validation_rows: int
    mended: int
    left_out: dict[str, int]
    examples: tuple[str, ...]
    profile: str
    profile_version: str
    prompt_date: str
    system_prompt: str
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, for the run's record."""
        return asdict(self)


class PreparedRows(Sequence[dict[str, Any]]):
    """Rows in training order, read from the file when asked for. A row is what the profile made of it, with `index`, its place in the
    file from 0; a row of text has the system prompt as `preface`."""

    def __init__(self, path: Path, offsets: Sequence[int], indices: Sequence[int], order: Sequence[int], preparer: DatasetPreparer) -> None:
        self.path, self._offsets, self._indices, self._order, self._preparer = path, offsets, indices, order, preparer

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> PreparedRows: ...
    def __getitem__(self, at: int | slice) -> dict[str, Any] | PreparedRows:
        if isinstance(at, slice):
            return PreparedRows(self.path, self._offsets, self._indices, self._order[at], self._preparer)
        return next(self._read([self._order[at]]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._read(self._order)

    def _read(self, order: Sequence[int]) -> Iterator[dict[str, Any]]:
        with open(self.path, "rb") as file:
            for place in order:
                file.seek(self._offsets[place])
                yield self._preparer.transform(read_row(file.readline()).row, self._indices[place])


@dataclass(frozen=True)
class PreparedFile:
    """A file's rows to train and to measure on, and what was done to it."""

    training: PreparedRows
    validation: PreparedRows
    report: PreparationReport


@dataclass(frozen=True)
class DatasetPreparer:
    """profile: of the campaign. day: of the base prompt. system_prompt: an addition to it, used when the profile has no prompt of its own.
    validation_split, max_validation: the held-out share and count, of which the smaller counts. seed: of the order."""

    profile: DataProfile
    day: date
    system_prompt: str = ""
    validation_split: float = VALIDATION_SPLIT
    max_validation: int = MAX_VALIDATION
    seed: int = 42

    @property
    def prompt(self) -> str:
        """The system prompt of every row: the profile's template, else the one given, else the base prompt alone."""
        template = self.profile.get_system_prompt_template()
        chosen = template.format(date=self.day.isoformat()) if template else self.system_prompt
        return dated_prompt(self.day, _BASE.sub("", chosen))

    def prepare(self, path: Path) -> PreparedFile:
        """Read a file. Raises LoadError when it has no usable row, StorageError when it cannot be read."""
        offsets, indices = array("q"), array("q")
        left_out: Counter[str] = Counter()
        examples: list[str] = []
        lines = mended = position = 0
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file):
                    begin, position = position, position + len(line)
                    if not line.strip():
                        continue
                    lines += 1
                    try:
                        clean = read_row(line)
                        self._refuse(clean.row)
                    except UnusableRowError as error:
                        left_out[str(error)] += 1
                        if len(examples) < _EXAMPLES:
                            examples.append(f"{path.name} line {number + 1}: found {error}; the row is left out.")
                        continue
                    mended += clean.mended
                    offsets.append(begin)
                    indices.append(number)
        except OSError as error:
            raise storage_error(error, path, "read") from error
        if not offsets:
            reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.most_common()) or "it has no lines"
            raise LoadError(f"{path}: no row can be trained ({reasons}); at least one is needed.")
        order = list(range(len(offsets)))
        Random(f"rows:{self.seed}").shuffle(order)
        held = min(self.max_validation, int(len(order) * self.validation_split))
        report = PreparationReport(
            lines=lines,
            rows=len(order),
            training_rows=len(order) - held,
            validation_rows=held,
            mended=mended,
            left_out=dict(left_out),
            examples=tuple(examples),
            profile=self.profile.name,
            profile_version=self.profile.version,
            prompt_date=self.day.isoformat(),
            system_prompt=self.prompt,
            seed=self.seed,
        )
        rows = PreparedRows(path, offsets, indices, array("q", order), self)
        return PreparedFile(rows[held:], rows[:held], report)

    def transform(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        """A clean row as it is trained. Raises ProfileRuleError when the profile broke the rule of the base prompt."""
        if "messages" not in row:
            return {**row, "preface": self.prompt, "index": index}
        example = {**row, "messages": with_base_prompt(row["messages"], self.prompt)}
        made = self.profile.transform_example(example, index, self.prompt)
        systems = [m["content"] for m in made["messages"] if m["role"] == "system"]
        if len(systems) != 1 or made["messages"][0]["role"] != "system" or systems[0].count(dated_prompt(self.day)) != 1:
            raise ProfileRuleError(
                f"profile {self.profile.name}: found {len(systems)} system messages in row {index}; allowed: one, the first, with the base "
                "prompt of the day exactly once. Let the profile append to the system prompt and nothing else."
            )
        return {**made, "index": index}

    def _refuse(self, row: dict[str, Any]) -> None:
        faults = self.profile.validate_example(row)
        if faults:
            raise UnusableRowError(faults[0])
