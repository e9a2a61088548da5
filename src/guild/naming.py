"""Names of checkpoints and data files. Times in names are UTC. (specs/guild.md 2.1.2, 2.1.8, 5.5)"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_CHECKPOINT = re.compile(r"checkpoint-(\d+)(?:-\d{8}-\d{4})?")


def checkpoint_name(step: int, moment: datetime) -> str:
    """The canonical directory name `checkpoint-{step}-{YYYYMMDD}-{HHMM}`."""
    return f"checkpoint-{step}-{moment.astimezone(UTC):%Y%m%d-%H%M}"


def checkpoint_step(name: str) -> int | None:
    """The step in a plain (`checkpoint-500`) or canonical name; None when it is no checkpoint's name."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else None


def training_file_name(skill: str, level: int, count: int, moment: datetime) -> str:
    """The name of a generated file: `train_<skill>_level<level>_<count>_<YYYYMMDD_HHMMSS>.jsonl`."""
    return f"train_{skill}_level{level}_{count}_{_time(moment)}.jsonl"


def sparring_file_name(skill: str, level: int, rows: int, moment: datetime) -> str:
    """The name of a file of correction rows: `sparring_<skill>_L<level>_<n>_<YYYYMMDD_HHMMSS>.jsonl`."""
    return f"sparring_{skill}_L{level}_{rows}_{_time(moment)}.jsonl"


def completed_name(stem: str, moment: datetime) -> str:
    """The name a trained file has in `recently_completed/`."""
    return f"{stem}_{_time(moment)}.jsonl"


def sidecar_name(file_name: str) -> str:
    """The name of the lineage sidecar of a data file: `<file>.meta.json`."""
    return f"{file_name}.meta.json"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%d_%H%M%S}"
