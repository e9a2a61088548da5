"""What must hold before a file is queued: a plain file, a name that is free, QUICK validation passed. (specs/guild.md 3.3, 5.2)"""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guild.errors import RefusedError
from guild.places import Places
from guild.queue.folders import scan
from guild.queue.names import shown, usable_name
from guild.queue.payload import cancelled_places
from guild.records import jobs
from guild.records.data_sidecars import read_data_sidecar
from guild.records.jobs import DuplicateJobError, UnknownJobError
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import DamagedFileError, storage_error

if TYPE_CHECKING:
    from guild.records.lineage import Verdict
    from guild.validation.report import ValidationReport

SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Checked:
    """What QUICK validation said of a file on its way into the queue. facts: of the job's payload. verdict: as it stands in the lineage.
    damaged: its sidecar cannot be read, so nothing can be written into it."""

    facts: dict[str, Any]
    report: ValidationReport
    verdict: Verdict
    damaged: bool

    def sign(self, places: Places, file: Path) -> None:
        """Write the verdict into the sidecar, now that file and sidecar lie where they stay. Raises StorageError."""
        from guild.records.lineage import sign_sidecar

        if not self.damaged:
            sign_sidecar(places, file, self.report, self.verdict)


class InvalidDataError(RefusedError):
    """QUICK validation found errors. `errors`: one sentence each. `checked`: the verdict."""

    def __init__(self, name: str, errors: tuple[str, ...], checked: Checked | None = None) -> None:
        self.errors, self.checked = errors, checked
        more = "" if len(errors) <= SHOWN_ERRORS else f"\n{shown(name)}: and {len(errors) - SHOWN_ERRORS} more errors."
        super().__init__("\n".join(f"{shown(name)}: {error}" for error in errors[:SHOWN_ERRORS]) + more)


def check_file(file: Path) -> None:
    """Whether it can be queued at all. Raises RefusedError, StorageError."""
    usable_name(file.name)
    where = shown(str(file))
    try:
        status = file.lstat()
    except FileNotFoundError as error:
        raise RefusedError(f"{where}: found no such file; allowed: a file that exists. Check the path.") from error
    except OSError as error:
        raise storage_error(error, where, "read") from error
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{where}: found a folder, a link or a special file; allowed: a plain file. Name the file itself.")


def check_free(db: Database, places: Places, name: str) -> None:
    """Whether no file of the queue, and none in `failed/` but a cancelled one, has the name. Raises RefusedError."""
    try:
        job = jobs.find_file(db, name)
        if job.state not in ("completed", "cancelled"):
            raise DuplicateJobError(name, job.id, job.state)
    except UnknownJobError:
        pass  # as it should be
    for entry in scan(places).named(name):
        if entry.folder == "failed" and entry.where in cancelled_places(db):
            continue
        if entry.folder == "failed":
            raise RefusedError(
                f"queue/{shown(entry.where)}: found a file of that name there; allowed: a name that is not in failed/. "
                "Bring it back with `guild queue retry`, or move it away."
            )
        if entry.folder != "recently_completed":
            raise RefusedError(f"queue/{shown(entry.where)}: found a file of that name in the queue; allowed: a name that is not in use.")


def validate_quick(
    db: Database, places: Places, file: Path, *, schema: str | None = None, allow_default: bool = False, clock: Clock = SYSTEM_CLOCK
) -> Checked:
    """What QUICK validation says of a file whose sidecar, when it has one, can be read: the verdict, which is in the lineage, and facts for
    the job's payload (`schema_id`, `rows`, `generator`).

    schema: id of the rows' schema; without it the sidecar or the first row names one, or the default is allowed. Raises InvalidDataError;
    a validator that fails makes the file invalid.
    """
    from guild.records.lineage import record_validation
    from guild.validation.validate import validate_file

    report = validate_file(file, "quick", schema=schema, allow_default=allow_default)
    damage = _damage_of_sidecar(file)
    if damage and damage not in report.errors:  # the trainer could not sign it either
        report = replace(report, valid=False, errors=(*report.errors, damage))
    verdict = record_validation(db, places, report, file_name=file.name, clock=clock)  # its sidecar is signed where it comes to lie
    facts: dict[str, Any] = {name: report.stats[name] for name in ("schema_id", "rows") if name in report.stats}
    if report.generator_id is not None:
        facts["generator"] = verdict.generator[:200]
    checked = Checked(facts, report, verdict, bool(damage))
    if not report.valid:
        raise InvalidDataError(file.name, tuple(report.errors), checked)
    return checked


def _damage_of_sidecar(file: Path) -> str:
    """What is wrong with the sidecar of a file, "" when nothing is or it has none."""
    try:
        read_data_sidecar(file)
    except DamagedFileError as error:
        return str(error)
    return ""
