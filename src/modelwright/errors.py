"""Typed errors. Each is one clear sentence per fault and carries the exit code of the command that meets it.

A sentence says what was found, what is allowed and what to do. A command catches `ModelwrightError`, prints
`str(error)` and exits with `error.exit_code`; any other exception is a defect and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

EXIT_PAUSED = 9
"""Exit code of a run that saved its state and can be resumed."""

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


class ModelwrightError(Exception):
    """Base of every error a user can cause or repair. `str(error)` is one sentence, or one line per fault."""

    exit_code: int = 1


class UsageError(ModelwrightError):
    """A flag, a request or a config value that cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class Fault:
    """One wrong value.

    path: where it stands (`scaling.lora_rank`, `--target-context`, `data.jsonl line 7`). found: what stands there.
    allowed: what may stand there. todo: the next thing to do, a sentence without its full stop, or "".
    """

    path: str
    found: str
    allowed: str
    todo: str = ""

    def sentence(self) -> str:
        """`<path>: found <found>; allowed: <allowed>. <todo>`"""
        text = f"{self.path}: found {self.found}; allowed: {self.allowed}."
        if not self.todo:
            return text
        return f"{text} {self.todo}" if self.todo.endswith(("?", ".")) else f"{text} {self.todo}."


class ConfigError(UsageError):
    """Every fault of a configuration at once; `str()` has one line per fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        super().__init__("\n".join(fault.sentence() for fault in self.faults))


class RunLockedError(ModelwrightError):
    """Another process writes this run. `holder` is what its lock file says (pid, host, command, since), or empty when
    unreadable."""

    def __init__(self, message: str, holder: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.holder: dict[str, Any] = dict(holder or {})


class DamagedFileError(ModelwrightError):
    """A file whose content cannot be what its writer wrote.

    path: the file. where: line, byte or field of the damage. expected: what should stand there.
    """

    def __init__(self, path: str | PathLike[str], where: str, expected: str, todo: str = "") -> None:
        self.path, self.where, self.expected = str(path), where, expected
        text = f"{self.path} is damaged ({where}); expected {expected}."
        super().__init__(f"{text} {todo.rstrip('.')}." if todo else text)


class StorageError(ModelwrightError):
    """The file system refused: read only, vanished, a directory in the way, an I/O error. `path` is what could not be
    used."""

    def __init__(self, message: str, path: str | PathLike[str] = "") -> None:
        super().__init__(message)
        self.path = str(path)


class MissingFileError(StorageError):
    """A file that should be there is not."""


class DiskFullError(StorageError):
    """No space (or quota) left. What stood on disk before is intact; a run answers by pausing with the reason
    "disk"."""


class LoadError(ModelwrightError):
    """A model, a tokenizer or data could not be loaded."""

    exit_code = 5


class Paused(ModelwrightError):
    """Raised to unwind a run that saved its state. reason: `request`, `gate` or `disk`."""

    exit_code = EXIT_PAUSED

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or f"The run is paused (reason: {reason}); resume it with `modelwright runs resume`.")
        self.reason = reason


def storage_error(error: OSError, path: str | PathLike[str], doing: str) -> StorageError:
    """The sentence for an `OSError` met while `doing` ("write", "read", "create") something at `path`."""
    code = error.errno
    if code in DISK_FULL_ERRNOS:
        return DiskFullError(f"Cannot {doing} {path}: no space left on the device or in the quota. Free some space, then resume.", path)
    if code == errno.ENOENT:
        return MissingFileError(f"Cannot {doing} {path}: it does not exist. Check the path, and that its disk is still mounted.", path)
    reasons = {
        errno.EROFS: "its file system is mounted read-only. Remount it writable or choose another directory",
        errno.EACCES: "permission denied. Change its owner or mode, or choose another path",
        errno.EPERM: "permission denied. Change its owner or mode, or choose another path",
        errno.EISDIR: "a directory stands where a file belongs. Move the directory away",
        errno.ENOTDIR: "a part of its path is a file, not a directory. Choose another path",
        errno.EEXIST: "something of that name is already there. Move it away",
        errno.ENAMETOOLONG: "the name is too long for the file system. Choose a shorter one",
        errno.ELOOP: "its symbolic links form a circle. Remove one of them",
        errno.EIO: "the device reported an input/output error; what was written since the last success is uncertain. Check the disk",
        errno.ESTALE: "its network file system went away. Mount it again",
        errno.EMFILE: "this process has too many files open. Raise the limit (ulimit -n)",
        errno.EFBIG: "the file size limit is reached. Raise the limit (ulimit -f)",
    }
    reason = reasons.get(code or 0, f"{error.strerror or error}")
    return StorageError(f"Cannot {doing} {path}: {reason}.", path)


def damaged_lines(path: str | PathLike[str], faults: Sequence[tuple[int, str]]) -> list[str]:
    """One sentence for all bad lines of a file, none when there are none. faults: (line number, what is wrong)."""
    if not faults:
        return []
    number, fault = faults[0]
    where = f"{path} line {number}" if len(faults) == 1 else f"{path}: {len(faults)} bad lines, the first is line {number}"
    return [f"{where}: {fault}."]


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or what caused it, is a full disk; also knows libraries that report it as text only
    (safetensors, torch)."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, DiskFullError) or (isinstance(seen, OSError) and seen.errno in DISK_FULL_ERRNOS):
            return True
        if "No space left on device" in str(seen) or "Disk quota exceeded" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def pausing_on_full_disk() -> Iterator[None]:
    """Turn a full disk inside the block into `Paused("disk")`, which is how a trainer answers it."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise Paused("disk", f"The run is paused (reason: disk). {error}") from error
        raise
