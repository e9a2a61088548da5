"""The inbox: files put there, in sub-folders too, are checked and queued; bad ones are parked. (specs/guild.md 2.1.1 step 5, 3.3)"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
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
from modelwright.errors import MissingFileError, storage_error

EMPTY_S = 60.0
"""Seconds after which an empty file is one, and not the beginning of a file whose writer has not flushed yet."""


@dataclass
class InboxResult:
    """queued: names that wait now. rejected: names that are parked in `failed/`, with their errors. left: one sentence for each thing that
    stays in the inbox until somebody does something. soon: one for each file that is still being written."""

    queued: list[str] = field(default_factory=list)
    rejected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    soon: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        rejected = {name: list(errors) for name, errors in self.rejected.items()}
        return {"queued": self.queued, "rejected": rejected, "left": self.left, "soon": self.soon}


class Untold:
    """Of sentences that a daemon finds true in every round, those that it has not told yet; one that ceases to be true is told again when
    it is true once more."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def of(self, sentences: Iterable[str]) -> list[str]:
        """The new ones, in their order."""
        now = dict.fromkeys(sentences)
        new = [sentence for sentence in now if sentence not in self._told]
        self._told = set(now)
        return new


def process_inbox(
    db: Database, places: Places, *, priority: Priority = "normal", schema: str | None = None, allow_default: bool = False,
    quiet_s: float = QUIET_S, clock: Clock = SYSTEM_CLOCK,
) -> InboxResult:  # fmt: skip
    """Queue every file of the inbox under its own name, whatever sub-folder it is in; emptied sub-folders are removed.

    schema, allow_default: see `guild.queue.checking.validate_quick`. A file that changed less than `quiet_s` seconds ago is still being
    written and waits, an empty one for `EMPTY_S`. What another program renames or takes away meanwhile is passed over. Raises StorageError,
    QueueFullError.
    """
    make_folders(places)
    result = InboxResult()
    for path, status in _files(places, result):
        where = f"inbox/{shown(str(path.relative_to(places.inbox)))}"
        quiet = quiet_s if status.st_size else max(quiet_s, EMPTY_S)
        if abs(clock.now().timestamp() - status.st_mtime_ns / NS) < quiet:
            result.soon.append(f"{where} changed a moment ago; it is taken in when it has been quiet for {quiet:g} seconds.")
            continue
        try:
            add_file(db, places, path, priority=priority, schema=schema, allow_default=allow_default, clock=clock)
            result.queued.append(path.name)
        except QueueFullError:
            raise
        except (RefusedError, MissingFileError) as error:
            if os.path.lexists(path):
                _turn_away(db, places, path, where, error, result, clock)
    _remove_empty(places.inbox)
    return result


def _turn_away(db: Database, places: Places, path: Path, where: str, error: Exception, result: InboxResult, clock: Clock) -> None:
    """A file whose rows are wrong is parked; one that cannot be queued at all stays where it is."""
    try:
        if isinstance(error, InvalidDataError):
            park_invalid(db, places, path, error, clock=clock)
            result.rejected[path.name] = error.errors
            return
    except (RefusedError, MissingFileError) as refused:
        if not os.path.lexists(path):
            return
        error = refused
    result.left.append(f"{where} stays in the inbox. {error}")


def _files(places: Places, result: InboxResult) -> list[tuple[Path, os.stat_result]]:
    """Every data file below the inbox as it was looked at, oldest first; links are not followed."""
    found: list[tuple[Path, os.stat_result]] = []

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a folder that was taken away meanwhile
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
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # renamed or taken away meanwhile: the usual atomic write ends so
            except OSError as error:
                raise storage_error(error, path, "look at") from error
            if not stat.S_ISREG(status.st_mode):
                result.left.append(f"{where}: found a link or a special file; allowed: plain .jsonl files. Put the file itself there.")
            elif is_unfinished(name):
                result.left.append(
                    f"{where}: found a hidden or unfinished file; it is left alone until it gets a name that ends in .jsonl."
                )
            else:
                found.append((path, status))
    return sorted(found, key=lambda one: (one[1].st_mtime_ns, one[0]))


def _remove_empty(inbox: Path) -> None:
    for folder, _, _ in os.walk(inbox, topdown=False):
        if Path(folder) != inbox:
            with contextlib.suppress(OSError):  # not empty: what is left in it was named above
                os.rmdir(folder)
