"""`run_metadata.json`: the phase a run has reached and where each promoted state lies; what a rollback reads.

`phase` and `checkpoints` are the seed's fields, the rest says enough to check and to resume. Values are replaced, never
changed in place; `save` writes the file whole. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

METADATA_FILE = "run_metadata.json"
SCHEMA_VERSION = "1.0"
Status = Literal["initializing", "running", "paused", "warning", "stopped", "completed", "failed", "aborted"]


class RungRecord(BaseModel):
    """One rung: its length in tokens, phase, checkpoint path relative to the run, whether it was promoted, its scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=1)
    phase: int = Field(ge=0, le=4)
    path: str
    promoted: bool
    scores: dict[str, float | None] = Field(default_factory=dict)


class RunMetadata(BaseModel):
    """The whole document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: int = Field(default=0, ge=0, le=4)
    checkpoints: dict[str, str] = Field(default_factory=dict, description="phase_N -> path relative to the run directory")
    run_id: str = Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
    schema_version: str = SCHEMA_VERSION
    status: Status = "initializing"
    started_at: str
    updated_at: str
    config_sha256: str
    contract_sha256: str
    rope_parameters: dict[str, Any] = Field(default_factory=dict, description="of the newest promoted state")
    rungs: tuple[RungRecord, ...] = ()
    manifests: dict[str, str] = Field(default_factory=dict, description="phase_N -> SHA-256 of its manifest")
    rollbacks: tuple[dict[str, Any], ...] = ()
    lock: str = "writer.lock"

    def with_status(self, status: Status, now: datetime | None = None) -> RunMetadata:
        """The document with another status."""
        return self._changed(now, status=status)

    def with_rope(self, parameters: Mapping[str, Any], now: datetime | None = None) -> RunMetadata:
        """The document with other RoPE parameters."""
        return self._changed(now, rope_parameters=dict(parameters))

    def with_rung(self, record: RungRecord, now: datetime | None = None) -> RunMetadata:
        """The document with the record of one rung added or replaced (a rung is known by its length)."""
        others = [rung for rung in self.rungs if rung.length != record.length]
        return self._changed(now, rungs=tuple(sorted([*others, record], key=lambda rung: rung.length)))

    def promoted(
        self,
        phase: int,
        path: str,
        manifest_sha256: str,
        rope_parameters: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> RunMetadata:
        """The document after the state at `path` (relative to the run directory) became `phase_<phase>`."""
        key = f"phase_{phase}"
        return self._changed(
            now,
            phase=phase,
            checkpoints={**self.checkpoints, key: path},
            manifests={**self.manifests, key: manifest_sha256},
            rope_parameters=self.rope_parameters if rope_parameters is None else dict(rope_parameters),
        )

    def _changed(self, now: datetime | None, **changes: Any) -> RunMetadata:
        moment = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return RunMetadata.model_validate({**self.model_dump(), "updated_at": moment, **changes})


def start(run_id: str, config_sha256: str, contract_sha256: str, now: datetime | None = None) -> RunMetadata:
    """The document of a run that has just begun."""
    moment = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return RunMetadata(run_id=run_id, started_at=moment, updated_at=moment, config_sha256=config_sha256, contract_sha256=contract_sha256)


def save(run_dir: Path, metadata: RunMetadata) -> None:
    """Replace `run_metadata.json` whole."""
    from modelwright.files import write_json

    write_json(run_dir / METADATA_FILE, metadata.model_dump(mode="json"))


def load(run_dir: Path) -> RunMetadata:
    """Read `run_metadata.json`. Raises MissingFileError, or DamagedFileError with the field that cannot be right."""
    from pydantic import ValidationError

    from modelwright.errors import DamagedFileError
    from modelwright.files import read_json

    path = run_dir / METADATA_FILE
    try:
        return RunMetadata.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole document"
        raise DamagedFileError(path, where, first["msg"], "restore the file or roll back to a state that is known good") from error
