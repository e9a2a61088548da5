"""Rows of a local file or folder: jsonl, json, csv, txt (standard library) and parquet (through pyarrow).

Rows come lazily as `(where, row)` so that an error can name the line. A text file is one row; a folder is read
recursively in sorted order.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from modelwright.errors import LoadError

Rows = Iterator[tuple[str, Any]]
_CSV_FIELD_LIMIT = 1 << 30  # characters; the csv module's own limit of 128 Ki is less than one long document


def data_files(path: Path, split: str | None = None) -> list[Path]:
    """The data files that `path` names, sorted: itself, or every readable file below a folder.

    With `split`, only files whose stem is or starts with the split's name, or that lie in a folder of that name.
    Raises LoadError.
    """
    if path.is_file():
        if path.suffix.lower() not in _READERS:
            raise LoadError(f"{path} has the suffix {path.suffix or '(none)'}; allowed are {', '.join(sorted(_READERS))}.")
        return [path]
    if not path.is_dir():
        raise LoadError(
            f"The dataset file {path} does not exist; local:// takes a path relative to the current folder, or an absolute one."
        )
    files = sorted(
        found
        for found in path.rglob("*")
        if found.is_file() and found.suffix.lower() in _READERS and not any(part.startswith(".") for part in found.relative_to(path).parts)
    )
    if split is not None:
        files = [found for found in files if _in_split(found.relative_to(path), split)]
    if not files:
        wanted = f" of the split {split!r}" if split else ""
        raise LoadError(f"The folder {path} holds no data file{wanted}; allowed are {', '.join(sorted(_READERS))}.")
    return files


def read_rows(path: Path) -> Rows:
    """Rows of one file, chosen by its suffix. Raises LoadError naming file and line of what cannot be read."""
    try:
        yield from _READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise LoadError(
            f"{path} is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}); convert it to UTF-8."
        ) from error
    except OSError as error:
        raise LoadError(f"{path} could not be read: {error.strerror or error}.") from error


def _in_split(relative: Path, split: str) -> bool:
    stem = relative.name.split(".")[0]
    return split in relative.parts[:-1] or stem == split or stem.startswith((f"{split}-", f"{split}_"))


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", _parse(line, f"{path}:{number}")


def _json(path: Path) -> Rows:
    content = _parse(path.read_text(encoding="utf-8-sig"), str(path))
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise LoadError(f'{path} holds a {type(content).__name__}; a list of rows, or an object with such a list under "data", is needed.')
    for number, row in enumerate(content, start=1):
        yield f"{path}: row {number}", row


def _csv(path: Path) -> Rows:
    before = csv.field_size_limit(_CSV_FIELD_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            try:
                for row in reader:
                    if None in row or None in row.values():
                        raise LoadError(f"{path}:{reader.line_num}: the row has not as many cells as the header.")
                    yield f"{path}:{reader.line_num}", row
            except csv.Error as error:
                raise LoadError(f"{path}:{reader.line_num}: not valid CSV ({error}).") from error
    finally:
        csv.field_size_limit(before)


def _text(path: Path) -> Rows:
    text = path.read_text(encoding="utf-8-sig")
    if text.strip():
        yield str(path), {"text": text}


def _parquet(path: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise LoadError(f"{path} is a parquet file, which needs the package pyarrow; install it or convert the file to jsonl.") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except pyarrow.ArrowInvalid as error:
        raise LoadError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]}).") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise LoadError(f"{where}: not valid JSON ({error.msg} at column {error.colno}).") from error


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".txt": _text,
    ".md": _text,
    ".parquet": _parquet,
}
