"""Data lineage: every verdict of every validator on every data file, and what that says of the generators. (specs/guild.md 4.6, 5.2)

A verdict is written into the data file's sidecar first, then to the table `validations`, then to `status/data_lineage.json`; one on a file
that is on its way into the queue, whose sidecar moves with it, is signed where it comes to lie (`sign_sidecar`). The sidecars of files that
still exist rebuild the table.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import apsw

from guild.places import PRIORITIES, Places
from guild.records.data_sidecars import UNKNOWN_GENERATOR, DataSidecar, read_data_sidecar, write_data_sidecar
from guild.records.lineage_documents import write_lineage_document
from guild.records.original_lineage import adopt_totals, counted_before
from guild.records.status_documents import records_lock
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database
from modelwright.errors import ModelwrightError

KEPT_MESSAGES = 20
"""Messages of one verdict that are kept, in the sidecar and in the table; the counts are whole."""
MESSAGE_LETTERS = 200
_NUMBER = re.compile(r"\d+")


class Report(Protocol):
    """What a validator says of a data file. errors, warnings: sentences."""

    @property
    def valid(self) -> bool: ...
    @property
    def errors(self) -> Sequence[Any]: ...
    @property
    def warnings(self) -> Sequence[Any]: ...
    @property
    def validator_name(self) -> str: ...
    @property
    def validator_version(self) -> str: ...
    @property
    def generator_id(self) -> str | None: ...
    @property
    def generator_version(self) -> str | None: ...


@dataclass(frozen=True)
class Verdict:
    """One row of `validations`. file: the data file's name, which it keeps as it moves. validator, generator: `id@version`. errors: kind of
    error → how often."""

    at: str
    file: str
    validator: str
    generator: str
    valid: bool
    errors: dict[str, int]
    warnings: int


def record_validation(
    db: Database, places: Places, report: Report, data_file: Path | None = None, *, file_name: str = "", clock: Clock = SYSTEM_CLOCK
) -> Verdict:
    """Record what a validator said of `data_file`, in its sidecar when it has one, in the table, and in the exported document.

    data_file: where the file lies now; None for data that never became a file, which `file_name` then names. The generator is the
    report's, else the sidecar's, else `UNKNOWN_GENERATOR`. Raises DamagedFileError for a sidecar that cannot be read, StorageError.
    """
    with records_lock(places):
        sidecar = read_data_sidecar(data_file) if data_file is not None else None
        verdict = _verdict(report, sidecar, data_file.name if data_file is not None else file_name, stamp(clock.now(), millis=True))
        if sidecar is not None and data_file is not None:
            write_data_sidecar(data_file, _signed(sidecar, report, verdict))
        with db.transaction() as connection:
            _insert(connection, verdict)
        write_lineage_document(db, places)
    return verdict


def sign_sidecar(places: Places, data_file: Path, report: Report, verdict: Verdict) -> bool:
    """Write a recorded verdict into the sidecar that now lies beside its file; False when the file has none. Raises DamagedFileError,
    StorageError."""
    with records_lock(places):
        sidecar = read_data_sidecar(data_file)
        if sidecar is not None:
            write_data_sidecar(data_file, _signed(sidecar, report, verdict))
    return sidecar is not None


def rebuild_lineage(db: Database, places: Places) -> list[str]:
    """Enter every verdict that the sidecars below the inbox, the queue and the rejected files tell of and the table lacks, then export.

    Verdicts on files that are gone stay; those in the original's sidecars are entered only when its own totals are unknown, which hold
    them already. Returns a sentence for each file that cannot be read.
    """
    _, faults = adopt_totals(db, places)
    faults += enter_told(db, places)
    with records_lock(places):
        write_lineage_document(db, places)
    return faults


def enter_told(db: Database, places: Places) -> list[str]:
    """The same without the original's totals, which are adopted first, and without the export."""
    faults: list[str] = []
    with records_lock(places):
        originals_too = not counted_before(db)
        verdicts: list[Verdict] = []
        for data_file in _data_files(places):
            try:
                sidecar = read_data_sidecar(data_file)
            except ModelwrightError as error:
                faults.append(str(error))
                continue
            verdicts += _told(sidecar, data_file.name, originals_too) if sidecar is not None else []
        with db.transaction() as connection:
            for verdict in verdicts:
                _insert(connection, verdict)
    return faults


