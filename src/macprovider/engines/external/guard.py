"""Runs one command that cannot outlive the process that asked for it: `guard.py DESCRIPTOR COMMAND …`. Standard library alone.

DESCRIPTOR is the reading end of a pipe whose other end only the asking process holds: when that is gone, however it ended, the
pipe ends and the command's whole process group is killed. SIGTERM and SIGINT are passed on to the command. The exit status is the
command's, 128 + n after signal n. On Linux the command also dies when this guard is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

NOT_STARTED = 127
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Start the command, wait for its end, leave nothing of its group behind."""
    descriptor, command = int(arguments[0]), arguments[1:]
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, descriptor, libc, guard)
    _own_group(child)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: _send(child, received))
    threading.Thread(target=_kill_when_alone, args=(descriptor, child), daemon=True).start()
    _, status = os.waitpid(child, 0)
    _kill_group(child)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(command: list[str], descriptor: int, libc: ctypes.CDLL | None, guard: int) -> None:
    """In the new process: never returns."""
    try:
        os.close(descriptor)
        os.setpgid(0, 0)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() == guard:  # it may have been killed before the line above
            os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"error: {command[0]} could not be started: {error.strerror}\n".encode())
    os._exit(NOT_STARTED)


def _own_group(child: int) -> None:
    """Also here, since either process may be the first to need it."""
    try:
        os.setpgid(child, child)
    except OSError:
        pass  # it has done so itself, or has ended


def _kill_when_alone(descriptor: int, child: int) -> None:
    try:
        while os.read(descriptor, 1):
            pass
    except OSError:
        pass
    _kill_group(child)


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass  # nobody is left in it


def _send(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except OSError:
        pass  # it has ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
