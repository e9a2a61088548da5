"""What an evaluation has finished: records of units and the scores of their examples. (specs/medic.md, 8.5; [C25] [C27])

    metrics/eval_progress.json     replaced whole after each unit; what a resume goes by
    metrics/eval_examples.jsonl    one line per example and unit, appended before the unit enters the progress

A unit counts as finished when its record and the lines of all its examples are there; any other line is taken back on
resume. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachemedicpp.evaluation.aggregation import Cell
from cachemedicpp.evaluation.grid import Unit
from cachemedicpp.evaluation.outcomes import ExampleScore, example_score
from cachemedicpp.phases.units import ProgressFile
from modelwright.files import encode_line, read_jsonl, write_bytes

PROGRESS = ProgressFile("eval", "the progress of an evaluation", own=("repair", "records"))
EXAMPLES, METRICS, LOG = "metrics/eval_examples.jsonl", "metrics/task_metrics.json", "logs/eval.jsonl"
RESULT_FILES = (PROGRESS.path, EXAMPLES, METRICS, LOG)
"""What one evaluation leaves, progress first: a phase whose progress is gone starts anew."""


@dataclass
class Finished:
    """The finished units of an evaluation.

    repair: step and SHA-256 of the evaluated checkpoint, None for an untrained operator. records, scores: by unit key.
    """

    repair: dict[str, Any] | None
    created_utc: str
    elapsed: float = 0.0
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, tuple[ExampleScore, ...]] = field(default_factory=dict)

    def cells(self, units: Sequence[Unit]) -> list[Cell]:
        """The cells of `units` in their order, whatever order they were finished in."""
        return [Cell(unit, self.scores[unit.key]) for unit in units]

    def in_order(self, units: Sequence[Unit]) -> list[dict[str, Any]]:
        """The records of finished units in unit order."""
        return [self.records[unit.key] for unit in units if unit.key in self.records]

    def kept(self, units: Sequence[Unit]) -> dict[str, Any]:
        """What the progress file says of the finished ones of `units`."""
        records = self.in_order(units)
        return {"completed_units": len(records), "created_utc": self.created_utc, "repair": self.repair, "records": records}


def read_finished(folder: Path, document: Mapping[str, Any], counts: Mapping[str, int]) -> Finished:
    """What `document` (the progress file) and the example lines agree on; lines of other units are taken out of the file.

    counts: examples of each task. Damaged lines make their unit unfinished, so it is measured again.
    """
    found = read_jsonl(folder / EXAMPLES, missing_ok=True)
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for line in found.records:
        lines.setdefault(str(line.get("unit_key")), {})[line.get("example", -1)] = line
    records = {record["unit_key"]: dict(record) for record in document["records"]}
    whole = {key: record for key, record in records.items() if sorted(lines.get(key, ())) == list(range(counts.get(record["task"], 0)))}
    kept = [lines[key][number] for key in whole for number in sorted(lines[key])]
    if len(kept) != len(found.records) or found.torn_tail or found.damage:
        write_bytes(folder / EXAMPLES, b"".join(map(encode_line, kept)))
    scores = {key: tuple(example_score(lines[key][number]) for number in sorted(lines[key])) for key in whole}
    return Finished(document["repair"], document["created_utc"], float(document["elapsed_wall_sec"]), whole, scores)
