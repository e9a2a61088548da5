"""The writer lock of a run directory: one live writer, freed by the operating system when it dies.

`writer.lock` is held with `flock` for the writer's life and contains, as JSON, who holds it. The lock decides; the
content only explains. Children do not inherit it: the descriptor is close-on-exec, and a forked child closes its copy
at once.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from modelwright.clock import SYSTEM_CLOCK, Clock, boot_seconds, stamp
from modelwright.errors import RunLockedError, StorageError, storage_error
from modelwright.files import write_all
from modelwright.identity import Liveness, ProcessIdentity, boot_id, current_identity, liveness

LOCK_NAME = "writer.lock"
LOCAL_FILE_SYSTEMS = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "tmpfs", "ramfs", "overlay", "aufs",
    "bcachefs", "vfat", "exfat", "ntfs", "ntfs3", "apfs", "hfs", "ufs",
})  # fmt: skip
"""File systems that one kernel mounts alone, so that a granted `flock` proves that nobody else writes."""


class WriterLock:
    """Holds the lock of one directory from construction until `release` or the death of the process.

    command: what the holder runs, for the message others get. take_over: accept a lock on a shared file system whose
    recorded holder cannot be checked from here. patience_s: how long a lock that is just being released or probed is
    waited for. Raises RunLockedError naming the holder, or StorageError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        command: Sequence[str] = (),
        take_over: bool = False,
        patience_s: float = 0.3,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.path = folder / LOCK_NAME
        self._descriptor = -1
        self._descriptor = _take(self.path, patience_s)
        try:
            _refuse_unreachable_holder(self.path, take_over)
            self.holder = {
                **current_identity().as_dict(),
                "command": shlex.join(command),
                "since": stamp(clock.now()),
                "since_uptime_s": boot_seconds(),
            }
            _write_content(self._descriptor, self.holder)
        except OSError as error:
            self.release()
            raise storage_error(error, self.path, "write") from error
        except BaseException:
            self.release()
            raise
        _OPEN.add(self)

    def check(self) -> None:
        """Raise RunLockedError when the lock file was removed or replaced, so that another writer may have come in."""
        try:
            mine, there = os.fstat(self._descriptor), os.stat(self.path)
        except OSError as error:
            raise RunLockedError(
                f"{self.path} is gone, so this process no longer knows to be the only writer; it stops writing. Start the run again."
            ) from error
        if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
            raise RunLockedError(f"{self.path} was replaced; {describe_holder(read_holder(self.path.parent))} may write here now.")

    @property
    def held(self) -> bool:
        return self._descriptor >= 0

    def release(self) -> None:
        """Give the lock back and say so in the file; releasing twice is fine."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            if hasattr(self, "holder"):
                with contextlib.suppress(OSError):  # the lock itself is what counts; a note that cannot be written is no fault
                    _write_content(descriptor, {**self.holder, "released": True})
        finally:
            os.close(descriptor)

    def _forget(self) -> None:
        """In a forked child: close the copy without touching the parent's lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_OPEN: weakref.WeakSet[WriterLock] = weakref.WeakSet()
"""Locks of this process, so that one fork hook serves all of them: a hook cannot be taken back."""


def _forget_in_forked_child() -> None:
    for lock in list(_OPEN):
        lock._forget()


os.register_at_fork(after_in_child=_forget_in_forked_child)


def _take(path: Path, patience_s: float) -> int:
    """Open and lock `path`; the descriptor is known to belong to the file that the name means now."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise storage_error(error, path, "open the lock") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            os.close(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(
                    f"Cannot lock {path}: {error.strerror}. Put the run on a file system that supports flock, such as a local disk.",
                    path,
                ) from error
            if time.monotonic() >= deadline:
                holder = read_holder(path.parent)
                raise RunLockedError(
                    f"{path.parent} is being written by {describe_holder(holder)}. "
                    "Only one writer is allowed; wait for it, or ask it to pause.",
                    holder,
                ) from error
        if time.monotonic() >= deadline + 5:
            raise StorageError(f"Cannot lock {path}: the file is replaced over and over. Stop whatever deletes it.", path)
        time.sleep(0.02)


def _refuse_unreachable_holder(path: Path, take_over: bool) -> None:
    """On a file system that other machines mount too, a lock granted here says nothing about a holder over there."""
    holder = read_holder(path.parent)
    if take_over or not holder or holder.get("released") or file_system(path.parent) in LOCAL_FILE_SYSTEMS:
        return
    identity = _identity(holder)
    if identity is not None and identity.boot_id != boot_id() and liveness(identity) == "unreachable":
        raise RunLockedError(
            f"{path.parent} was last written by {describe_holder(holder)}, which cannot be checked from this host and "
            "never released it. "
            f"Make sure that it is dead, then delete {path}.",
            holder,
        )


def _write_content(descriptor: int, content: dict[str, Any]) -> None:
    data = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, data)
    os.ftruncate(descriptor, len(data))


def _identity(holder: dict[str, Any]) -> ProcessIdentity | None:
    try:
        return ProcessIdentity.from_dict(holder)
    except ValueError:
        return None


def describe_holder(holder: dict[str, Any]) -> str:
    """`process 7 on host h since 2026-01-01T00:00:00Z, `command``, from the content of a lock file."""
    if not holder:
        return "a process that has not written its name yet"
    command = f", `{holder['command']}`" if holder.get("command") else ""
    return f"process {holder.get('pid')} on host {holder.get('host')} since {holder.get('since')}{command}"


def read_holder(folder: Path) -> dict[str, Any]:
    """Who last held the lock of `folder` (with `released: true` when it was given back); {} when unknown or never
    locked."""
    for attempt in range(3):
        try:
            content = orjson.loads((folder / LOCK_NAME).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError):
            if attempt < 2:  # its writer may be in the middle of the line
                time.sleep(0.005)
            continue
        return content if isinstance(content, dict) else {}
    return {}


def writer_liveness(folder: Path, holder: dict[str, Any] | None = None) -> Liveness:
    """Liveness of the writer of `folder`. A lock that was never taken or was given back counts as dead: nobody
    writes.

    The recorded process is looked up first. Where it cannot be seen although it runs on this kernel (another
    container), the lock itself is asked; a file that cannot be read or a holder on another host is `unreachable`.
    """
    path = folder / LOCK_NAME
    if holder is None:
        holder = read_holder(folder)
    if holder.get("released"):
        return "dead"
    identity = _identity(holder)
    if identity is not None:
        seen = liveness(identity)
        if seen != "unreachable" or identity.boot_id != boot_id():
            return seen
    return _probe(path)


def _probe(path: Path) -> Liveness:
    """Ask the kernel whether somebody on it holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return "dead"
    except OSError:
        return "unreachable"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return "dead"
    except OSError as error:
        return "alive" if error.errno == errno.EWOULDBLOCK else "unreachable"
    finally:
        os.close(descriptor)


def file_system(path: Path) -> str:
    """Type of the file system that holds `path` ("ext4", "nfs4" …), "" when unknown."""
    import psutil

    target = str(path.resolve())
    best, kind = "", ""
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint.rstrip("/") or "/"
        inside = mount == "/" or target == mount or target.startswith(mount + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, partition.fstype
    return kind
