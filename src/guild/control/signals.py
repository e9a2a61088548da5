"""The signal files `control/.pause`, `.stop`, `.skip` and `.resume`. (specs/guild.md 2.1.3)

A command writes them with a reason and a time; a plain `touch` asks the same. Each is taken once, by a rename, which succeeds for one
process only. Order is that of the files' modification times.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal, get_args

from guild.places import Places
from modelwright.clock import SYSTEM_CLOCK, Clock, parse_stamp, stamp
from modelwright.errors import StorageError, storage_error
from modelwright.files import make_folder, write_text

SignalKind = Literal["pause", "stop", "skip", "resume"]
SIGNALS: tuple[SignalKind, ...] = get_args(SignalKind)
DEFAULT_REASON = "User requested"
MAX_BYTES = 64 * 1024
TAKEN_SUFFIX = ".taken"
_numbers = count()


@dataclass(frozen=True)
class Signal:
    """One signal, taken. at: when it was given. order: ns since 1970, of the file. claim: the file under its new name until
    `done` or `put_back`."""

    kind: SignalKind
    reason: str
    at: datetime
    order: int
    claim: Path


def signal_path(places: Places, kind: SignalKind) -> Path:
    """Where a signal of that kind stands."""
    return places.control / f".{kind}"


def give(places: Places, kind: SignalKind, reason: str = DEFAULT_REASON, *, clock: Clock = SYSTEM_CLOCK) -> Path:
    """Write a signal and return its path; a signal of that kind that is still there gets the new reason.

    A pause withdraws a resume that nobody took: it was given before. Raises StorageError when the file cannot be written.
    """
    path = make_folder(places.control) / f".{kind}"
    if kind == "pause":
        _remove(signal_path(places, "resume"))
    text = "" if kind == "resume" else f"{' '.join(reason.split()) or DEFAULT_REASON}\n{stamp(clock.now())}\n"
    write_text(path, text)
    return path


def active(places: Places) -> dict[str, bool]:
    """Which signals stand there, not yet taken. Reads only."""
    return {kind: _is_file(signal_path(places, kind)) for kind in SIGNALS}


def take(places: Places) -> list[Signal]:
    """Take every signal, the oldest first. Whatever is no plain file under such a name is left (see `odd_signals`). Raises StorageError."""
    taken = [signal for kind in SIGNALS if (signal := _take(places, kind)) is not None]
    return sorted(taken, key=lambda signal: signal.order)


def done(signal: Signal) -> None:
    """The signal was acted on: its file goes."""
    signal.claim.unlink(missing_ok=True)


def put_back(signal: Signal) -> None:
    """The signal could not be passed on: it stands again, unless a newer one does."""
    plain = signal.claim.with_name(f".{signal.kind}")
    try:
        if os.path.lexists(plain):
            signal.claim.unlink()
        else:
            signal.claim.rename(plain)
    except OSError as error:
        raise storage_error(error, plain, "put back the signal") from error


def clear(places: Places) -> list[str]:
    """Remove every signal, and what killed processes left of taken ones; returns the kinds that were there. Raises StorageError."""
    removed: list[str] = [kind for kind in SIGNALS if _remove(signal_path(places, kind))]
    for kind in SIGNALS:
        for left in places.control.glob(f".{kind}.*{TAKEN_SUFFIX}"):
            _remove(left)
    return removed


def odd_signals(places: Places) -> list[str]:
    """One sentence for each thing under a signal's name that is no plain file and therefore asks for nothing."""
    return [
        f"{path}: found a folder, a link or a special file; allowed: a plain file. Remove it."
        for path in (signal_path(places, kind) for kind in SIGNALS)
        if os.path.lexists(path) and not _is_file(path)
    ]


def _take(places: Places, kind: SignalKind) -> Signal | None:
    path = signal_path(places, kind)
    if not _is_file(path):
        return None
    claim = path.with_name(f".{kind}.{os.getpid()}-{next(_numbers)}{TAKEN_SUFFIX}")
    try:
        path.rename(claim)
        status = claim.stat()
        text = claim.read_bytes()[:MAX_BYTES].decode(errors="replace")
    except FileNotFoundError:
        return None  # another process was faster
    except OSError as error:
        with contextlib.suppress(OSError):  # it stands again where it can; the error below says what was wrong
            claim.rename(path)
        raise storage_error(error, path, "take the signal") from error
    written = datetime.fromtimestamp(status.st_mtime, UTC)
    lines = text.splitlines()
    reason = " ".join(lines[0].split()) if lines else ""
    return Signal(kind, reason or DEFAULT_REASON, _moment(lines[1] if len(lines) > 1 else "", written), status.st_mtime_ns, claim)


def _moment(text: str, otherwise: datetime) -> datetime:
    try:
        return parse_stamp(text.strip())
    except ValueError:
        return otherwise  # written by hand


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise storage_error(error, path, "look at the signal") from error


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        if path.is_dir() and not path.is_symlink():
            raise StorageError(f"{path}: found a folder where a signal file belongs. Remove the folder.", path) from error
        raise storage_error(error, path, "remove the signal") from error
    return True
