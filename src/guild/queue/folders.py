"""The queue's folders: made, locked against other programs, and read. (specs/guild.md 2.1.2)"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from guild.naming import sidecar_name
from guild.places import PRIORITIES, Places
from guild.queue.names import SIDECAR_SUFFIX, is_sidecar, is_unfinished, name_fault, odd_thing, shown
from modelwright.errors import StorageError, storage_error
from modelwright.files import make_folder

FOLDERS = (*PRIORITIES, "processing", "failed", "recently_completed")
"""Folders below `queue/`, by the names that a payload's place begins with."""
LOCK_NAME = ".metadata.lock"
LOCK_PATIENCE_S = 60.0
_METADATA = "queue_metadata.json"


@dataclass(frozen=True)
class Entry:
    """One data file. size: bytes. mtime_ns: its order within a level."""

    folder: str
    name: str
    size: int
    mtime_ns: int

    @property
    def where(self) -> str:
        """`normal/NAME`: its place relative to `queue/`."""
        return f"{self.folder}/{self.name}"


@dataclass
class Scan:
    """What lies in the folders. data: place → entry. sidecars: places of the data files they belong to. odd: one sentence each."""

    data: dict[str, Entry] = field(default_factory=dict)
    sidecars: set[str] = field(default_factory=set)
    odd: list[str] = field(default_factory=list)

    def named(self, name: str) -> list[Entry]:
        """The data files of that name, in the order of FOLDERS."""
        return [self.data[f"{folder}/{name}"] for folder in FOLDERS if f"{folder}/{name}" in self.data]


def make_folders(places: Places) -> None:
    """Create the queue's folders and the inbox where they are missing. Raises StorageError."""
    for folder in FOLDERS:
        make_folder(places.queue / folder)
    make_folder(places.inbox)


@contextlib.contextmanager
def queue_lock(places: Places) -> Iterator[None]:
    """Hold the queue's folders and exports alone among all programs; the system frees it when its holder dies.

    Not reentrant. Raises StorageError when another program keeps it for LOCK_PATIENCE_S seconds.
    """
    path = make_folder(places.queue) / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise storage_error(error, path, "open the lock") from error
    try:
        _lock(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    deadline, pause = time.monotonic() + LOCK_PATIENCE_S, 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                raise storage_error(error, path, "lock") from error
            if time.monotonic() >= deadline:
                raise StorageError(
                    f"{path} is held by another program for more than {LOCK_PATIENCE_S:g} seconds. Find it with `fuser`, then try again.",
                    path,
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def scan(places: Places) -> Scan:
    """Read every folder of the queue; a missing one is empty. Nothing is followed, opened or changed. Raises StorageError."""
    found = Scan()
    for folder in FOLDERS:
        _scan_folder(places.queue / folder, folder, found)
    for entry in _entries(places.queue):
        if entry.name in FOLDERS or entry.name.startswith(_METADATA) or is_unfinished(entry.name):
            continue
        todo = (
            "Put it into the folder of a level" if not entry.is_dir(follow_symlinks=False) else "Move its files into the folder of a level"
        )
        found.odd.append(f"queue/{shown(entry.name)}: found outside the folders {', '.join(FOLDERS)}. {todo}.")
    for place in sorted(found.sidecars):
        if place not in found.data:
            found.odd.append(
                f"queue/{shown(place)}{SIDECAR_SUFFIX}: found a sidecar without its data file. Put that beside it, or remove this one."
            )
    return found


def _scan_folder(path: Path, folder: str, found: Scan) -> None:
    for entry in _entries(path):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # moved on between the listing and the look
        except OSError as error:
            raise storage_error(error, path / shown(entry.name), "look at") from error
        where = f"{folder}/{entry.name}"
        if not stat.S_ISREG(status.st_mode):
            kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a folder" if stat.S_ISDIR(status.st_mode) else "a special file"
            found.odd.append(odd_thing(where, kind))
        elif is_sidecar(entry.name):
            found.sidecars.add(where.removesuffix(SIDECAR_SUFFIX))
        elif is_unfinished(entry.name):
            found.odd.append(
                f"queue/{shown(where)}: found a hidden or unfinished file; it is left alone until it gets a name that ends in .jsonl."
            )
        elif (fault := name_fault(entry.name)) is not None:
            found.odd.append(f"queue/{folder}/{fault}")
        else:
            found.data[where] = Entry(folder, entry.name, status.st_size, status.st_mtime_ns)


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, path, "read the folder") from error


def sidecar_of(path: Path) -> Path:
    """The path of a data file's sidecar, beside it."""
    return path.with_name(sidecar_name(path.name))
