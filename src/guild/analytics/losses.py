"""The training loss at the two ends of an attempt, from its run's metrics."""

from __future__ import annotations

from pathlib import Path

from modelwright.errors import MissingFileError
from modelwright.metrics import read_metrics

METRIC = "train/loss"
WINDOW = 10
"""Steps whose mean is the loss of an end; fewer when the attempt is shorter than two windows, so that the ends never overlap."""


def first_and_last(run: Path | None, start: int, end: int) -> tuple[float | None, float | None]:
    """Means over the first and the last steps in (start, end], in nats per trained token; (None, None) when there are fewer than two
    steps or no metrics. run: the run directory. Of a step that was trained again the last value counts. Raises StorageError."""
    if run is None or end - start < 2:
        return None, None
    try:
        read = read_metrics(run / "metrics.jsonl")
    except MissingFileError:
        return None, None
    losses = {step: value for step, value in read.series(METRIC) if step is not None and value is not None and start < step <= end}
    ordered = [losses[step] for step in sorted(losses)]
    window = min(WINDOW, len(ordered) // 2)
    if not window:
        return None, None
    return sum(ordered[:window]) / window, sum(ordered[-window:]) / window
