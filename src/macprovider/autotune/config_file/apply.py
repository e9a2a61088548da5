"""`autotune --apply`: put a recommendation into the settings file, so that at every moment a reader finds the old or the new one.

Four keys are ours, and `repair` where the run measured an operator; every other line stays byte for byte. What stood there before
is kept beside it under a name of its own.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from macprovider.autotune.config_file.yaml_lines import Scalar, YamlEditError, holds, load, set_keys
from modelwright.errors import ConfigError, Fault, ModelwrightError, StorageError, storage_error
from modelwright.files import fsync_directory, write_bytes
from modelwright.home import ensure_folder
from modelwright.identity import process_start

OWNED_KEYS = ("model", "kv_bits", "max_concurrency_override", "max_context_override")
REPAIR_KEY, ENGINE_KEY = "repair", "engine"
BACKUPS_PER_SECOND = 65536
_SECRET = 0o600


class ApplyError(ModelwrightError):
    """The recommendation was not put into the settings file, which is as it was; one sentence."""

    exit_code = 8


@dataclass(frozen=True)
class Recommended:
    """What to serve. kv_bits: None leaves the cache unquantised and the key out. max_context: tokens. max_batch: requests at
    the same time. repair: path of an operator; None leaves the key out where `decides_repair`, the key belongs to the run, and
    otherwise leaves it as it is.
    """

    model: str
    kv_bits: Literal[4, 8] | None
    max_context: int
    max_batch: int
    repair: str | None = None
    decides_repair: bool = False

    def settings(self) -> dict[str, Scalar | None]:
        """By the names of the settings file; None for a key that is left out."""
        values = (self.model, self.kv_bits, self.max_batch, self.max_context)
        four: dict[str, Scalar | None] = dict(zip(OWNED_KEYS, values, strict=True))
        return four | {REPAIR_KEY: self.repair} if self.decides_repair else four


@dataclass(frozen=True)
class Applied:
    """What was done. path: the file itself, symbolic links followed. backup: of what stood there, None for a new file. changed:
    the keys whose value is another now. other_repair: an operator that the file names and the recommendation knows nothing of, engine:
    the engine that the file names; "" for none.
    """

    path: Path
    backup: Path | None
    changed: tuple[str, ...]
    values: Recommended
    other_repair: str = ""
    engine: str = ""

    def line(self) -> str:
        """The one line for standard output."""
        pairs = " ".join(f"{key}={'unset' if value is None else value}" for key, value in self.values.settings().items())
        return f"applied: {pairs} ({f'backup at {self.backup}' if self.backup else f'new file {self.path}, no backup'})"


def apply_recommendation(path: Path, values: Recommended, *, now: Callable[[], float] = time.time) -> Applied:
    """Set the owned keys in the settings file at `path` and nothing else; create the file, 0600, when there is none.

    A backup is written on every call that finds a file. now: Unix seconds, for its name. Raises ApplyError, or a StorageError
    (DiskFullError for a full disk); the settings are then the old ones, though their backup may exist already. Raises
    ConfigError for values that no file should hold.
    """
    _check(values)
    target = _followed(path)
    _remove_leftovers(target)
    old = _read(target)
    text = _decoded(target, old.data) if old else ""
    try:
        before, new = load(text, str(target)), set_keys(text, values.settings(), str(target)).encode()
    except YamlEditError as error:
        raise ApplyError(str(error)) from error
    changed = tuple(key for key, value in values.settings().items() if not holds(before, key, value))
    other_repair = "" if values.decides_repair else str(before.get(REPAIR_KEY) or "")
    if old is None:
        ensure_folder(target.parent)
        _create(target, new)
        return Applied(target, None, changed, values)
    backup = _back_up(target, old.data, int(now()))
    if new != old.data:
        _replace(target, new, old.status)
    return Applied(target, backup, changed, values, other_repair, str(before.get(ENGINE_KEY) or "").strip().lower())


# --- what stands there


@dataclass(frozen=True)
class _Old:
    data: bytes
    status: os.stat_result


def _followed(path: Path) -> Path:
    """The file behind every symbolic link; it may be missing."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise ApplyError(f"{path} cannot be followed: its symbolic links form a circle. Remove one of them.") from error


def _read(target: Path) -> _Old | None:
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, target, "read") from error
    try:
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ApplyError(f"{target} is no regular file. Name the settings file with --config, or move what stands there away.")
            return _Old(file.read(), status)
    except OSError as error:
        raise storage_error(error, target, "read") from error


