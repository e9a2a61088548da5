"""What a file must pass before its first step: the spec gate, then its rows, with lengths in the model's tokens. (specs/guild.md 2.1.1, 5)

Every verdict goes into the lineage. A validator that fails is a verdict against the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.campaigns.config_file import ValidationSection
from guild.places import Places
from guild.records.lineage import record_validation
from guild.validation.job import check_job
from guild.validation.report import ValidationReport
from guild.validation.validate import validate_file
from modelwright.clock import Clock
from modelwright.database import Database
from modelwright.errors import DamagedFileError


@dataclass(frozen=True)
class Gate:
    """passed: the file may be trained. errors: why not. schema, generator: of its rows. rows: how many."""

    passed: bool
    errors: tuple[str, ...]
    schema: str = ""
    generator: str | None = None
    rows: int = 0


def check_rows(
    db: Database,
    places: Places,
    file: Path,
    *,
    payload: Mapping[str, Any],
    base_model: str,
    rules: ValidationSection,
    tokenizer: Any,
    max_length: int,
    clock: Clock,
) -> Gate:
    """`check_job`, and when that passes STANDARD (or DEEP) validation with the campaign's tokenizer.

    payload: of the file's job, which may name the schema of rows that do not, or allow the default. base_model: that it is trained into.
    rules: of `config.json`. Raises StorageError.
    """
    from guild.validation.lengths import token_counter

    named, default = payload.get("schema_id"), bool(payload.get("allow_default")) or rules.allow_default
    job = {"dataset_path": str(file), "base_model": base_model, **({"schema_id": named} if named is not None else {})}
    reports: list[ValidationReport] = []
    try:
        for check in (
            lambda: check_job(job, allow_default=default),
            lambda: validate_file(
                file, rules.level, schema=named, allow_default=default, tokenizer=token_counter(tokenizer), max_length=max_length,
                policy=rules.policy(),
            ),
        ):  # fmt: skip
            reports.append(check())
            record_validation(db, places, reports[-1], file, clock=clock)
            if not reports[-1].valid:
                break
    except DamagedFileError as error:  # its sidecar, which takes no verdict
        return Gate(False, (*(sentence for report in reports for sentence in report.errors), str(error)))
    last = reports[-1]
    return Gate(last.valid, last.errors, str(last.stats.get("schema_id") or ""), last.generator_id, int(last.stats.get("rows") or 0))
