"""Free space before a file is trained: refused below 10 GB, warned of below 50 GB. (specs/guild.md 2.1.1 step 6, G9)"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelwright.errors import storage_error

GB = 10**9
REFUSE_BELOW = 10 * GB
WARN_BELOW = 50 * GB


@dataclass(frozen=True)
class DiskVerdict:
    """free: bytes. verdict: what it means. sentence: for people, "" when all is well."""

    free: int
    verdict: Literal["ok", "warn", "refuse"]
    sentence: str = ""


def judge_disk(free: int, where: str, *, refuse_below: int = REFUSE_BELOW, warn_below: int = WARN_BELOW) -> DiskVerdict:
    """What `free` bytes at `where` allow. Limits in bytes."""
    found = f"{where}: found {free / GB:.1f} GB free"
    if free < refuse_below:
        return DiskVerdict(free, "refuse", f"{found}; allowed: at least {refuse_below / GB:g} GB to train a file. Free some space.")
    if free < warn_below:
        return DiskVerdict(free, "warn", f"{found}; below {warn_below / GB:g} GB checkpoints may soon fill it. Free some space.")
    return DiskVerdict(free, "ok")


def disk_verdict(path: Path, *, refuse_below: int = REFUSE_BELOW, warn_below: int = WARN_BELOW) -> DiskVerdict:
    """The verdict on the file system that holds `path`. Raises StorageError."""
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise storage_error(error, path, "measure the free space of") from error
    return judge_disk(free, str(path), refuse_below=refuse_below, warn_below=warn_below)
