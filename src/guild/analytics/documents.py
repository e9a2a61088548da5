"""The documents of analytics: where they lie, and what each carries. (specs/guild.md 2.7, 2.9)

Each lies in the status folder of its campaign, is replaced whole, keeps fields it does not know, and has `schema_version`,
`generated_at` and `status`: `ok`, `no data`, or for measurements that judge, `healthy`, `warning` or `critical`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from guild.records.status_documents import export, read_document
from modelwright.clock import Clock, stamp
from modelwright.errors import MissingFileError

SCHEMA_VERSION = 1
Status = Literal["ok", "no data", "healthy", "warning", "critical"]
NO_DATA: Literal["no data"] = "no data"


def document(status: Status, clock: Clock, **fields: Any) -> dict[str, Any]:
    """A document's fields; NaN and infinities, wherever they stand, become null."""
    head = {"schema_version": SCHEMA_VERSION, "generated_at": stamp(clock.now()), "status": status}
    return {**head, **{name: plain(value) for name, value in fields.items()}}


def write_document(path: Path, fields: Mapping[str, Any]) -> None:
    """Replace the document at `path`; the original system's is kept beside it. Raises StorageError."""
    export(path, dict(fields))


def read_or_none(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when there is no such file. Raises DamagedFileError, StorageError."""
    try:
        found = read_document(path)
    except MissingFileError:
        return None
    return found if isinstance(found, dict) else None


def plain(value: Any) -> Any:
    """The value with None for every number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def mean(values: list[float]) -> float | None:
    """The mean, None of nothing."""
    return sum(values) / len(values) if values else None
