"""Who a process is, and whether it still lives.

A pid alone names nobody: it is reused. A process is its pid, its start time and the boot of its kernel; a pid also
means something only inside its pid namespace (a container has its own). Liveness has three values: `alive`, `dead`
and `unreachable`, the last for a process that cannot be seen from here, which must never be taken for dead.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Liveness = Literal["alive", "dead", "unreachable"]


@dataclass(frozen=True)
class ProcessIdentity:
    """One process, named so that no other can be mistaken for it.

    start_time: clock ticks between boot and the start of the process (`/proc/<pid>/stat`, field 22), or hundredths of
    a second since the epoch where there is no /proc; None when unknown. boot_id: this boot of the kernel. host: its
    name on the network. namespace: the pid namespace, "" when unknown.
    """

    pid: int
    start_time: int | None
    boot_id: str
    host: str
    namespace: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProcessIdentity:
        """The identity in a lock file or record; further keys are ignored. Raises ValueError when the five fields
        make no sense."""
        try:
            start = data.get("start_time")
            return cls(
                pid=int(data["pid"]),
                start_time=None if start is None else int(start),
                boot_id=str(data["boot_id"]),
                host=str(data["host"]),
                namespace=str(data.get("namespace") or ""),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a process identity: {data!r}") from error


def process_start(pid: int) -> int | None:
    """Start time of a running process; None when there is no such process (or only its zombie)."""
    if sys.platform == "linux":
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = text[text.rfind(")") + 2 :].split()
        return None if fields[0] in ("Z", "X", "x") else int(fields[19])
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 100)
    except psutil.NoSuchProcess:
        return None


@cache
def boot_id() -> str:
    """This boot of the kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        return f"boot-{int(psutil.boot_time())}"


def pid_namespace() -> str:
    """The pid namespace of this process, "" where the system has none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def current_identity() -> ProcessIdentity:
    """This process."""
    pid = os.getpid()
    return ProcessIdentity(pid, process_start(pid), boot_id(), socket.gethostname(), pid_namespace())


def liveness(identity: ProcessIdentity, here: ProcessIdentity | None = None) -> Liveness:
    """Whether that process lives, seen from `here` (default: this process).

    Same kernel and namespace: the pid must exist with the recorded start time. Same kernel, other namespace:
    unreachable. Same host, other boot: dead. Other host: unreachable.
    """
    here = here or current_identity()
    if identity.boot_id != here.boot_id:
        return "dead" if identity.host == here.host else "unreachable"
    if identity.namespace and here.namespace and identity.namespace != here.namespace:
        return "unreachable"
    started = process_start(identity.pid)
    if started is None:
        return "dead"
    if identity.start_time is None:
        return "unreachable"
    return "alive" if started == identity.start_time else "dead"
