"""How much memory a candidate took, with everything that it started: what the process table tells, greatest sum so far."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC = Path("/proc")
SETTLED_S = 1.0
"""Age from which a descendant counts: until a new process runs its own program it shows the memory of the one that made it."""
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)


@dataclass
class Peak:
    """bytes: resident memory of a process and its descendants at its greatest, None before anything was seen. On Linux the kernel keeps
    each process' own peak, so that nothing between two looks is missed; elsewhere only what a look meets counts. Pages that processes
    share count in each of them; memory of a GPU is not in it.
    """

    bytes: int | None = None

    def look(self, pid: int) -> None:
        """Note what the process `pid` and its descendants have taken so far; nothing when it is gone."""
        found = family_bytes(pid)
        if found:
            self.bytes = max(found, self.bytes or 0)


def family_bytes(pid: int) -> int:
    """Bytes of a process and its descendants now, by their own peaks where the system keeps them; 0 when there is none. An engine's
    server has a process group of its own, so that descent counts and not the group.
    """
    try:
        process = psutil.Process(pid)
        below = process.children(recursive=True)
    except psutil.Error:
        return 0
    return _peak_of(process) + sum(_peak_of(other) for other in below if _settled(other))


def _settled(process: psutil.Process) -> bool:
    try:
        return time.time() - process.create_time() >= SETTLED_S
    except psutil.Error:
        return False


def _peak_of(process: psutil.Process) -> int:
    try:
        status = (PROC / str(process.pid) / "status").read_text(errors="replace")
    except OSError:  # no such file on this system, or the process ended just now
        status = ""
    if found := _PEAK.search(status):
        return int(found[1]) * 1024
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
