"""Whether the daemon lives, by `.daemon.pid`, and its trainer, which may outlive it. (specs/guild.md 2.1.1, 8.4, acceptance 9)

The file holds the identity of a process (pid, start time, boot); one of the original system holds a pid alone, which names nobody once
the process that wrote it is gone.
"""

from __future__ import annotations

from guild.places import Places
from modelwright.errors import StorageError
from modelwright.identity import Liveness, ProcessIdentity, liveness
from modelwright.lock import writer_liveness

CLOCK_TOLERANCE_S = 2.0
TRAINER_LOCK = "trainer"
"""The folder below `.pids/` whose lock a trainer holds while it lives."""


def daemon_liveness(places: Places) -> Liveness:
    """Of the process named by `.daemon.pid`; dead where there is none, unreachable where it cannot be seen from here."""
    from modelwright.files import read_bytes

    try:
        data = read_bytes(places.daemon_pid)
    except StorageError:
        return "unreachable" if places.daemon_pid.exists() else "dead"
    identity = _identity(data)
    if identity is not None:
        return liveness(identity)
    text = data.strip()
    return _plain_pid(int(text), places) if text.isdigit() and len(text) <= 10 else "dead"


def trainer_liveness(places: Places) -> Liveness:
    """Of the trainer that holds the house's lock; dead where none does, unreachable where that cannot be seen from here."""
    return writer_liveness(places.pids / TRAINER_LOCK)


def house_liveness(places: Places) -> Liveness:
    """Of whoever stands behind the state and hears signals: the daemon, or a trainer that outlived it."""
    daemon = daemon_liveness(places)
    return trainer_liveness(places) if daemon == "dead" else daemon


def _identity(data: bytes) -> ProcessIdentity | None:
    import orjson

    try:
        content = orjson.loads(data)
        return ProcessIdentity.from_dict(content) if isinstance(content, dict) else None
    except ValueError:
        return None


def _plain_pid(pid: int, places: Places) -> Liveness:
    """A process that began after the file was written is another one under the same number."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > places.daemon_pid.stat().st_mtime + CLOCK_TOLERANCE_S:
            return "dead"
    except (psutil.NoSuchProcess, FileNotFoundError):
        return "dead"
    except psutil.AccessDenied:
        return "unreachable"
    return "alive"
