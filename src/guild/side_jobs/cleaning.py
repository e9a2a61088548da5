"""A job of kind `retention`: one pass over checkpoints and snapshots. (specs/guild.md 2.8.4, 8.5)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guild.retention.apply import retain
from guild.side_jobs.work import Stopped, Work


def carry_out(work: Work) -> Mapping[str, Any]:
    """Do the pass that the payload asks for. Raises Stopped between two deletions when it shall stop, and what `retain` raises."""
    payload = work.job.payload
    done = retain(
        work.db, work.places, dry_run=payload["dry_run"], campaign=payload.get("campaign"), stop=work.stop, but_job=work.job.id,
        clock=work.clock,
    )  # fmt: skip
    if done.stopped:
        raise Stopped(done.stopped)
    return done.as_dict()
