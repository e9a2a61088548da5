"""The loop, turn by turn: which file was trained, what it did, and how its checkpoint was judged. (specs/guild.md 1.1, 2.9)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guild.analytics.documents import NO_DATA
from guild.records.evaluation_records import Evaluation

SHOWN = 50


def cycles(files: Sequence[Mapping[str, Any]], evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The newest fifty turns, the newest first. files: joined impact records (`impact_summary.by_file`). A file's evaluations are those of
    checkpoints saved in its steps, its first excluded and its last included."""
    turns = []
    for number, file in enumerate(files, start=1):
        start, end = int(file.get("start_step") or 0), int(file.get("end_step") or 0)
        judged = [one for one in evaluations if start < one.checkpoint_step <= end]
        turns.append({
            "number": number,
            **{name: file.get(name) for name in ("filename", "skill", "level", "start_step", "end_step", "steps_trained", "outcome",
                                                 "complete", "impact_score", "classification", "end_timestamp")},
            "evaluations": [
                {"step": one.checkpoint_step, "skill": one.skill, "level": one.level, "accuracy": one.accuracy, "problems": one.total}
                for one in judged
            ],
        })  # fmt: skip
    return {"status": "ok" if turns else NO_DATA, "total": len(turns), "cycles": turns[: -SHOWN - 1 : -1]}
