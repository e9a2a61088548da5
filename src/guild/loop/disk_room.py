"""Room on the disk before a file is begun. (specs/guild.md 2.1.1 step 6, G9)

Below the limit nothing is begun and nothing is failed: the files keep their places and their attempts until there is room again. The
original failed each of them in turn, which empties a whole queue within seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guild.queue.disk import REFUSE_BELOW, DiskVerdict, disk_verdict
from guild.records import events


@dataclass
class DiskRoom:
    """What is known of the disk. path: what lies on it. refuse_below: bytes."""

    path: Path
    refuse_below: int = REFUSE_BELOW
    _known: str = "ok"

    def look(self) -> tuple[bool, DiskVerdict | None]:
        """Whether a file may be begun, and the verdict where it is another one than at the last look. Raises StorageError."""
        found = disk_verdict(self.path, refuse_below=self.refuse_below)
        news = found if found.verdict != self._known else None
        self._known = found.verdict
        return found.verdict != "refuse", news


def words_of(verdict: DiskVerdict) -> tuple[str, str, events.Severity]:
    """Type, sentence and severity of the event about a new verdict."""
    if verdict.verdict == "refuse":
        return "daemon.disk_full", f"{verdict.sentence} Until then files wait and none is begun.", "error"
    if verdict.verdict == "warn":
        return "daemon.disk_low", verdict.sentence, "warning"
    return "daemon.disk_well", f"The disk has room again ({verdict.free / 1e9:.0f} GB free).", "info"
