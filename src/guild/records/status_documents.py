"""How the records of this folder are written: one process at a time, and never over what another program wrote. (specs/guild.md 4, G1)

The JSON documents under `status/` are exports: each is replaced whole, carries `schema_version`, and keeps the fields it does not know.
A document without `schema_version` is the original system's; before the first export takes its place it is copied to
`<name>.original`, which stays a source (see `original_tree`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guild.places import Places
from modelwright.errors import DamagedFileError, MissingFileError
from modelwright.files import make_folder, read_bytes, read_json, write_bytes, write_json
from modelwright.home import ensure_folder
from modelwright.lock import WriterLock

SCHEMA_VERSION = 1
PATIENCE_S = 30.0
"""How long a writer waits for the others; each holds the lock for a few file writes."""


@contextlib.contextmanager
def records_lock(places: Places) -> Iterator[None]:
    """Hold the lock under which sidecars, their index rows and the exports change together. It is freed when the process dies.

    Not to be taken twice by one process. Raises RunLockedError naming the holder after `PATIENCE_S`, or StorageError.
    """
    lock = WriterLock(ensure_folder(places.base / ".guild-records"), command=("guild", "records"), patience_s=PATIENCE_S)
    try:
        yield
    finally:
        lock.release()


def read_document(path: Path) -> Any:
    """A JSON document, also one with the `NaN` and `Infinity` that other programs write, which are read as null.

    Raises MissingFileError, DamagedFileError or StorageError.
    """
    try:
        return read_json(path)
    except DamagedFileError:
        try:
            return json.loads(read_bytes(path), parse_constant=lambda _: None)
        except ValueError:
            pass  # it is damaged however one reads it
        raise


def export(path: Path, fields: dict[str, Any], *, make_parent: bool = True) -> None:
    """Replace the document at `path` by `fields`, and those fields of the old one that `fields` does not have.

    make_parent: create its folder when it is missing; otherwise that raises MissingFileError. Raises StorageError.
    """
    old = _put_aside(path)
    if make_parent:
        make_folder(path.parent)
    write_json(path, {"schema_version": SCHEMA_VERSION, **old, **fields})


def original_path(path: Path) -> Path:
    """Where the original system's document is kept once an export has taken its name."""
    return path.with_name(f"{path.name}.original")


def original_document(path: Path) -> Any:
    """What the original system wrote at `path`, or None. Raises DamagedFileError or StorageError."""
    for place in (original_path(path), path):
        try:
            document = read_document(place)
        except MissingFileError:
            continue
        return None if place == path and is_ours(document) else document
    return None


def is_ours(document: Any) -> bool:
    """Whether a document of this program stands there."""
    return isinstance(document, dict) and "schema_version" in document


def _put_aside(path: Path) -> dict[str, Any]:
    """The fields of the document at `path`. One that is not ours is copied aside first; a damaged one, whosesoever, to `<name>.damaged`."""
    try:
        document = read_document(path)
    except MissingFileError:
        return {}
    except DamagedFileError:
        write_bytes(path.with_name(f"{path.name}.damaged"), read_bytes(path))
        return {}
    if not is_ours(document) and document not in ({}, []) and not original_path(path).exists():
        write_bytes(original_path(path), read_bytes(path))
    return document if isinstance(document, dict) else {}
