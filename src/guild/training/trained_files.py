"""Which files the weights of a checkpoint contain, and how much of each. (specs/guild.md 2.1.3, 2.1.4)

Counted in windows: they follow from the file alone, while the number that an optimizer step takes may be set anew before every attempt.
A file is known by its job's key, which no two jobs of any house share, so what a checkpoint from elsewhere says can be kept and never
means a file of this house.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from modelwright.errors import ModelwrightError

SCHEMA_VERSION = 2
COMPLETE_KEPT = 200
"""Files trained whole that a checkpoint goes on naming: the word that one is done is lost, if at all, with the very last."""


@dataclass(frozen=True)
class TrainedPart:
    """What weights contain of one file.

    windows: trained, of `total` that the file was cut into, in their order. steps: optimizer steps that they took. rows: of the file, those
    held out not counted. windows_sha256: over all its windows. file_sha256: over its bytes.
    """

    windows: int
    total: int
    steps: int
    rows: int
    windows_sha256: str
    file_sha256: str

    @property
    def complete(self) -> bool:
        return self.windows >= self.total


@dataclass(frozen=True)
class FormerPart:
    """What a checkpoint of the first format says of an unfinished file, under the bare number of its job: steps, and the digest of the
    windows. What it says of finished files is not taken up: neither house nor digest stands beside it."""

    steps: int
    windows_sha256: str

    def windows(self, total: int, per_step: int | None, name: str) -> int:
        """The windows that these steps took. per_step: as the file's run has it on record. Raises ModelwrightError when that is unknown or
        cannot be right."""
        if per_step is None or not 0 < self.steps * per_step < total:
            found = "nothing" if per_step is None else f"{per_step} windows a step, of {total} in all,"
            raise ModelwrightError(
                f"{name}: {self.steps} of its steps are trained by an earlier version, which counted steps; found {found} on record that "
                "says how many windows these were, so what is left cannot be told. Queue the file under another name to train it from its "
                "beginning."
            )
        return self.steps * per_step


def read_parts(own: Mapping[str, Any]) -> dict[str, TrainedPart]:
    """Job key → what the weights contain of its file, in the order of training, from the `guild` section of `trainer_state.json`."""
    names = [field.name for field in fields(TrainedPart)]
    return {str(key): TrainedPart(*(part[name] for name in names)) for key, part in own.get("files", {}).items()}


def read_former(own: Mapping[str, Any]) -> dict[str, FormerPart]:
    """Bare job number → unfinished file, from the `guild` section of the first format; empty for a later one."""
    digests = own.get("digests", {})
    return {str(job): FormerPart(int(steps), str(digests.get(job))) for job, steps in own.get("partial", {}).items()}


def parts_document(parts: Mapping[str, TrainedPart]) -> dict[str, Any]:
    """What a checkpoint keeps: every unfinished file, and of the finished ones the last."""
    complete = [key for key, part in parts.items() if part.complete]
    dropped = set(complete[:-COMPLETE_KEPT])
    return {key: asdict(part) for key, part in parts.items() if key not in dropped}


def job_key(number: int, enqueued_at: str) -> str:
    """The key of a job: its number in its house, and the moment (ms) at which it was queued there. A house begun anew, another house and a
    copy of this one give the same numbers, at other moments; a restored database gives back both."""
    return f"{number}@{enqueued_at}"


def job_number(key: str) -> str:
    """The number in a job's key, as checkpoints of the first format name it."""
    return key.partition("@")[0]
