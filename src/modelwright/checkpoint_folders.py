"""The folders beneath a checkpoint store: named, made durable, swapped in one step, removed, and marked with their maker.

A staging folder's name says what it is, for which checkpoint, and which process made it, so that the next writer can
tell an abandoned one from one still at work.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from modelwright.errors import ModelwrightError, UsageError, is_disk_full, storage_error
from modelwright.files import fsync_directory, sha256_bytes, sha256_file
from modelwright.identity import ProcessIdentity, current_identity

MANIFEST_NAME = "manifest.json"
POINTER_NAME = "latest"
STAGING, REPLACED = ".staging-", ".replaced-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_numbers = count(1)


def check_name(name: str) -> str:
    """Return `name` when it can name a checkpoint; otherwise UsageError."""
    if not NAME.fullmatch(name) or name == POINTER_NAME:
        raise UsageError(
            f"checkpoint name: found {name!r}; allowed: up to 128 letters, digits, dots, dashes and "
            "underscores, beginning with a letter or "
            f"digit, except {POINTER_NAME!r}."
        )
    return name


def seal(folder: Path) -> dict[str, dict[str, Any]]:
    """Sync every file and folder below `folder`; returns `{"size": bytes, "sha256": hex}` of every file by relative name.

    Raises UsageError for anything but plain files and folders, StorageError, DiskFullError.
    """
    files: dict[str, dict[str, Any]] = {}
    folders = [folder]
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            folders.append(path)
            continue
        if not stat.S_ISREG(mode):
            raise UsageError(f"{path}: found a link or special file; allowed in a checkpoint: plain files and folders.")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, path, "sync") from error
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    for path in reversed(folders):
        fsync_directory(path)
    if MANIFEST_NAME in files:
        raise UsageError(f"checkpoint: found a file named {MANIFEST_NAME}; allowed: any other name, the store writes that one itself.")
    return files


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux `renameat2` with RENAME_EXCHANGE); False where system or file system cannot."""
    rename = _renameat2()
    at_current_folder, exchange = -100, 2
    return rename is not None and rename(at_current_folder, os.fsencode(first), at_current_folder, os.fsencode(second), exchange) == 0


@cache
def _renameat2() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None


def remove_tree(path: Path) -> None:
    """Remove a folder with all it holds; one that is gone already is no fault. Raises StorageError."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, path, "remove the folder") from error


@cache
def _tag_of(pid: int) -> ProcessIdentity:
    """This process with its long names cut down, so that they fit into a folder's name; `pid` only keys the cache
    across forks."""
    mine = current_identity()
    return ProcessIdentity(
        pid=mine.pid,
        start_time=mine.start_time,
        boot_id=mine.boot_id[:13],
        host=sha256_bytes(mine.host.encode())[:8],
        namespace="".join(letter for letter in mine.namespace if letter.isdigit()),
    )


def this_process() -> ProcessIdentity:
    """This process as marked folder names state it."""
    return _tag_of(os.getpid())


def marked(kind: str, name: str) -> str:
    """A folder name that tells what it is, for which checkpoint, and which process made it; parted by `~`."""
    me = this_process()
    return "~".join((f"{kind}{name}", str(me.pid), str(me.start_time or ""), me.boot_id, me.namespace, me.host, str(next(_numbers))))


def owner_of(folder_name: str) -> ProcessIdentity | None:
    """The process in a marked folder name; None when the name is not of our making."""
    parts = folder_name.split("~")
    if len(parts) != 7 or not parts[1].isdigit():
        return None
    start = int(parts[2]) if parts[2].isdigit() else None
    return ProcessIdentity(pid=int(parts[1]), start_time=start, boot_id=parts[3], namespace=parts[4], host=parts[5])


def save_met_full_disk(error: BaseException, root: Path) -> bool:
    """Whether a failed save is due to a full disk, also where a library hid the reason."""
    if is_disk_full(error):
        return True
    try:
        space = os.statvfs(root)
    except OSError:
        return False
    return not isinstance(error, ModelwrightError) and space.f_bavail == 0
