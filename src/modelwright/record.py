"""`run.json`: what was run, with what, and how every phase of every attempt ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelwright.environment import capture_environment, code_version, redact, redact_config
from modelwright.errors import DamagedFileError, ModelwrightError
from modelwright.files import read_json, sha256_json, write_json
from modelwright.scan import RECORD_NAME, damaged_record, record_error

SCHEMA_VERSION = 1

RunStatus = Literal["running", "completed", "failed", "stopped", "paused", "aborted"]
EntryStatus = Literal["running", "completed", "failed", "stopped", "paused", "aborted", "died"]
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "stopped", "paused", "aborted"})
"""Statuses after which nobody writes until somebody resumes."""

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


class Writer(BaseModel):
    """The process that wrote an entry (see `modelwright.identity.ProcessIdentity`)."""

    model_config = ConfigDict(extra="allow")
    pid: int
    start_time: int | None
    boot_id: str
    host: str
    namespace: str = ""


class Entry(BaseModel):
    """One phase in one attempt. `died`: its writer was killed; `last_step` and `ended_at` are then those of its last
    heartbeat."""

    model_config = ConfigDict(extra="allow")
    phase: str
    attempt: int = Field(ge=1)
    status: EntryStatus
    started_at: str
    ended_at: str | None = None
    exit_code: int | None = None
    reason: str = ""
    last_step: int | None = None
    writer: Writer


class StatusChange(BaseModel):
    """One line of the run's life."""

    model_config = ConfigDict(extra="allow")
    at: str
    status: EntryStatus
    attempt: int = Field(ge=1)
    reason: str = ""


class Code(BaseModel):
    """Version of the distribution; commit when it ran from a checkout."""

    model_config = ConfigDict(extra="allow")
    version: str
    git: str | None = None


class RunFiles(BaseModel):
    """Names a room gives to its run's files, relative to the run directory, so that any reader finds them."""

    model_config = ConfigDict(extra="allow")
    heartbeat: str = Field(default="heartbeat", description="path of snapshot and timeline without .json and .jsonl")
    metrics: str = "metrics.jsonl"
    checkpoints: str = "checkpoints"


class RunRecord(BaseModel):
    """The run record. Secrets in `command`, `resume_command` and `config` are replaced by `[redacted]`."""

    model_config = ConfigDict(extra="allow")
    schema_version: int = Field(default=SCHEMA_VERSION, ge=1)
    run_id: str = Field(pattern=_UUID)
    kind: str
    status: RunStatus
    attempt: int = Field(default=1, ge=1)
    exit_code: int | None = None
    reason: str = ""
    created_at: str
    updated_at: str
    command: list[str]
    resume_command: list[str] = Field(default_factory=list)
    cwd: str
    config_sha256: str | None = None
    config: dict[str, Any] | None = None
    code: Code
    environment: dict[str, Any]
    entries: list[Entry] = Field(default_factory=list)
    history: list[StatusChange] = Field(default_factory=list)
    files: RunFiles = Field(default_factory=RunFiles)
    tags: list[str] = Field(default_factory=list)
    group: str | None = None
    details: dict[str, Any] = Field(default_factory=dict, description="what a room adds")

    def open_entry(self) -> Entry | None:
        """The entry that is still running, if any."""
        return next((entry for entry in reversed(self.entries) if entry.status == "running"), None)

    def change(self, status: RunStatus, at: str, reason: str = "", exit_code: int | None = None) -> None:
        """Move to `status` and note it in the history."""
        self.status, self.reason, self.exit_code, self.updated_at = status, reason, exit_code, at
        self.history.append(StatusChange(at=at, status=status, attempt=self.attempt, reason=reason))


def new_record(
    *,
    kind: str,
    command: Sequence[str],
    cwd: str,
    created_at: str,
    resume_command: Sequence[str] | None = None,
    config: dict[str, Any] | None = None,
    config_sha256: str | None = None,
    tags: Sequence[str] = (),
    group: str | None = None,
    files: dict[str, str] | None = None,
    details: dict[str, Any] | None = None,
) -> RunRecord:
    """A record of a run that starts now. config_sha256: default is the digest of `config` as given."""
    if config is not None and config_sha256 is None:
        config_sha256 = sha256_json(config)
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        run_id=str(uuid4()),
        kind=kind,
        status="running",
        created_at=created_at,
        updated_at=created_at,
        command=redact(command),
        resume_command=redact(resume_command or ()),
        cwd=cwd,
        config_sha256=config_sha256,
        config=None if config is None else redact_config(config),
        code=Code.model_validate(code_version()),
        environment=capture_environment(),
        files=RunFiles.model_validate(files or {}),
        tags=list(tags),
        group=group,
        details=dict(details or {}),
    )
    record.change("running", created_at)
    return record


def read_record(folder: Path) -> RunRecord:
    """The record of the run in `folder`. Raises what `record_error` says for no record, DamagedFileError for a broken
    one, StorageError for one that cannot be read, ModelwrightError for a newer format."""
    absent = record_error(folder)
    if absent is not None:
        raise absent
    path = folder / RECORD_NAME
    try:
        data = read_json(path)
    except DamagedFileError as error:
        raise damaged_record(path, error.where) from error
    if not isinstance(data, dict):
        raise damaged_record(path, "it is not an object")
    version = data.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ModelwrightError(
            f"{path} has format {version}, newer than the {SCHEMA_VERSION} this version of Modelwright knows. Use the newer Modelwright."
        )
    try:
        return RunRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise damaged_record(path, f"{where}: {first['msg']}") from error


def write_record(folder: Path, record: RunRecord) -> None:
    """Replace the record, durably."""
    write_json(folder / RECORD_NAME, record.model_dump(mode="json"))
