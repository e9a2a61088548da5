"""The heartbeat: the newest snapshot of a run, its timeline, and what a reader may conclude from them.

`heartbeat.json` is replaced by every beat, `heartbeat.jsonl` gets the same content as a line. A room may give the
pair another name. A reader combines three facts: is the writer's process alive (writer.lock), how old is the
snapshot, and what does it say. A live writer with an old snapshot is `stalled`, never dead. Ages are measured with
the machine's boot clock, so an adjusted wall clock does not matter.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelwright.clock import SYSTEM_CLOCK, Clock, boot_seconds, parse_stamp, stamp
from modelwright.errors import DamagedFileError, MissingFileError, ModelwrightError
from modelwright.files import JsonlAppender, make_folder, read_json, read_jsonl, write_json
from modelwright.identity import Liveness, ProcessIdentity, boot_id, current_identity, liveness
from modelwright.lock import LOCK_NAME, read_holder, writer_liveness

HEARTBEAT_STEM = "heartbeat"
TERMINAL_STATUSES = frozenset({"completed", "failed", "stopped", "paused", "aborted"})
STALE_AFTER_S = 120.0
SMOOTHING_S = 60.0
"""Time constant of the step rate: the ETA follows about the last minute."""

HeartbeatState = Literal["running", "stalled", "dead", "unreachable", "terminal"]


class Heartbeat:
    """Writes the heartbeat of one run.

    folder, stem: `<folder>/<stem>.json` and `.jsonl`. min_interval_s: beats that come sooner are remembered but not
    written, unless `force`d or their status or phase is new. stale_after_s: age at which readers call a live run
    stalled; goes into the snapshot. Methods raise DiskFullError and StorageError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        attempt: int = 1,
        stem: str = HEARTBEAT_STEM,
        min_interval_s: float = 1.0,
        stale_after_s: float = STALE_AFTER_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.path = folder / f"{stem}.json"
        make_folder(self.path.parent)
        self._timeline = JsonlAppender(self.path.with_suffix(".jsonl"), fsync_every_s=5.0)
        self._fixed = {
            "run_id": run_id,
            "attempt": attempt,
            "stale_after_s": stale_after_s,
            "writer": current_identity().as_dict(),
        }
        self._min_interval_s = min_interval_s
        self._clock = clock
        self._started = clock.monotonic()
        self._rate = StepRate()
        self._mutex = threading.Lock()
        self._snapshot: dict[str, Any] = {}
        self._written_at = -float("inf")

    def beat(
        self,
        *,
        status: str,
        phase: str,
        step: int,
        total: int | None = None,
        throughput: float | None = None,
        unit: str = "tokens/s",
        latest_checkpoint: str | None = None,
        message: str = "",
        force: bool = False,
        **extra: Any,
    ) -> bool:
        """Tell where the run is; returns whether it was written.

        step, total: finished and planned steps of `phase`. throughput: in `unit`. latest_checkpoint: name or path;
        None keeps the last one told. extra: further fields of the room. The ETA (seconds) comes from the smoothed
        rate of steps.
        """
        with self._mutex:
            now = self._clock.monotonic()
            news = (status, phase) != (self._snapshot.get("status"), self._snapshot.get("phase"))
            self._rate.observe(phase, step, now)
            previous = self._snapshot
            self._snapshot = {
                **self._fixed,
                "status": status,
                "phase": phase,
                "step": step,
                "total_steps": total,
                "progress": None if not total else min(1.0, step / total),
                "steps_per_s": self._rate.per_second,
                "throughput": throughput,
                "unit": unit,
                "eta_s": self._rate.eta(step, total),
                "elapsed_s": round(now - self._started, 3),
                "latest_checkpoint": latest_checkpoint if latest_checkpoint is not None else previous.get("latest_checkpoint"),
                "message": message,
                **extra,
                **self._moment("beat_at"),
            }
            if not (force or news or now - self._written_at >= self._min_interval_s):
                return False
            self._write(durable=news, timeline=True)
            self._written_at = now
            return True

    def end(self, status: str, message: str = "") -> None:
        """Write a last snapshot with a terminal status and the last told step."""
        with self._mutex:
            if not self._snapshot:
                self._snapshot = {**self._fixed, "phase": "", "step": 0, "total_steps": None, "latest_checkpoint": None}
            elapsed = round(self._clock.monotonic() - self._started, 3)
            self._snapshot.update(status=status, message=message, eta_s=None, elapsed_s=elapsed, **self._moment("beat_at"))
            self._write(durable=True, timeline=True)

    @contextlib.contextmanager
    def keepalive(self, *, every_s: float = 5.0, limit_s: float = 3600.0) -> Iterator[None]:
        """Within the block a thread renews `alive_at`, so that one long operation (a probe, an export) does not look
        stalled.

        It renews nothing else: step and ETA stay what they were. After `limit_s` it stops, so that a hang is seen in
        the end.
        """
        done = threading.Event()
        fault: list[ModelwrightError] = []

        def renew() -> None:
            ticks = 0
            while not done.wait(every_s) and ticks * every_s < limit_s:
                ticks += 1
                with self._mutex:
                    if not self._snapshot:
                        continue
                    self._snapshot.update(self._moment("alive_at"))
                    try:
                        self._write(durable=False, timeline=False)
                    except ModelwrightError as error:
                        fault.append(error)
                        return

        thread = threading.Thread(target=renew, name="heartbeat-keepalive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        if fault:
            raise fault[0]

    def _moment(self, name: str) -> dict[str, Any]:
        moment = stamp(self._clock.now(), millis=True)
        fields = {"alive_at": moment, "alive_uptime_s": boot_seconds(), "boot_id": boot_id()}
        return {**fields, "beat_at": moment} if name == "beat_at" else fields

    def _write(self, *, durable: bool, timeline: bool) -> None:
        write_json(self.path, self._snapshot, durable=durable)
        if timeline:
            self._timeline.append(self._snapshot)

    @property
    def snapshot(self) -> dict[str, Any]:
        """The last told state, written or not."""
        return dict(self._snapshot)

    def close(self) -> None:
        """Close the timeline; the snapshot stays."""
        self._timeline.close()


class StepRate:
    """Steps per second, an exponential mean over time with the constant SMOOTHING_S; a new phase or a step back
    starts afresh."""

    def __init__(self) -> None:
        self.per_second: float | None = None
        self._phase, self._step = "", 0
        self._at: float | None = None
        self._weight = 0.0

    def observe(self, phase: str, step: int, at: float) -> None:
        """Note that `step` steps of `phase` are done at monotonic second `at`."""
        if self._at is None or phase != self._phase or step < self._step:
            self.per_second, self._weight = None, 0.0
            self._phase, self._step, self._at = phase, step, at
            return
        passed = at - self._at
        if step == self._step or passed <= 0:
            return
        fresh = (step - self._step) / passed
        decay = math.exp(-passed / SMOOTHING_S)
        weight = self._weight * decay + (1.0 - decay)
        self.per_second = ((self.per_second or 0.0) * self._weight * decay + fresh * (1.0 - decay)) / weight
        self._weight, self._step, self._at = weight, step, at

    def eta(self, step: int, total: int | None) -> float | None:
        """Seconds until `total` steps are done; None while unknown."""
        if total is None or not self.per_second:
            return None
        return round(max(0, total - step) / self.per_second, 3)


@dataclass(frozen=True)
class HeartbeatView:
    """What a reader knows.

    snapshot: the newest readable snapshot or None. liveness: of the writer. age_s: seconds since the writer last said
    anything, None when it never did or cannot be dated. state: running, stalled, dead, unreachable, or terminal (the
    run has ended or is paused). problem: one sentence when a file is damaged, missing or dated in the future.
    """

    snapshot: dict[str, Any] | None
    liveness: Liveness
    age_s: float | None
    state: HeartbeatState
    problem: str = ""


def read_heartbeat(
    run_dir: Path | str, *, stem: str | None = None, stale_after_s: float | None = None, clock: Clock = SYSTEM_CLOCK
) -> HeartbeatView:
    """Judge the run in `run_dir`; never raises for a damaged or missing file.

    stem: default is the one `run.json` names. stale_after_s: default is the writer's own.
    """
    folder = Path(run_dir)
    record = _read_quietly(folder / "run.json")
    if stem is None:
        files = record.get("files")
        stem = str(files.get("heartbeat", HEARTBEAT_STEM)) if isinstance(files, dict) else HEARTBEAT_STEM
    snapshot, problem = read_snapshot(folder / f"{stem}.json")
    holder = read_holder(folder)
    alive = _liveness(folder, holder, snapshot)
    age, dated = _age(snapshot, holder if alive == "alive" else {}, clock)
    problem = problem or dated
    ended = _ended(record, snapshot)
    if stale_after_s is None:
        recorded = (snapshot or {}).get("stale_after_s")
        stale_after_s = float(recorded) if recorded and isinstance(recorded, (int, float)) else STALE_AFTER_S
    if alive == "alive":
        snapshot_ended = snapshot is not None and snapshot.get("status") in TERMINAL_STATUSES and not _older_attempt(snapshot, record)
        state: HeartbeatState = "terminal" if snapshot_ended else "stalled" if age is not None and age > stale_after_s else "running"
    else:
        state = "terminal" if ended else alive
    return HeartbeatView(snapshot, alive, age, state, problem)


def read_snapshot(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The snapshot, or the timeline's last line when it is damaged or missing; and a sentence about what was wrong."""
    problem = ""
    try:
        snapshot = read_json(path)
        if isinstance(snapshot, dict):
            return snapshot, ""
        problem = str(DamagedFileError(path, "it is not an object", "a heartbeat snapshot"))
    except MissingFileError:
        problem = ""
    except ModelwrightError as error:
        problem = str(error)
    try:
        records = read_jsonl(path.with_suffix(".jsonl"), missing_ok=True).records
    except ModelwrightError as error:
        return None, problem or str(error)
    return (records[-1] if records else None), problem


def _read_quietly(path: Path) -> dict[str, Any]:
    """The JSON object at `path`, or {} when there is none to be had; whoever needs the reason reads the record
    itself."""
    try:
        data = read_json(path)
    except ModelwrightError:
        return {}
    return data if isinstance(data, dict) else {}


def _liveness(folder: Path, holder: dict[str, Any], snapshot: dict[str, Any] | None) -> Liveness:
    """From the lock where there is one, else from the process that the snapshot names."""
    if holder or os.path.exists(folder / LOCK_NAME) or not snapshot:
        return writer_liveness(folder, holder)
    try:
        return liveness(ProcessIdentity.from_dict(snapshot["writer"]))
    except (KeyError, ValueError):
        return "dead"


def _older_attempt(snapshot: dict[str, Any], record: dict[str, Any]) -> bool:
    mine, current = snapshot.get("attempt"), record.get("attempt")
    return isinstance(mine, int) and isinstance(current, int) and mine < current


def _ended(record: dict[str, Any], snapshot: dict[str, Any] | None) -> bool:
    """Whether record or snapshot says that the newest attempt came to its end."""
    if record.get("status") in TERMINAL_STATUSES:
        return True
    return snapshot is not None and snapshot.get("status") in TERMINAL_STATUSES and not _older_attempt(snapshot, record)


def _age(snapshot: dict[str, Any] | None, holder: dict[str, Any], clock: Clock) -> tuple[float | None, str]:
    """Seconds since the writer last spoke (snapshot, or taking the lock, whichever is later), and a sentence about
    odd dates."""
    ages: list[float] = []
    problem = ""
    for source, uptime_key, wall_key in (
        (snapshot or {}, "alive_uptime_s", "alive_at"),
        (holder, "since_uptime_s", "since"),
    ):
        uptime, here = source.get(uptime_key), boot_seconds()
        if source.get("boot_id") == boot_id() and isinstance(uptime, (int, float)) and here is not None:
            ages.append(max(0.0, here - uptime))
            continue
        try:
            age = (clock.now() - parse_stamp(str(source[wall_key]))).total_seconds()
        except (KeyError, ValueError):
            continue
        if age < -2.0:
            problem = f"The heartbeat is dated {-age:.0f} s in the future; two clocks differ, or one was adjusted."
        ages.append(max(0.0, age))
    return (min(ages) if ages else None), problem
