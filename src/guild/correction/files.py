"""The file of a session: rows and sidecar saved, judged, queued; or found again after a kill. (specs/guild.md 6.4 step 5)

Rows and sidecar stay in `guild/sparring_data/`; a copy goes into its level of the queue by the same door as every file of the inbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from guild.correction.rows import GENERATOR, SessionMark
from guild.curriculum.quality import QualityVerdict, check_quality, quality_profile
from guild.errors import RefusedError
from guild.naming import sidecar_name, sparring_file_name
from guild.places import PRIORITIES, Places, Priority
from guild.queue.add import add_file
from guild.queue.reconcile import QUIET_S, reconcile
from guild.records import jobs
from guild.records.data_sidecars import (
    DataSidecar,
    generator_version,
    new_data_sidecar,
    read_data_sidecar,
    sidecar_path,
    write_data_sidecar,
)
from guild.records.jobs import Job, UnknownJobError
from guild.validation.schemas import DEFAULT_SCHEMA
from modelwright.clock import Clock, parse_stamp
from modelwright.database import Database
from modelwright.errors import storage_error
from modelwright.files import encode_line, make_folder, write_bytes

PATTERN = "sparring_*.jsonl"


class RejectedRowsError(RefusedError):
    """The quality checks turned the rows away. `verdict`: why."""

    def __init__(self, file: Path, verdict: QualityVerdict) -> None:
        self.verdict = verdict
        super().__init__(f"{file.name} is rejected and lies in {file.parent}. " + " ".join(one.detail for one in verdict.failed))


def save(
    places: Places, rows: Sequence[Mapping[str, Any]], mark: SessionMark, facts: Mapping[str, Any], *, clock: Clock
) -> tuple[Path, QualityVerdict]:
    """Write the rows of a session with their sidecar, durably, the sidecar first. facts: further parameters of the session.

    Returns the file and the verdict of the quality checks. Raises RejectedRowsError when these reject it, the file then lies in the folder
    of rejected ones; StorageError.
    """
    verdict = check_quality(rows, quality_profile(GENERATOR))
    path = _free_place(places.rejected if verdict.outcome == "REJECTED" else places.sparring_data, mark, len(rows))
    params = {"skill": mark.skill, "level": mark.level, "session_checkpoint": mark.checkpoint, "session_timestamp": mark.timestamp, **facts}
    version = generator_version(GENERATOR)
    extra = {"schema_id": DEFAULT_SCHEMA, "quality": verdict.as_dict()}
    write_data_sidecar(path, new_data_sidecar(GENERATOR, version, len(rows), params=params, source=GENERATOR, extra=extra, clock=clock))
    write_bytes(path, b"".join(encode_line(dict(row)) for row in rows))
    if verdict.outcome == "REJECTED":
        raise RejectedRowsError(path, verdict)
    return path, verdict


def saved_by(places: Places, job: int) -> tuple[Path, DataSidecar] | None:
    """The file that a job saved before its worker was killed; None when there is none. Sidecars without rows are removed: the worker died
    between the two."""
    for side in sorted(places.sparring_data.glob(sidecar_name(PATTERN))):
        path = side.with_name(side.name.removesuffix(".meta.json"))
        sidecar = read_data_sidecar(path)
        if sidecar is None or sidecar.params.get("job") != job:
            continue
        if path.is_file():
            return path, sidecar
        try:
            sidecar_path(path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, side, "remove") from error
    return None


def queue(db: Database, places: Places, path: Path, mark: SessionMark, priority: Priority, *, clock: Clock) -> Job:
    """Queue a copy of the file, once: the job of a file of its name that is there already is returned as it is. Raises what `add_file`
    raises."""
    known = _known(db, path.name)
    if known is None and any((places.level(level) / path.name).exists() for level in PRIORITIES):
        clock.sleep(QUIET_S)  # its adder was killed between the file and the job: what was quiet for so long is taken in
        reconcile(db, places, clock=clock)
        known = _known(db, path.name)
    if known is not None:
        return known
    facts = {"skill": mark.skill, "level": mark.level}
    return add_file(db, places, path, priority=priority, copy=True, schema=DEFAULT_SCHEMA, facts=facts, clock=clock)


def _known(db: Database, name: str) -> Job | None:
    try:
        return jobs.find_file(db, name)
    except UnknownJobError:
        return None


def _free_place(folder: Path, mark: SessionMark, rows: int) -> Path:
    """A name of the spec's form that nothing has; a second session in the same second takes the next one's."""
    make_folder(folder)
    moment = parse_stamp(mark.timestamp)
    while True:
        path = folder / sparring_file_name(mark.skill, mark.level, rows, moment)
        if not path.exists() and not sidecar_path(path).exists():
            return path
        moment += timedelta(seconds=1)
