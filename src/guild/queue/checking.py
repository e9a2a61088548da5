"""What must hold before a file is queued: a plain file, a name that is free, QUICK validation passed. (specs/guild.md 3.3, 5.2)"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from guild.errors import RefusedError
from guild.places import Places
from guild.queue.folders import scan
from guild.queue.names import shown, usable_name
from guild.records import jobs
from guild.records.jobs import DuplicateJobError, UnknownJobError
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import storage_error

SHOWN_ERRORS = 5


class InvalidDataError(RefusedError):
    """QUICK validation found errors. `errors`: one sentence each."""

    def __init__(self, name: str, errors: tuple[str, ...]) -> None:
        self.errors = errors
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
    if status.st_size == 0:
        raise RefusedError(f"{where}: found an empty file; allowed: at least one row.")


def check_free(db: Database, places: Places, name: str) -> None:
    """Whether no file of the queue, and none in `failed/`, has the name. Raises RefusedError."""
    try:
        job = jobs.find_file(db, name)
        if job.state not in ("completed", "cancelled"):
            raise DuplicateJobError(name, job.id, job.state)
    except UnknownJobError:
        pass  # as it should be
    for entry in scan(places).named(name):
        if entry.folder == "failed":
            raise RefusedError(
                f"queue/{shown(entry.where)}: found a file of that name there; allowed: a name that is not in failed/. "
                "Bring it back with `guild queue retry`, or move it away."
            )
        if entry.folder != "recently_completed":
            raise RefusedError(f"queue/{shown(entry.where)}: found a file of that name in the queue; allowed: a name that is not in use.")


def validate_quick(
    db: Database, places: Places, file: Path, *, schema: str | None = None, allow_default: bool = False, clock: Clock = SYSTEM_CLOCK
) -> dict[str, Any]:
    """What QUICK validation learned, as fields of the job's payload (`schema_id`, `rows`, `generator`). The verdict goes into the lineage.

    schema: id of the rows' schema; without it the sidecar or the first row names one, or the default is allowed. Raises InvalidDataError;
    a validator that fails makes the file invalid.
    """
    from guild.records.lineage import record_validation
    from guild.validation.report import UNKNOWN
    from guild.validation.validate import validate_file

    report = validate_file(file, "quick", schema=schema, allow_default=allow_default)
    record_validation(db, places, report, file_name=file.name, clock=clock)  # the file is on its way, so its sidecar is left alone
    if not report.valid:
        raise InvalidDataError(file.name, tuple(report.errors))
    learned: dict[str, Any] = {name: report.stats[name] for name in ("schema_id", "rows") if name in report.stats}
    if report.generator_id != UNKNOWN:
        learned["generator"] = f"{report.generator_id}@{report.generator_version}"[:200]
    return learned
