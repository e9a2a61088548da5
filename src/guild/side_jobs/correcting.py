"""A job of kind `sparring`: one session that turns wrong answers into correction rows. (specs/guild.md 6.4, 8.5)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guild.correction.running import run_sparring
from guild.side_jobs.work import Stopped, Work


def carry_out(work: Work) -> Mapping[str, Any]:
    """Hold the session. Raises Stopped between two rounds of questions when it shall stop, and what `run_sparring` raises."""

    def look_up(done: int, count: int) -> None:
        why = work.stop()
        if why:
            raise Stopped(f"{why}: {done} of {count} problems were asked, and nothing is kept of them")

    return run_sparring(work.places, work.job.payload, db=work.db, job=work.job.id, progress=look_up, clock=work.clock).as_dict()
