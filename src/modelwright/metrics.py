"""Metric events: one JSON line each, cheap enough to log every step, and a reader that undoes replays.

An event is `{"timestamp", "metric", "value"[, "step"][, "attempt"][, extras…]}`. NaN and infinities are written as
`"value": null` with `"nonfinite": "nan" | "inf" | "-inf"`. Events of a first attempt carry no `attempt`, later ones
do.

A run that is killed and resumed logs some steps twice. `read_metrics` gives the curve that an uninterrupted run would
have given, by two rules over *streams*; a stream is one metric together with its extras `phase`, `rung`, `length`,
`split` and `dataset`:

1. Where a stream has events of a newer attempt, events of older attempts at or beyond the newer attempt's first step
   in that stream are superseded; events without a step are superseded by any newer attempt that has some in that
   stream.
2. An event `run/resumed` (`MetricWriter.resumed`) with value `s` supersedes every earlier line of the file whose step
   is above `s`, in all streams (or those that match the extras given with it). This also covers what a resumed run
   never logs again, and a rollback within one attempt.

Steps must therefore grow within a stream. Superseded events stay in the file; `newest_attempt=False` shows them.
"""

from __future__ import annotations

import atexit
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import damaged_lines, storage_error
from modelwright.files import JsonlAppender, encode_line, read_jsonl

CORE_KEYS = frozenset({"timestamp", "metric", "value", "step", "nonfinite", "attempt"})
STREAM_KEYS = ("phase", "rung", "length", "split", "dataset")
RESUMED = "run/resumed"
ROTATE_BYTES = 256 * 2**20


