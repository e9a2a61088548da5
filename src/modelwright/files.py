"""Files that survive crashes: atomic replace, whole-line appends, tolerant reading, digests, path confinement.

Two ways to write and no third. A document (JSON, YAML, bytes) is replaced whole: temporary file beside it, fsync,
rename, fsync of the directory; whatever happens, a reader finds the old document or the new one. A JSON line is
appended by one `write` on an `O_APPEND` descriptor; whatever happens, every line that was acknowledged stays, and at
most the last line is torn.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from modelwright.clock import stamp
from modelwright.errors import DamagedFileError, StorageError, UsageError, damaged_lines, storage_error
from modelwright.identity import process_start

TORN_MARK = b" #torn\n"
"""What the next writer puts behind a torn last line: it ends the line and keeps it from ever parsing as a record."""

_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_temporary_numbers = count()
_TEMPORARY_NAME = re.compile(r"\..+\.(\d+)-\d+\.tmp")


def _plain(value: Any) -> Any:
    """What orjson does not know by itself."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")


def encode_line(obj: dict[str, Any]) -> bytes:
    """One JSON line with its newline; NaN and infinities become null."""
    return orjson.dumps(obj, default=_plain, option=_JSON_OPTIONS | orjson.OPT_APPEND_NEWLINE)


# --- documents


def fsync_directory(path: Path) -> None:
    """Make renames and new names inside `path` durable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, path, "sync the directory") from error


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte. A full disk shows as a short write first and as an OSError on the next call, which this
    makes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_bytes(path: str | os.PathLike[str], data: bytes, *, durable: bool = True, mode: int = 0o666) -> None:
    """Replace `path` by `data`, whole or not at all.

    durable: fsync file and directory before returning; without it a power cut may bring the old document back, never
    a mixture. mode: permission bits before the umask (0o600 for a secret). Raises DiskFullError or another
    StorageError; the old document is then untouched and no temporary file is left. A failed fsync is final: the bytes
    may be lost although a second fsync would succeed, so nothing is renamed and nothing is retried.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}-{next(_temporary_numbers)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise storage_error(error, target, "write") from error
    try:
        try:
            write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise storage_error(error, target, "write") from error
        raise
    if durable:
        fsync_directory(target.parent)


def remove_stale_temporaries(folder: Path) -> list[Path]:
    """Delete what killed processes left of unfinished replacements below `folder`; returns what was deleted.

    Only names of this module's making whose process is gone are touched. Call it as the folder's only writer.
    """
    stale = []
    for directory, _, names in os.walk(folder):
        for name in names:
            made = _TEMPORARY_NAME.fullmatch(name)
            if made and process_start(int(made[1])) is None:
                stale.append(Path(directory, name))
    for path in stale:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, path, "remove") from error
    return stale


def write_text(path: str | os.PathLike[str], text: str, *, durable: bool = True, mode: int = 0o666) -> None:
    """Replace a UTF-8 text file (see `write_bytes`)."""
    write_bytes(path, text.encode("utf-8"), durable=durable, mode=mode)


def write_json(path: str | os.PathLike[str], obj: Any, *, durable: bool = True, mode: int = 0o666) -> None:
    """Replace a JSON document (see `write_bytes`): UTF-8, two spaces, final newline; NaN and infinities become null."""
    data = orjson.dumps(obj, default=_plain, option=_JSON_OPTIONS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_bytes(path, data, durable=durable, mode=mode)


def write_yaml(path: str | os.PathLike[str], obj: Any, *, durable: bool = True, mode: int = 0o666) -> None:
    """Replace a YAML document (see `write_bytes`); keys keep their order."""
    import yaml

    write_text(path, yaml.safe_dump(obj, sort_keys=False, allow_unicode=True, width=120), durable=durable, mode=mode)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The file's bytes. Raises MissingFileError or another StorageError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise storage_error(error, path, "read") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON document at `path`. Raises MissingFileError, StorageError, or DamagedFileError for an empty, torn or
    invalid one."""
    data = read_bytes(path)
    if not data.strip():
        raise DamagedFileError(path, f"it is empty, {len(data)} bytes", "a JSON document", "Restore it or delete it")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise DamagedFileError(path, where, "a complete JSON document", "Restore it or delete it") from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The YAML document at `path`, plain types only. Raises like `read_json`."""
    import yaml

    data = read_bytes(path)
    if not data.strip():
        raise DamagedFileError(path, f"it is empty, {len(data)} bytes", "a YAML document", "Restore it or delete it")
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}" if mark else str(error).split("\n")[0]
        raise DamagedFileError(path, where, "a YAML document of plain values", "Correct that line") from error


# --- JSON lines


