"""Which schema a file has and who made it: from the job, the sidecar, the first row. (specs/guild.md 5.1, 4.6)"""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import orjson

from guild.naming import sidecar_name
from guild.validation.gate import RefusedFileError
from guild.validation.reading import read_blocks
from guild.validation.report import Generator
from guild.validation.rows import from_metadata, named_schema, shown
from guild.validation.schemas import DEFAULT_SCHEMA, SCHEMAS, DataSchema, schema_of
from modelwright.errors import DamagedFileError, Fault
from modelwright.files import read_json

SchemaSource = Literal["job", "sidecar", "first row", "default"]


@dataclass(frozen=True)
class Origin:
    """What a file says of itself. first_row: None when the first line that is not blank is no JSON object; first_line: its number.
    examples: the rows that the sidecar counts, None when it counts none."""

    generator: Generator
    sidecar: dict[str, Any] | None
    first_row: dict[str, Any] | None
    first_line: int
    examples: int | None


def read_origin(path: str | PathLike[str], sidecar: dict[str, Any] | None, *, max_line_bytes: int) -> Origin:
    """What a file says of itself: in its sidecar, which `read_sidecar` read, and in its first row. Raises OSError."""
    number, first = _first_row(path, max_line_bytes)
    count = (sidecar or {}).get("example_count")
    return Origin(maker(sidecar, first), sidecar, first, number, count if type(count) is int else None)


def read_sidecar(path: str | PathLike[str]) -> dict[str, Any] | None:
    """The lineage sidecar beside a data file, None when there is none. Raises DamagedFileError, StorageError.

    It is read before the file is looked at, so that a refused file has its maker on record too.
    """
    place = Path(path).parent / sidecar_name(Path(path).name)
    if not place.exists():
        return None
    found = read_json(place)
    if not isinstance(found, dict):
        raise DamagedFileError(place, f"it holds {shown(found)}", "a JSON object", "Write it again, or remove it")
    return found


def choose_schema(path: str | PathLike[str], origin: Origin, job: str | None, *, allow_default: bool) -> tuple[DataSchema, SchemaSource]:
    """The schema of a file and who named it: the job, else the sidecar, else the first row, else, if allowed, `chat_sft_v1`.

    Raises UnknownSchemaError for an id that nobody knows, RefusedFileError when there is none and no default is allowed.
    """
    name = os.fspath(path)
    sidecar = origin.sidecar or {}
    extra = sidecar.get("extra")
    named: tuple[tuple[SchemaSource, str, Any], ...] = (
        ("job", f"the job for {name}", job),
        ("sidecar", f"the sidecar of {name}", sidecar.get("schema_id") or (extra.get("schema_id") if isinstance(extra, dict) else None)),
        ("first row", f"the first row of {name}", named_schema(origin.first_row) if origin.first_row else None),
    )
    for source, where, found in named:
        if found is not None:
            return schema_of(found if isinstance(found, str) else ascii(found), where=where), source
    if allow_default:
        return SCHEMAS[DEFAULT_SCHEMA], "default"
    found_nothing = "no schema id in the job, the sidecar or the first row"
    allowed = f"one of {', '.join(SCHEMAS)}"
    todo = "Name it there (`schema_id`), or allow the default: --allow-default, or validation.allow_default in config.json"
    raise RefusedFileError(Fault(name, found_nothing, allowed, todo))


def maker(sidecar: dict[str, Any] | None, row: dict[str, Any] | None = None) -> Generator:
    """Who made a file: what its sidecar says, else its first row."""
    for name, version in (
        ((sidecar or {}).get("generator_id"), (sidecar or {}).get("generator_version")),
        (from_metadata(row or {}, "generator_id"), from_metadata(row or {}, "generator_version")),
    ):
        if name:
            return Generator(str(name), str(version) if version else None)
    return Generator()


def _first_row(path: str | PathLike[str], max_line_bytes: int) -> tuple[int, dict[str, Any] | None]:
    """The first line that is not blank: its number, and its row when it is one; what else it may be is for the rules to name."""
    number = 0
    for block in read_blocks(path, max_line_bytes=max_line_bytes):
        for line in block.lines:
            number += 1
            if isinstance(line, bytes) and not line.strip():
                continue
            try:
                row = orjson.loads(line)  # type: ignore[arg-type]  # an Overlong is no input of the parser either
            except orjson.JSONDecodeError:
                return number, None
            return number, row if isinstance(row, dict) else None
    return number, None
