"""The sidecar `<file>.meta.json` beside a data file: who made it, and what every validator said of it. (specs/guild.md 4.6)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guild.errors import UnknownNameError
from guild.naming import sidecar_name
from guild.records.checkpoint_record import wrong_fields
from guild.records.status_documents import export, read_document
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import DamagedFileError, MissingFileError

GENERATORS = {
    "discrimination": "1.0.0",
    "syllo_local": "1.0.0",
    "syllo_api": "1.0.0",
    "curriculum": "1.0.0",
    "manual": "1.0.0",
    "bin_api": "1.0.0",
    "sparring": "1.0.0",
}
"""The generators that come with the guild, with their versions; skills that users add bring their own."""
VALIDATORS = {"spec_validator": "1.0.0", "data_validator": "1.1.0"}
"""The validators, with their versions."""
UNKNOWN_GENERATOR = ("unknown", "0")
"""Id and version of data that nobody signed: no sidecar, and nothing in the validator's report."""


class UnknownGeneratorError(UnknownNameError):
    """No generator of that id comes with the guild."""

    kind = "generator"


class DataSidecar(BaseModel):
    """The record of one data file; a field that another program added is kept.

    generated_at, validated_at: ISO 8601. params: what the generator was asked. validator_versions: validator → version, of every
    validator that looked. validation_passed: whether all that looked were content. source: where the file came from.
    """

    model_config = ConfigDict(extra="allow")

    schema_version: int = 1
    generator_id: str
    generator_version: str
    generated_at: str
    example_count: int = Field(ge=0)
    params: dict[str, Any] = Field(default_factory=dict)
    validated_at: str | None = None
    validator_versions: dict[str, str] = Field(default_factory=dict)
    validation_passed: bool | None = None
    validation_errors: int | list[str] = Field(default_factory=list)
    validation_warnings: int | list[str] = Field(default_factory=list)
    source: str = ""
    extra: dict[str, Any] = Field(default_factory=dict)


def generator_version(generator_id: str) -> str:
    """The version of a generator that comes with the guild. Raises UnknownGeneratorError."""
    if generator_id not in GENERATORS:
        raise UnknownGeneratorError(generator_id, GENERATORS)
    return GENERATORS[generator_id]


def sidecar_path(data_file: Path) -> Path:
    """Where the sidecar of a data file lies: always beside it."""
    return data_file.with_name(sidecar_name(data_file.name))


def new_data_sidecar(
    generator_id: str,
    version: str,
    example_count: int,
    *,
    params: Mapping[str, Any] | None = None,
    source: str = "",
    extra: Mapping[str, Any] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> DataSidecar:
    """The sidecar of a file that was generated just now and that no validator has seen."""
    return DataSidecar(
        generator_id=generator_id,
        generator_version=version,
        generated_at=stamp(clock.now()),
        example_count=example_count,
        params=dict(params or {}),
        source=source,
        extra=dict(extra or {}),
    )


def read_data_sidecar(data_file: Path) -> DataSidecar | None:
    """The sidecar of a data file; None when it has none. Raises DamagedFileError or StorageError."""
    path = sidecar_path(data_file)
    try:
        return DataSidecar.model_validate(read_document(path))
    except MissingFileError:
        return None
    except ValidationError as error:
        raise DamagedFileError(path, wrong_fields(error), "a data file's sidecar", "Correct it or delete it") from error


def write_data_sidecar(data_file: Path, sidecar: DataSidecar) -> Path:
    """Replace the sidecar of a data file, durably; fields that only the old one has stay. Returns its path. Raises StorageError."""
    path = sidecar_path(data_file)
    export(path, sidecar.model_dump(), make_parent=False)
    return path
