"""A job of kind `report`: one document of the analytics wing. (specs/guild.md 2.7, 2.9)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guild.side_jobs.work import Work


def carry_out(work: Work) -> Mapping[str, Any]:
    """Make the report that the payload names. The document is the result; the job keeps its name and how it stands. Raises what
    `run_report` raises."""
    from guild.analytics.reports import run_report

    payload = work.job.payload
    made = run_report(
        work.places, payload["name"], payload["options"], campaign=payload.get("campaign"), db=work.db, clock=work.clock
    )  # fmt: skip
    return {"report": payload["name"], "status": made.get("status"), "generated_at": made.get("generated_at")}
