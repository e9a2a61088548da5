"""What runs for a job right now, whoever started it, found by identity and never by a bare number. (parts.md, faults 5 and 6)"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from guild.processes import OwnProcess, find_holder
from guild.side_jobs.job_folder import JobFolder
from modelwright.clock import parse_stamp
from modelwright.errors import ModelwrightError
from modelwright.identity import ProcessIdentity, liveness
from modelwright.record import TERMINAL, read_record

SLACK = timedelta(seconds=1.0)
"""A run's record keeps whole seconds."""


@dataclass(frozen=True)
class Present:
    """state: `live` (a process works on it), `ended` (the last start came to an end that nobody took note of), `none`. process: the one
    to wait for and to signal. group: whether it leads the group of the command. code: of an end, None when nobody wrote it down."""

    state: Literal["live", "ended", "none"]
    process: OwnProcess | None = None
    group: bool = False
    code: int | None = None


def look(folder: JobFolder) -> Present:
    """What there is for the job of `folder`. Raises DamagedFileError.

    The keeper is asked first, then the command that it started (should the keeper alone have been killed), then whoever writes the run
    (a person may have resumed it by hand).
    """
    keeper = find_holder(folder.path)
    if keeper is not None:
        return Present("live", keeper, group=True)
    launch = folder.read(folder.launch)
    child = _identity(launch.get("child"))
    if child is not None and liveness(child) == "alive":
        return Present("live", OwnProcess(child))
    run = folder.run
    writer = find_holder(run) if run is not None else None
    if writer is not None:
        return Present("live", writer)
    if not launch:
        return Present("none")
    ended = folder.read(folder.exit)
    if ended.get("launch") == launch.get("launch"):
        return Present("ended", code=int(ended["code"]))
    code = code_on_record(folder, str(launch.get("started_at") or ""))
    return Present("ended", code=code) if code is not None else Present("none")


def code_on_record(folder: JobFolder, started_at: str) -> int | None:
    """The exit code in the run's own record when it ended after `started_at` (a stamp); None when it says nothing of that start."""
    run = folder.run
    if run is None:
        return None
    try:
        record = read_record(run)
        later = parse_stamp(record.updated_at) >= parse_stamp(started_at) - SLACK
    except (ModelwrightError, ValueError):
        return None
    return record.exit_code if record.status in TERMINAL and later else None


def forget_last(folder: JobFolder) -> None:
    """Take note that the last start is settled: its end is not met again."""
    folder.exit.unlink(missing_ok=True)
    folder.launch.unlink(missing_ok=True)


def _identity(data: Any) -> ProcessIdentity | None:
    try:
        return ProcessIdentity.from_dict(data) if isinstance(data, dict) else None
    except ValueError:
        return None
