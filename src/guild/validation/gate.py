"""What a file must be before anybody reads its lines: a readable file of text within the limits. (specs/guild.md 2.1.1)"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from os import PathLike

from guild.validation.reading import MAX_LINE_BYTES
from modelwright.errors import Fault, ModelwrightError, storage_error

MAX_FILE_BYTES = 10_000_000_000
_MAGIC = {
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet table",
    b"\xff\xfe": "text in UTF-16 or UTF-32",
    b"\xfe\xff": "text in UTF-16",
    b"\x00\x00\xfe\xff": "text in UTF-32",
    b"\x00\x00\x00\x00": "zero bytes, as a crash may leave them",
}
"""First bytes of files that hold no lines of UTF-8; each is named at once instead of line by line."""


@dataclass(frozen=True)
class FileLimits:
    """Largest size of a file and of a line, in bytes."""

    file_bytes: int = MAX_FILE_BYTES
    line_bytes: int = MAX_LINE_BYTES


LIMITS = FileLimits()


class RefusedFileError(ModelwrightError):
    """A file that cannot be training data, whatever its lines say. `fault` is what is wrong with it."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.sentence())


@dataclass(frozen=True)
class FileState:
    """What a file was when it was looked at; different afterwards means that somebody wrote it. size: bytes."""

    size: int
    modified_ns: int
    inode: int


def file_state(path: str | PathLike[str]) -> FileState:
    """The state of a file. Raises StorageError."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise storage_error(error, path, "read") from error
    return FileState(found.st_size, found.st_mtime_ns, found.st_ino)


def admit(path: str | PathLike[str], limits: FileLimits = LIMITS) -> FileState:
    """The state of a file that may be read as training data. Raises RefusedFileError, or StorageError for one that cannot be read."""
    name = os.fspath(path)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise RefusedFileError(Fault(name, "a directory", "a file of JSON lines", "Name a file in it"))
        if not stat.S_ISREG(mode):
            raise RefusedFileError(Fault(name, "a pipe, a socket or a device", "a file of JSON lines"))
        with open(path, "rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise storage_error(error, path, "read") from error
    state = file_state(path)
    if not state.size:
        raise RefusedFileError(Fault(name, "an empty file", "at least one row", "Write it again, or leave it out"))
    if state.size > limits.file_bytes:
        found, allowed = f"{state.size:,} bytes", f"at most {limits.file_bytes:,} bytes"
        raise RefusedFileError(Fault(name, found, allowed, "Split it into smaller files"))
    for magic, what in _MAGIC.items():
        if begin.startswith(magic):
            raise RefusedFileError(Fault(name, what, "lines of JSON in UTF-8", "Convert it first"))
    return state


def require_unchanged(path: str | PathLike[str], before: FileState) -> None:
    """Raises RefusedFileError when the file is not what it was."""
    if file_state(path) != before:
        todo = "Wait until its writer is done and validate it again"
        raise RefusedFileError(Fault(os.fspath(path), "a file that changed while it was read", "one that nobody writes", todo))