class JsonlAppender:
    """Appends JSON lines to one file, each by a single `write`. One process per file; threads may share an appender.

    fsync_every_s: longest time an acknowledged line may stay unsynced while lines keep coming (a kill never loses it,
    a power cut may); 0 syncs every line, None never syncs, not even at close. Raises DiskFullError when the disk is
    full: the unfinished line is taken back, earlier lines stand, and the appender can go on when there is space
    again. Raises StorageError for everything else; after a failed fsync every later call raises too.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync_every_s: float | None = 1.0) -> None:
        self.path = Path(path)
        self._fsync_every_s = fsync_every_s
        self._mutex = threading.Lock()
        self._unsynced = False
        self._failed_sync = False
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self.size = os.fstat(self._descriptor).st_size
            self._torn = self.size > 0 and os.pread(self._descriptor, 1, self.size - 1) != b"\n"
        except OSError as error:
            raise storage_error(error, self.path, "append to") from error
        self._synced_at = time.monotonic()

    def append(self, obj: dict[str, Any]) -> None:
        """Append one record; it is in the file (seen by every reader, safe from a kill) when this returns."""
        self.append_bytes(encode_line(obj))

    def append_bytes(self, lines: bytes) -> None:
        """Append whole lines, the last one ending in a newline, by one `write`."""
        with self._mutex:
            if self._failed_sync or self._descriptor < 0:
                state = "an earlier sync of it failed" if self._failed_sync else "it is closed"
                raise StorageError(f"Cannot append to {self.path}: {state}. Open the run again.", self.path)
            data = TORN_MARK + lines if self._torn else lines
            written = 0
            try:
                written = os.write(self._descriptor, data)
                if written != len(data):
                    self._finish_short_write(data, written)
            except OSError as error:
                raise storage_error(error, self.path, "append to") from error
            self.size += len(data)
            self._torn = False
            if self._fsync_every_s is not None:
                self._unsynced = True
                now = time.monotonic()
                if now - self._synced_at >= self._fsync_every_s:
                    self._sync(now)

    def _finish_short_write(self, data: bytes, written: int) -> None:
        """Write the rest of `data`; when that fails, cut the file back to where the line began and raise the
        OSError."""
        start = os.lseek(self._descriptor, 0, os.SEEK_CUR) - written
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            torn_before, self._torn = self._torn, data[:written][-1:] != b"\n"
            with contextlib.suppress(OSError):
                if os.fstat(self._descriptor).st_size == start + written:
                    os.ftruncate(self._descriptor, start)
                    self._torn = torn_before
            raise

    def _sync(self, now: float) -> None:
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._failed_sync = True
            raise storage_error(error, self.path, "sync") from error
        self._synced_at, self._unsynced = now, False

    def sync(self) -> None:
        """Make every appended line durable now. Raises StorageError; a failed sync is final."""
        with self._mutex:
            if self._failed_sync or self._descriptor < 0:
                state = "an earlier sync of it failed" if self._failed_sync else "it is closed"
                raise StorageError(f"Cannot sync {self.path}: {state}. Open the run again.", self.path)
            self._sync(time.monotonic())

    def close(self) -> None:
        """Sync what is unsynced and close; closing twice is fine."""
        with self._mutex:
            if self._descriptor < 0:
                return
            try:
                if self._unsynced and not self._failed_sync:
                    self._sync(time.monotonic())
            finally:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class JsonlRead:
    """What a JSONL file holds.

    records: the healthy lines in file order. lines: the 1-based line number of each. torn_tail: the last line has no
    newline (a writer is in the middle of it, or died there). damage: one sentence per line that was torn and closed
    off, and one for all other bad lines. offset: the byte behind the last complete line, where a follower reads on.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    torn_tail: bool = False
    damage: list[str] = field(default_factory=list)
    offset: int = 0


def read_jsonl(path: str | os.PathLike[str], *, offset: int = 0, missing_ok: bool = False) -> JsonlRead:
    """Read every complete line from byte `offset` on; bad ones are named in `.damage` and never hide the rest.

    Line numbers count from `offset`. A missing file raises MissingFileError, or reads as empty with `missing_ok`.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError as error:
        if missing_ok:
            return JsonlRead()
        raise storage_error(error, path, "read") from error
    except OSError as error:
        raise storage_error(error, path, "read") from error
    complete = data.rfind(b"\n") + 1
    records: list[dict[str, Any]] = []
    numbers: list[int] = []
    damage: list[str] = []
    faults: list[tuple[int, str]] = []
    for number, line in enumerate(data[:complete].split(b"\n")[:-1], start=1):
        try:
            record = orjson.loads(line)
            if isinstance(record, dict):
                records.append(record)
                numbers.append(number)
                continue
            reason = ""
        except orjson.JSONDecodeError as error:
            reason = f" ({error.msg})"
        if line.endswith(TORN_MARK[:-1]):
            damage.append(f"{path} line {number}: torn by a writer that died, closed off by the next one; it was never acknowledged.")
        else:
            faults.append((number, f"found {_excerpt(line)}; expected one JSON object{reason}"))
    damage += damaged_lines(path, faults)
    return JsonlRead(records, numbers, complete < len(data), damage, offset + complete)


def _excerpt(line: bytes) -> str:
    text = repr(line[:40])[1:]  # what is no ASCII shows as \x.., safe for any terminal
    return f"{text}…" if len(line) > 40 else text


# --- digests, paths


def sha256_bytes(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Lower-case hexadecimal SHA-256 of a file. Raises StorageError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error(error, path, "read") from error


def canonical_json(obj: Any) -> bytes:
    """One byte form per value: sorted keys, no spaces, UTF-8. Raises ValueError for NaN and infinities."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain).encode("utf-8")


def sha256_json(obj: Any) -> str:
    """SHA-256 of `canonical_json(obj)`."""
    return sha256_bytes(canonical_json(obj))


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder and its parents when missing. Raises StorageError with the reason."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder, "create the folder") from error
    return folder


def confine(path: str | os.PathLike[str], roots: Iterable[str | os.PathLike[str]]) -> Path:
    """`path` with symbolic links resolved, when it lies inside one of `roots`; otherwise UsageError."""
    allowed = [Path(root).resolve() for root in roots]
    try:
        resolved = Path(path).resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: found a path that cannot be followed ({error}); allowed: a path below {_list(allowed)}.") from error
    if not any(resolved.is_relative_to(root) for root in allowed):
        raise UsageError(f"{path}: found a path that leads to {resolved}; allowed: a path below {_list(allowed)}.")
    return resolved


def _list(paths: Iterable[Path]) -> str:
    return " or ".join(str(path) for path in paths) or "nothing"
