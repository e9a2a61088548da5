"""Moving payload files: one rename that replaces nothing, the sidecar ahead of it, both on disk before the call returns.

The sidecar goes first, so that whoever sees the data file finds its sidecar beside it; a kill between the two leaves a state that
`guild.queue.reconcile` completes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from guild.queue.folders import sidecar_of
from modelwright.errors import storage_error
from modelwright.files import fsync_directory

_AT_CURRENT_FOLDER, _NO_REPLACE = -100, 1
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_numbers = count()
COPY_SUFFIX = ".incoming.tmp"
COPY_AGE_S = 24 * 3600.0
"""Age, in seconds, at which an unfinished copy is taken for abandoned."""


def rename_new(source: Path, target: Path) -> None:
    """Rename without ever replacing. Raises FileNotFoundError, FileExistsError or another OSError, as the system reports it."""
    rename = _renameat2()
    if rename is not None:
        if rename(_AT_CURRENT_FOLDER, os.fsencode(source), _AT_CURRENT_FOLDER, os.fsencode(target), _NO_REPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    if os.path.lexists(target):  # other programs are kept out by the queue's lock
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(source), None, str(target))
    os.rename(source, target)


@cache
def _renameat2() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None


def move(source: Path, target: Path) -> None:
    """Move a data file with its sidecar within one file system; nothing is replaced but a sidecar that belongs to no file.

    Raises FileNotFoundError when `source` is gone and FileExistsError when `target` is taken (both: nothing has changed), otherwise
    StorageError.
    """
    side_source, side_target = sidecar_of(source), sidecar_of(target)
    if not os.path.lexists(source):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        with_sidecar = _rename_if_there(side_source, side_target)
        try:
            rename_new(source, target)
        except OSError:
            if with_sidecar:
                os.rename(side_target, side_source)
            raise
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        raise storage_error(error, target, "move a file to") from error
    for folder in {target.parent, source.parent}:
        fsync_directory(folder)


def move_sidecar(source: Path, target: Path) -> None:
    """Bring the sidecar that was left at `source` (a data file's path) to the data file at `target`, unless that has one."""
    try:
        if not os.path.lexists(sidecar_of(target)):
            _rename_if_there(sidecar_of(source), sidecar_of(target))
    except OSError as error:
        raise storage_error(error, sidecar_of(target), "move a sidecar to") from error


@dataclass(frozen=True)
class Incoming:
    """An outside file on its way in. copy: its whole copy, on disk under a hidden name beside its target; None when it is renamed.
    keep: the source stays."""

    source: Path
    copy: Path | None
    keep: bool

    def land(self, target: Path) -> None:
        """Give it its name, its sidecar ahead. Raises FileExistsError when that is taken, FileNotFoundError, or StorageError."""
        if self.copy is None:
            move(self.source, target)
            return
        side_source, side_target = sidecar_of(self.source), sidecar_of(target)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        with_sidecar = side_source.is_file()
        if with_sidecar:
            _copy(side_source, side_target).replace(side_target)
        try:
            rename_new(self.copy, target)
        except OSError:
            if with_sidecar:
                side_target.unlink(missing_ok=True)
            raise
        fsync_directory(target.parent)

    def landed(self) -> bool:
        """Whether it has its name, also after an error that came later."""
        return not os.path.lexists(self.source if self.copy is None else self.copy)

    def finish(self) -> None:
        """It is in the queue: a source that is not kept goes, with its sidecar."""
        if self.copy is not None and not self.keep:
            sidecar_of(self.source).unlink(missing_ok=True)
            self.source.unlink(missing_ok=True)

    def discard(self) -> None:
        """It is not wanted after all."""
        if self.copy is not None:
            self.copy.unlink(missing_ok=True)


def incoming(source: Path, folder: Path, *, keep: bool) -> Incoming:
    """Make an outside file ready to land in `folder`: copied there first with `keep`, or from another file system.

    Raises MissingFileError, DiskFullError (nothing of the copy is left) or another StorageError.
    """
    try:
        other = os.stat(source).st_dev != os.stat(folder).st_dev
    except OSError as error:
        raise storage_error(error, source, "read") from error
    return Incoming(source, _copy(source, folder / source.name) if keep or other else None, keep)


def _copy(source: Path, beside: Path) -> Path:
    """A whole copy on disk, with the source's modification time, under a hidden name in the folder of `beside`."""
    copy = beside.with_name(f".{beside.name}.{os.getpid()}-{next(_numbers)}{COPY_SUFFIX}")
    try:
        shutil.copyfile(source, copy)
        shutil.copystat(source, copy)
        descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):  # the error below is what matters
            copy.unlink()
        raise storage_error(error, beside, "copy a file to") from error
    return copy


def remove_old_copies(folder: Path, *, now_s: float) -> list[str]:
    """Delete what killed programs left of unfinished copies, once they are COPY_AGE_S old; returns their names. Raises StorageError."""
    removed = []
    for path in folder.glob(f".*{COPY_SUFFIX}"):
        try:
            if now_s - path.lstat().st_mtime > COPY_AGE_S and now_s - path.lstat().st_ctime > COPY_AGE_S:
                path.unlink()
                removed.append(path.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise storage_error(error, path, "remove") from error
    return removed


def _rename_if_there(source: Path, target: Path) -> bool:
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return False
    return True
