"""The inbox: files put there, in sub-folders too, are checked and queued; bad ones are parked. (specs/guild.md 2.1.1 step 5, 3.3)"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guild.errors import RefusedError
from guild.places import Places, Priority
from guild.queue.add import add_file, park_invalid
from guild.queue.checking import InvalidDataError
from guild.queue.folders import make_folders
from guild.queue.names import is_sidecar, is_unfinished, shown
from guild.queue.reconcile import NS, QUIET_S
from guild.records.jobs import QueueFullError
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.database import Database
from modelwright.errors import storage_error


@dataclass
class InboxResult:
    """queued: names that wait now. rejected: names that are parked in `failed/`, with their errors. left: one sentence for each thing that
    stays in the inbox."""

    queued: list[str] = field(default_factory=list)
    rejected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"queued": self.queued, "rejected": {name: list(errors) for name, errors in self.rejected.items()}, "left": self.left}


def process_inbox(
    db: Database, places: Places, *, priority: Priority = "normal", schema: str | None = None, allow_default: bool = False,
    quiet_s: float = QUIET_S, clock: Clock = SYSTEM_CLOCK,
) -> InboxResult:  # fmt: skip
    """Queue every file of the inbox under its own name, whatever sub-folder it is in; emptied sub-folders are removed.

    schema, allow_default: see `guild.queue.checking.validate_quick`. A file that changed less than `quiet_s` seconds ago is still being
    written and waits. Raises StorageError, QueueFullError.
    """
    make_folders(places)
    result = InboxResult()
    for path in _files(places, result):
        where = f"inbox/{shown(str(path.relative_to(places.inbox)))}"
        if not _is_quiet(path, quiet_s, clock):
            result.left.append(f"{where} changed a moment ago; it is taken in when it has been quiet for {quiet_s:g} seconds.")
            continue
        try:
            add_file(db, places, path, priority=priority, schema=schema, allow_default=allow_default, clock=clock)
            result.queued.append(path.name)
        except InvalidDataError as error:
            park_invalid(db, places, path, error, clock=clock)
            result.rejected[path.name] = error.errors
        except QueueFullError:
            raise
        except RefusedError as error:
            result.left.append(f"{where} stays in the inbox. {error}")
    _remove_empty(places.inbox)
    return result


def _is_quiet(path: Path, quiet_s: float, clock: Clock) -> bool:
    try:
        return abs(clock.now().timestamp() - path.lstat().st_mtime_ns / NS) >= quiet_s
    except FileNotFoundError:
        return True  # another program was faster, and adding it says so
    except OSError as error:
        raise storage_error(error, path, "look at") from error


def _files(places: Places, result: InboxResult) -> list[Path]:
    """Every data file below the inbox, oldest first; links are not followed."""
    found: list[tuple[int, Path]] = []

    def refuse(error: OSError) -> None:
        raise storage_error(error, error.filename or places.inbox, "read the folder") from error

    for folder, folders, names in os.walk(places.inbox, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            where = f"inbox/{shown(str(path.relative_to(places.inbox)))}"
            if is_sidecar(name):
                if not path.with_name(name.removesuffix(".meta.json")).exists():
                    result.left.append(f"{where} is a sidecar without its data file. Put the file beside it, or remove the sidecar.")
                continue
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                result.left.append(f"{where}: found a link or a special file; allowed: plain .jsonl files. Put the file itself there.")
            elif is_unfinished(name):
                result.left.append(
                    f"{where}: found a hidden or unfinished file; it is left alone until it gets a name that ends in .jsonl."
                )
            else:
                found.append((status.st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def _remove_empty(inbox: Path) -> None:
    for folder, _, _ in os.walk(inbox, topdown=False):
        if Path(folder) != inbox:
            with contextlib.suppress(OSError):  # not empty: what is left in it was named above
                os.rmdir(folder)