class MetricWriter:
    """Appends metric events to one file.

    attempt: number of the run's attempt. flush_every: events kept in memory before one write; 1 (default) loses
    nothing to a kill, more loses at most the unflushed rest. fsync_every_s: see JsonlAppender. rotate_bytes: a file
    of this size is renamed `<stem>.<n>.jsonl` (1 is the oldest) and a new one begun. Threads may share a writer.
    Raises DiskFullError, StorageError.
    """

    def __init__(
        self,
        path: Path,
        *,
        attempt: int = 1,
        flush_every: int = 1,
        fsync_every_s: float | None = 1.0,
        rotate_bytes: int = ROTATE_BYTES,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if flush_every < 1:
            raise ValueError(f"flush_every: found {flush_every}; allowed: 1 or more")
        self.path = Path(path)
        self._attempt = attempt
        self._flush_every = flush_every
        self._fsync_every_s = fsync_every_s
        self._rotate_bytes = rotate_bytes
        self._seconds = time.time if clock is SYSTEM_CLOCK else lambda: clock.now().timestamp()
        self._clock = clock
        self._second, self._stamp = -1, ""
        self._buffer: list[bytes] = []
        self._pid = os.getpid()
        self._appender = JsonlAppender(self.path, fsync_every_s=fsync_every_s)
        atexit.register(self.close)

    def log(self, metric: str, value: float | None, /, step: int | None = None, **extra: Any) -> None:
        """Append one event. Raises ValueError when an extra bears the name of a core field."""
        second = int(self._seconds())
        if second != self._second:
            self._second, self._stamp = second, stamp(self._clock.now())
        event: dict[str, Any] = {"timestamp": self._stamp, "metric": metric, "value": value}
        if value is not None and type(value) is not int:
            number = float(value)
            event["value"] = number
            if not math.isfinite(number):
                event["value"] = None
                event["nonfinite"] = "nan" if number != number else "inf" if number > 0 else "-inf"
        if step is not None:
            event["step"] = step
        if self._attempt > 1:
            event["attempt"] = self._attempt
        if extra:
            if not CORE_KEYS.isdisjoint(extra):
                taken = ", ".join(sorted(CORE_KEYS & extra.keys()))
                raise ValueError(f"metric {metric}: found the extra field {taken}; allowed: any name but {', '.join(sorted(CORE_KEYS))}")
            event.update(extra)
        line = encode_line(event)
        if self._flush_every == 1:
            self._write(line)
        else:
            self._buffer.append(line)
            if len(self._buffer) >= self._flush_every:
                self.flush()

    def resumed(self, step: int, **scope: Any) -> None:
        """Say that the run continues behind `step`: every earlier event with a higher step is superseded (see the
        module's rule 2).

        scope: extras that an event must carry with the same values to be concerned; none means all events.
        """
        self.log(RESUMED, step, **scope)
        self.flush()

    def flush(self) -> None:
        """Write what is buffered, by one `write`. When that fails the events stay buffered."""
        if self._buffer:
            self._write(b"".join(self._buffer))
            self._buffer.clear()

    def _write(self, lines: bytes) -> None:
        if self._appender.size >= self._rotate_bytes:
            self._rotate()
        self._appender.append_bytes(lines)

    def _rotate(self) -> None:
        self._appender.close()
        parts = rotated_parts(self.path)
        number = parts[-1][0] + 1 if parts else 1
        target = self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}")
        try:
            self.path.rename(target)
        except OSError as error:
            raise storage_error(error, self.path, "rename") from error
        self._appender = JsonlAppender(self.path, fsync_every_s=self._fsync_every_s)

    def close(self) -> None:
        """Flush, sync and close; closing twice is fine."""
        atexit.unregister(self.close)
        if os.getpid() != self._pid:  # a forked child: what is buffered belongs to its parent
            self._buffer.clear()
        try:
            self.flush()
        finally:
            self._appender.close()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class MetricsRead:
    """What a metrics file tells.

    events: in the order they were written, replays undone unless asked otherwise. superseded: how many events were
    left out. restarts: (attempt, step) of every `run/resumed`. torn_tail, damage: see JsonlRead. files: the files
    read, oldest first.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    superseded: int = 0
    restarts: list[tuple[int, int]] = field(default_factory=list)
    torn_tail: bool = False
    damage: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def series(self, metric: str, **extras: Any) -> list[tuple[int | None, float | None]]:
        """(step, value) of every event of `metric` whose extras equal the given ones."""
        return [(event.get("step"), event.get("value")) for event in self.matching(metric, **extras)]

    def matching(self, metric: str, **extras: Any) -> Iterator[dict[str, Any]]:
        """Every event of `metric` whose extras equal the given ones."""
        for event in self.events:
            if event["metric"] == metric and all(event.get(key) == value for key, value in extras.items()):
                yield event


def rotated_parts(path: Path) -> list[tuple[int, Path]]:
    """(number, file) of the rotated parts of a metrics file, oldest first."""
    pattern = re.compile(re.escape(path.stem) + r"\.(\d+)" + re.escape(path.suffix))
    found = [(int(match[1]), file) for file in path.parent.glob("*") if (match := pattern.fullmatch(file.name))]
    return sorted(found)


def read_metrics(path: Path | str, *, newest_attempt: bool = True) -> MetricsRead:
    """Read a metrics file with its rotated parts. Raises MissingFileError when there is none, StorageError when it
    cannot be read."""
    path = Path(path)
    while True:
        parts = [file for _, file in rotated_parts(path)]
        files = [*parts, path]
        reads = [read_jsonl(file, missing_ok=bool(parts)) for file in files]
        if [file for _, file in rotated_parts(path)] == parts:  # otherwise the writer rotated meanwhile: read again
            break
    events: list[dict[str, Any]] = []
    damage = [sentence for read in reads for sentence in read.damage]
    for file, read in zip(files, reads, strict=True):
        faults: list[tuple[int, str]] = []
        for number, record in zip(read.lines, read.records, strict=True):
            fault = _event_fault(record)
            if fault:
                faults.append((number, fault))
            else:
                events.append(record)
        damage += damaged_lines(file, faults)
    restarts = [(event.get("attempt", 1), int(event["value"])) for event in events if event["metric"] == RESUMED]
    kept = newest_events(events) if newest_attempt else events
    torn = any(read.torn_tail for read in reads)
    marks = len(restarts) if newest_attempt else 0
    return MetricsRead(kept, len(events) - len(kept) - marks, restarts, torn, damage, files)


def _event_fault(record: dict[str, Any]) -> str:
    """Why a JSON object is no metric event; "" when it is one."""
    value, step, attempt = record.get("value"), record.get("step"), record.get("attempt", 1)
    if not isinstance(record.get("metric"), str):
        return "found an object without a metric name; expected a metric event"
    if not (value is None or isinstance(value, (int, float))) or (record["metric"] == RESUMED and value is None):
        return f"found the value {orjson.dumps(value).decode()[:40]}; expected a number or null"
    if not (step is None or isinstance(step, int)) or not isinstance(attempt, int):
        return "found a step or attempt that is no integer; expected integers"
    return ""


def newest_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that an uninterrupted run would have left, in order (see the rules in the module's text)."""
    survivors = _after_restarts(events)
    first_steps: dict[tuple[Any, ...], dict[int, float]] = {}
    for event in survivors:
        steps = first_steps.setdefault(_stream(event), {})
        attempt, step = event.get("attempt", 1), event.get("step")
        if step is not None:
            steps[attempt] = min(step, steps.get(attempt, math.inf))
        else:
            steps.setdefault(-attempt, -math.inf)  # attempts with step-less events are kept under negative numbers
    return [event for event in survivors if not _superseded(event, first_steps[_stream(event)])]


def _after_restarts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rule 2, read from the end: what stands before a restart and beyond its step is gone."""
    kept: list[dict[str, Any]] = []
    limits: dict[tuple[tuple[str, Any], ...], float] = {}
    for event in reversed(events):
        if event["metric"] == RESUMED:
            scope = tuple(sorted((key, value) for key, value in event.items() if key not in CORE_KEYS))
            limits[scope] = min(event["value"], limits.get(scope, math.inf))
            continue
        step = event.get("step")
        gone = step is not None and any(
            step > limit and all(event.get(key) == value for key, value in scope) for scope, limit in limits.items()
        )
        if not gone:
            kept.append(event)
    kept.reverse()
    return kept


def _stream(event: dict[str, Any]) -> tuple[Any, ...]:
    return (event["metric"], *(str(event.get(key)) for key in STREAM_KEYS))


def _superseded(event: dict[str, Any], first_steps: dict[int, float]) -> bool:
    """Rule 1."""
    attempt, step = event.get("attempt", 1), event.get("step")
    if step is None:
        return any(-other > attempt for other in first_steps if other < 0)
    return any(other > attempt and step >= first for other, first in first_steps.items() if other > 0)
