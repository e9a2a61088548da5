"""Processes that outlive their starter: begun in a session of their own, found again by identity, signalled without ever meeting a
stranger. (specs/guild.md G5, G8; parts.md, faults 5 and 6)

A process is signalled through a handle that was opened before its start time was compared, so that no other process under the same
number is ever met.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modelwright.errors import storage_error
from modelwright.files import make_folder
from modelwright.identity import ProcessIdentity, current_identity, liveness, process_start
from modelwright.lock import read_holder, writer_liveness


@dataclass
class OwnProcess:
    """A process that lives, or lived. child: the handle when this process started it, None for an adopted one."""

    identity: ProcessIdentity
    child: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """Whether it still runs; an ended child is reaped here."""
        if self.child is not None:
            return self.child.poll() is None
        return liveness(self.identity) == "alive"

    @property
    def exit_code(self) -> int | None:
        """Of an ended child, negative for a signal; None while it runs, and for an adopted one."""
        return None if self.child is None else self.child.poll()

    def signal(self, number: int) -> bool:
        """Send a signal; False when the process is gone."""
        handle = self._handle()
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process and to all that it started in its group; False when it is gone or leads no group of its own.

        While the handle's process lives as the leader, its number cannot be another group's.
        """
        handle = self._handle()
        if handle is None:
            return False
        try:
            if os.getpgid(self.identity.pid) != self.identity.pid or liveness(self.identity) != "alive":
                return False
            os.killpg(self.identity.pid, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    def wait(self, seconds: float) -> bool:
        """Wait until it ended; False when it still runs after `seconds`."""
        if self.child is not None:
            try:
                self.child.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                return False
            return True
        handle = self._handle()
        if handle is None:
            return True
        try:
            return bool(select.select([handle], [], [], max(0.0, seconds))[0])
        finally:
            os.close(handle)

    def leave_in_order(self, grace_s: float) -> bool:
        """Ask it by SIGTERM to save and end; killed only when `grace_s` seconds have passed. Whether it ended by itself."""
        if not self.signal(signal.SIGTERM) or self.wait(grace_s):
            return True
        self.signal(signal.SIGKILL)
        self.wait(10.0)
        return False

    def _handle(self) -> int | None:
        """A descriptor that means this very process; None when it is gone or its number is another's now."""
        try:
            handle = os.pidfd_open(self.identity.pid)
        except ProcessLookupError:
            return None
        if liveness(self.identity) == "alive":
            return handle
        os.close(handle)
        return None


def start_process(argv: Sequence[str], log: Path, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> OwnProcess:
    """Start a process that outlives its starter: a session and a group of its own, no input, output appended to the file `log`.

    environment: all of it, this process's when None. Raises StorageError.
    """
    make_folder(log.parent)
    try:
        with open(log, "ab") as output:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                close_fds=True,
            )
    except OSError as error:
        raise storage_error(error, log, f"start {argv[0]} with its log") from error
    return OwnProcess(replace(current_identity(), pid=child.pid, start_time=process_start(child.pid)), child)


def find_holder(folder: Path) -> OwnProcess | None:
    """The process that holds the writer lock of `folder` and lives; None when none does."""
    if not folder.is_dir():
        return None
    holder = read_holder(folder)
    if not holder or writer_liveness(folder, holder) != "alive":
        return None
    try:
        identity = ProcessIdentity.from_dict(holder)
    except (ValueError, KeyError, TypeError):
        return None
    return OwnProcess(identity)


def log_tail(path: Path, lines: int = 3) -> str:
    """The last words of a log, for a message; "" when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            return " ".join(line.strip() for line in file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
