"""The door of validation: one file, one level, one report. (specs/guild.md 5.2)

    report = validate_file("train.jsonl", "deep", tokenizer=token_counter(tokenizer), max_length=2048)
    if not report.valid: …  # the caller records the report in lineage either way

Levels are cumulative: `quick` looks at every line, `standard` also measures tokens on a sample, `deep` also looks for what makes
well-formed rows bad. The file is read once, in constant memory, by as many processes as it is worth.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Literal, get_args

from guild.validation.deep.checks import ROW_CHECKS, RowCheck
from guild.validation.failures import checked
from guild.validation.gate import LIMITS, FileLimits, admit, require_unchanged
from guild.validation.judging import Verdict, judge_deep, judge_first_rows, judge_lengths, judge_rows
from guild.validation.lengths import FIRST_ROWS, TokenCounter, characters, measure, rows_at, sample_numbers
from guild.validation.merging import FileFindings
from guild.validation.origin import choose_schema, maker, read_origin, read_sidecar
from guild.validation.policy import WARN, Policy
from guild.validation.reading import BLOCK_BYTES
from guild.validation.report import DATA_VALIDATOR, Generator, ValidationReport, make_report
from guild.validation.scan import ScanTask, scan
from guild.validation.schemas import DataSchema
from guild.validation.workers import WORTH_A_WORKER, scanned, usable_workers
from modelwright.errors import UsageError

Level = Literal["quick", "standard", "deep"]
LEVELS: tuple[Level, ...] = get_args(Level)
MOST_ERRORS = 100
"""QUICK stops here: a file with so many is not mended line by line."""


@dataclass(frozen=True)
class ReadingPlan:
    """How a file is cut for reading; no report depends on it. Bytes of a block and of a range (None: by the file's size)."""

    block_bytes: int = BLOCK_BYTES
    range_bytes: int | None = None

    def ranges(self, size: int, workers: int) -> list[tuple[int, int]]:
        """The ranges of a file of `size` bytes as (start, end)."""
        step = self.range_bytes or max(1 << 20, min(16 << 20, size // (4 * workers)))
        return [(start, min(start + step, size)) for start in range(0, size, step)]


WHOLE = ReadingPlan()
"""Cut by the size of the file."""


def validate_file(
    path: str | PathLike[str],
    level: Level = "quick",
    *,
    schema: str | None = None,
    allow_default: bool = False,
    strict: bool = False,
    tokenizer: TokenCounter | None = None,
    max_length: int | None = None,
    policy: Policy = WARN,
    workers: int | None = None,
    limits: FileLimits = LIMITS,
    reading: ReadingPlan = WHOLE,
    checks: Mapping[str, RowCheck] = ROW_CHECKS,
) -> ValidationReport:
    """Validate a training file. Whatever goes wrong on the way makes the file invalid, with the reason as its error.

    Args:
        schema: the id that the job names; without it the sidecar or the first row must, or `allow_default`.
        strict: every row must also say where it comes from (`schemas.METADATA_KEYS`).
        tokenizer: counts tokens of a text or of messages (`lengths.token_counter`). Without it STANDARD reports characters.
        max_length: tokens a row may have; needs `tokenizer`. STANDARD then fails above it (95th percentile of the sample or of the first
            100 rows, or one reply of those).
        policy: which findings of DEEP block.
        workers: processes (None: as many as this process may use, one for a small file). The report is the same for any number.
        checks: the row checks of DEEP; others than the built-in ones are made in this process.
    Raises:
        UsageError: for arguments that contradict each other; never because of the file.
    """
    if level not in LEVELS:
        raise UsageError(f"level: found {level!r}; allowed: {', '.join(LEVELS)}.")
    if max_length is not None and level != "quick" and tokenizer is None:
        raise UsageError(f"max_length: found {max_length} without a tokenizer; allowed: both or none, for tokens are counted by one.")
    own_checks = checks is not ROW_CHECKS
    if own_checks and (workers or 1) > 1:
        raise UsageError(f"workers: found {workers} with checks of one's own; allowed: 1, because they are made in this process.")
    generator = Generator()

    def validate() -> ValidationReport:
        nonlocal generator
        sidecar = read_sidecar(path)
        generator = maker(sidecar)
        state = admit(path, limits)
        origin = read_origin(path, sidecar, max_line_bytes=limits.line_bytes)
        generator = origin.generator
        shape, source = choose_schema(path, origin, schema, allow_default=allow_default)
        name = os.fspath(path)
        task = ScanTask(name, 0, state.size, shape.id, MOST_ERRORS, strict, level == "deep", tuple(sorted(policy.skip)))
        task = replace(task, block_bytes=reading.block_bytes, max_line_bytes=limits.line_bytes)
        count = 1 if own_checks else workers or _worth_workers(state.size, deep=task.deep)
        found = scan_file(task, reading.ranges(state.size, count), count, checks)
        verdict = Verdict(stats={"level": level, "schema_id": shape.id, "schema_source": source, "bytes": state.size})
        judge_rows(name, found, verdict, budget=MOST_ERRORS, examples=origin.examples)
        if not found.stopped and level != "quick":
            _measure(name, shape, found, task, tokenizer, max_length, verdict)
        if not found.stopped and level == "deep":
            judge_deep(name, found, policy, verdict, dict(checks))
        require_unchanged(path, state)
        return make_report(DATA_VALIDATOR, generator, verdict.errors, verdict.warnings, verdict.stats)

    return checked(validate, path, validator=DATA_VALIDATOR, generator=lambda: generator)


def scan_file(task: ScanTask, ranges: list[tuple[int, int]], workers: int = 1, checks: Mapping[str, RowCheck] = ROW_CHECKS) -> FileFindings:
    """The findings of all ranges, up to the fault at which `task.budget` is spent. Raises what a range does."""
    tasks = [replace(task, start=start, end=end) for start, end in ranges]
    found = FileFindings()
    with scanned(tasks, workers, checks) as parts:
        for one, part in zip(tasks, parts, strict=True):
            left = task.budget - len(found.faults)
            if left < task.budget and len(part.faults) >= left:
                part = scan(replace(one, budget=left), checks)  # again, up to the very line where the budget is spent
            found.add(part)
            if found.stopped:
                break
    return found


def _worth_workers(size: int, *, deep: bool) -> int:
    return usable_workers() if size >= WORTH_A_WORKER["deep" if deep else "quick"] else 1


def _measure(
    name: str,
    schema: DataSchema,
    found: FileFindings,
    task: ScanTask,
    tokenizer: TokenCounter | None,
    max_length: int | None,
    verdict: Verdict,
) -> None:
    count = tokenizer or characters
    numbers = sample_numbers(found.rows)
    cut = {"block_bytes": task.block_bytes, "max_line_bytes": task.max_line_bytes}
    sample = measure(rows_at(name, numbers, found.index, **cut), schema, count)
    judge_lengths(name, sample, "tokens" if tokenizer else "characters", max_length, verdict)
    if max_length is not None:
        first = measure(rows_at(name, range(min(FIRST_ROWS, found.rows)), found.index, **cut), schema, count)
        judge_first_rows(name, first, max_length, verdict)
