"""When new data may be generated. (specs/guild.md 2.4, acceptance 27)

All of it must hold; `force` leaves out the queue's depth and the time since the last generation, and nothing else. That the skill's API
is well is asked last and separately (`guild.curriculum.sources`), since it costs a request.
"""

from __future__ import annotations

from datetime import datetime

from guild.campaigns.config_file import AutoGenerate
from guild.places import PRIORITIES
from guild.records import jobs
from guild.records.jobs import Counts
from modelwright.database import Database


def unmet(settings: AutoGenerate, counts: Counts, last: datetime | None, now: datetime, *, force: bool = False) -> list[str]:
    """A sentence for each condition that does not hold; none when data may be generated.

    counts: of the training files. last: when the last generation ended. force: leave out depth and time.
    """
    found = []
    if not settings.enabled:
        found.append("auto_generate.enabled: found false; allowed: true. Set it with count and priority: guild config set --global.")
    if counts.processing:
        held = "1 file is" if counts.processing == 1 else f"{counts.processing} files are"
        found.append(f"{held} being trained; data is generated while none is. Wait until it is done.")
    if force:
        return found
    queued = sum(counts.levels[level] for level in PRIORITIES)
    if not (queued <= settings.threshold or queued < settings.min_queue_depth):
        found.append(
            f"queue: found {queued} waiting files; allowed: at most {settings.threshold} (threshold) or fewer than "
            f"{settings.min_queue_depth} (min_queue_depth). Wait, or use --force."
        )
    passed = None if last is None else (now - last).total_seconds()
    if passed is not None and 0 <= passed < settings.cooldown_sec:
        found.append(
            f"cooldown: found {passed:.0f} s since the last generation; allowed: {settings.cooldown_sec:g} s. Wait, or use --force."
        )
    return found


def unmet_now(db: Database, settings: AutoGenerate, last: datetime | None, now: datetime, *, force: bool = False) -> list[str]:
    """The same with the queue as it stands."""
    return unmet(settings, jobs.counts(db), last, now, force=force)