def _verdict(report: Report, sidecar: DataSidecar | None, name: str, at: str) -> Verdict:
    if report.generator_id:
        maker = (report.generator_id, report.generator_version or UNKNOWN_GENERATOR[1])
    elif sidecar is not None:
        maker = (sidecar.generator_id, sidecar.generator_version)
    else:
        maker = UNKNOWN_GENERATOR
    return Verdict(
        at=at,
        file=name,
        validator=f"{report.validator_name}@{report.validator_version}",
        generator="@".join(maker),
        valid=bool(report.valid),
        errors=_kinds(report.errors),
        warnings=len(report.warnings),
    )


def _signed(sidecar: DataSidecar, report: Report, verdict: Verdict) -> DataSidecar:
    """The sidecar with one more verdict in its list, and in the fields of 4.6; it passed when the newest verdict of every validator did."""
    earlier = [entry for entry in sidecar.extra.get("validations", []) if isinstance(entry, dict)]
    mine = {
        "file": verdict.file,  # a file that is done gets another name
        "validator": verdict.validator,
        "generator": verdict.generator,
        "at": verdict.at,
        "valid": verdict.valid,
        "errors": verdict.errors,
        "warnings": verdict.warnings,
    }
    newest = {str(entry.get("validator")): bool(entry.get("valid")) for entry in [*earlier, mine]}
    return sidecar.model_copy(
        update={
            "validated_at": verdict.at,
            "validator_versions": {**sidecar.validator_versions, report.validator_name: report.validator_version},
            "validation_passed": all(newest.values()),
            "validation_errors": _messages(report.errors),
            "validation_warnings": _messages(report.warnings),
            "extra": {**sidecar.extra, "validations": [*earlier, mine]},
        }
    )


def _told(sidecar: DataSidecar, name: str, originals_too: bool) -> list[Verdict]:
    """The verdicts in a sidecar; of the original's, which holds only the newest outcome, one for each validator that it names."""
    entries = sidecar.extra.get("validations")
    maker = f"{sidecar.generator_id}@{sidecar.generator_version}"
    if isinstance(entries, list):
        return [
            Verdict(
                at=str(entry.get("at", "")),
                file=str(entry.get("file") or name),
                validator=str(entry.get("validator", "")),
                generator=str(entry.get("generator") or maker),
                valid=bool(entry.get("valid")),
                errors={str(kind): int(count) for kind, count in dict(entry.get("errors") or {}).items()},
                warnings=int(entry.get("warnings") or 0),
            )
            for entry in entries
            if isinstance(entry, dict)
        ]
    if not originals_too or sidecar.validated_at is None or sidecar.validation_passed is None:
        return []
    errors = _kinds(sidecar.validation_errors) if isinstance(sidecar.validation_errors, list) else {}
    warnings = sidecar.validation_warnings
    return [
        Verdict(
            at=sidecar.validated_at,
            file=name,
            validator=f"{validator}@{version}",
            generator=maker,
            valid=sidecar.validation_passed,
            errors=errors,
            warnings=warnings if isinstance(warnings, int) else len(warnings),
        )
        for validator, version in sidecar.validator_versions.items()
    ]


def _insert(connection: apsw.Connection, verdict: Verdict) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO validations (at, file, validator, generator, valid, errors, warnings) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            verdict.at,
            verdict.file,
            verdict.validator,
            verdict.generator,
            int(verdict.valid),
            json.dumps(verdict.errors, ensure_ascii=False),
            verdict.warnings,
        ),
    )


def _kinds(errors: Iterable[Any]) -> dict[str, int]:
    """Kind of error → how often: the sentence with its numbers as `#`, so that "line 7" and "line 8" are one kind."""
    counted = Counter(_NUMBER.sub("#", str(error))[:MESSAGE_LETTERS] for error in errors)
    return dict(counted.most_common(KEPT_MESSAGES))


def _messages(messages: Sequence[Any]) -> list[str]:
    return [str(message)[:MESSAGE_LETTERS] for message in messages[:KEPT_MESSAGES]]


def _data_files(places: Places) -> list[Path]:
    folders = [places.inbox, *(places.level(priority) for priority in PRIORITIES), places.processing, places.failed]
    folders += [places.recently_completed, places.rejected, places.sparring_data]
    suffix = ".meta.json"
    return sorted(path.with_name(path.name.removesuffix(suffix)) for folder in folders for path in folder.glob(f"*{suffix}"))