def _decoded(target: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ApplyError(f"{target} is not edited: byte {error.start} is no UTF-8. Save the file as UTF-8, then apply again.") from error


def _check(values: Recommended) -> None:
    faults = []
    if not values.model.strip() or not values.model.isprintable():
        faults.append(Fault("model", repr(values.model), "a model id of printable characters"))
    if values.kv_bits not in (4, 8, None):
        faults.append(Fault("kv_bits", repr(values.kv_bits), "4, 8 or none"))
    for name, number in (("max_context_override", values.max_context), ("max_concurrency_override", values.max_batch)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            faults.append(Fault(name, repr(number), "a whole number from 1 up"))
    if values.repair is not None and not (values.decides_repair and values.repair.isprintable()):
        faults.append(Fault(REPAIR_KEY, repr(values.repair), "a path of printable characters, decided by the run"))
    if faults:
        raise ConfigError(faults)


# --- writing


def _back_up(target: Path, data: bytes, second: int) -> Path:
    """`<name>.bak-<second>-<lowest free number>`; it appears whole, and never in the place of another."""
    with _staged(target, data) as staged:
        for number in range(BACKUPS_PER_SECOND):
            backup = target.with_name(f"{target.name}.bak-{second}-{number}")
            if _claimed(staged, backup):
                fsync_directory(target.parent)
                return backup
    raise ApplyError(
        f"{target} is not edited: all {BACKUPS_PER_SECOND} backup names {target.name}.bak-{second}-… are taken. Remove old backups."
    )


def _create(target: Path, data: bytes) -> None:
    with _staged(target, data) as staged:
        try:
            os.link(staged, target)
        except FileExistsError as error:
            raise ApplyError(f"{target} is left as it is: another program created it just now. Look at it, then apply again.") from error
        except OSError:  # a file system without hard links: no way to refuse a file that appears in this very moment
            _renamed(staged, target)
    fsync_directory(target.parent)


def _replace(target: Path, data: bytes, old: os.stat_result) -> None:
    """Put `data` in the place of the file `old` describes, with its mode and owner."""
    with _staged(target, data) as staged:
        try:
            made = os.stat(staged)
            if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
                os.chown(staged, old.st_uid, old.st_gid)
            os.chmod(staged, stat.S_IMODE(old.st_mode))
        except OSError as error:
            raise ApplyError(
                f"{target} is not edited: its owner {old.st_uid}:{old.st_gid} cannot be kept ({error.strerror}). Apply as its owner."
            ) from error
        try:
            there = os.stat(target)
        except OSError as error:
            raise storage_error(error, target, "write") from error
        if (there.st_ino, there.st_mtime_ns, there.st_size) != (old.st_ino, old.st_mtime_ns, old.st_size):
            raise ApplyError(f"{target} is left as it is: another program changed it just now. Look at it, then apply again.")
        _renamed(staged, target)
    fsync_directory(target.parent)


@contextmanager
def _staged(target: Path, data: bytes) -> Iterator[Path]:
    """A durable file with `data`, 0600, under a temporary name beside `target`; gone after the block."""
    staged = target.with_name(_temporary_name(target))
    try:
        try:
            write_bytes(staged, data, mode=_SECRET)
        except StorageError as error:
            if isinstance(error.__cause__, OSError):  # name the file that was meant, not the temporary one
                raise storage_error(error.__cause__, target, "write") from error
            raise
        yield staged
    finally:
        with suppress(OSError):
            os.unlink(staged)


def _claimed(staged: Path, name: Path) -> bool:
    """Give the staged file the name; False when that is taken."""
    try:
        os.link(staged, name)
        return True
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: take the name with an empty file, then put the whole one in its place
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _SECRET))
        except FileExistsError:
            return False
        except OSError as error:
            raise storage_error(error, name, "write") from error
        _renamed(staged, name)
        return True


def _renamed(staged: Path, name: Path) -> None:
    try:
        os.replace(staged, name)
    except OSError as error:
        raise storage_error(error, name, "write") from error


def _temporary_name(target: Path) -> str:
    return f".{target.name[:150]}.{os.getpid()}-{secrets.randbits(48)}.tmp"


def _remove_leftovers(target: Path) -> None:
    """Temporary files of applies that were killed: they may hold secrets of the settings."""
    made = re.compile(r"\.+" + re.escape(target.name[:150]) + r"\.(\d+)-\d+\.tmp(?:\.\d+-\d+\.tmp)?")
    with suppress(OSError):  # a folder that is missing or cannot be listed has nothing to remove
        for name in os.listdir(target.parent):
            found = made.fullmatch(name)
            if found and process_start(int(found[1])) is None:
                os.unlink(target.with_name(name))
