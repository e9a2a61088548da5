"""What a file must pass before its first step: the spec gate and the lengths of its rows in the model's tokens. (specs/guild.md 2.1.1, 5.2)

Every verdict goes into the lineage. A validator that fails is a verdict against the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.places import Places
from guild.records.lineage import record_validation
from guild.validation.validate import validate_file
from modelwright.clock import Clock
from modelwright.database import Database


@dataclass(frozen=True)
class Gate:
    """passed: the file may be trained. errors: why not. schema, generator: of its rows. rows: how many."""

    passed: bool
    errors: tuple[str, ...]
    schema: str
    generator: str | None
    rows: int


def check_rows(db: Database, places: Places, file: Path, *, schema: str | None, tokenizer: Any, max_length: int, clock: Clock) -> Gate:
    """STANDARD validation with the campaign's tokenizer. A file that names no schema holds chat rows, as the original's do."""
    from guild.validation.lengths import token_counter

    report = validate_file(file, "standard", schema=schema, allow_default=True, tokenizer=token_counter(tokenizer), max_length=max_length)
    record_validation(db, places, report, file, clock=clock)
    stats = report.stats
    generator = report.generator_id if report.generator_id != "unknown" else None
    return Gate(report.valid, tuple(report.errors), str(stats.get("schema_id") or "chat_sft_v1"), generator, int(stats.get("rows") or 0))
