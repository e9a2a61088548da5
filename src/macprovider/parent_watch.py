"""A child that dies with its parent, however the parent ends: a pipe whose other end only the parent holds.

The parent calls `parent_pipe` before it starts the child; the child calls `watch_parent` first thing. When the parent is gone
the pipe reports its end, and the child ends at once. On Linux the kernel's parent-death signal acts as well, for the moments
in which no thread of the child can run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

VARIABLE = "MODELWRIGHT_PARENT_PIPE"
EXIT_ORPHANED = 128 + signal.SIGKILL
_PR_SET_PDEATHSIG = 1


def parent_pipe() -> tuple[int, int]:
    """(end for the child, end to keep open while the child may live). Pass the first in `pass_fds` and its number in the
    environment as `VARIABLE`, then close it.
    """
    read, write = os.pipe()
    return read, write


def watch_parent() -> None:
    """End this process when the parent that set `VARIABLE` has gone; nothing where none did."""
    text = os.environ.pop(VARIABLE, "")
    if not text.isdecimal():
        return
    descriptor = int(text)
    os.set_inheritable(descriptor, False)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    threading.Thread(target=_wait_for_end, args=(descriptor,), name="parent watch", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    try:
        while os.read(descriptor, 1):
            pass
    except OSError:
        pass
    os._exit(EXIT_ORPHANED)
