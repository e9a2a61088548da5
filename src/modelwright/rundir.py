"""RunDir: a run is a directory, and this is the way in.

A writer creates it or opens it again; it then holds the lock and hands out metrics, heartbeat, control and
checkpoints. A reader takes no lock. Used as a context manager a writer records how the block ended; a full disk
inside the block leaves it as `Paused("disk")`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelwright.checkpoints import CheckpointStore
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.control import CONTROL_NAME, Control
from modelwright.environment import redact
from modelwright.errors import EXIT_PAUSED, DiskFullError, ModelwrightError, Paused, UsageError, is_disk_full
from modelwright.files import make_folder, remove_stale_temporaries, write_all
from modelwright.heartbeat import Heartbeat, read_snapshot
from modelwright.identity import Liveness, current_identity
from modelwright.lock import WriterLock, writer_liveness
from modelwright.metrics import MetricWriter
from modelwright.record import (
    RECORD_NAME,
    TERMINAL,
    Entry,
    RunRecord,
    RunStatus,
    StatusChange,
    Writer,
    new_record,
    read_record,
    write_record,
)

RESERVE_NAME = ".reserve"
RESERVE_BYTES = 256 * 1024
"""Space kept aside in every live run, given up to record the pause when the disk is full."""


class RunDir:
    """One run. Make it with `create`, `open_writer` or `open_reader`."""

    def __init__(self, path: Path, record: RunRecord, lock: WriterLock | None, clock: Clock) -> None:
        self.path = path
        self.record = record
        self._lock = lock
        self._clock = clock
        self._metrics: dict[Path, MetricWriter] = {}
        self._heartbeat: Heartbeat | None = None
        self._control: Control | None = None

    # --- opening

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        kind: str,
        command: Sequence[str],
        resume_command: Sequence[str] | None = None,
        config: dict[str, Any] | None = None,
        config_sha256: str | None = None,
        tags: Sequence[str] = (),
        group: str | None = None,
        files: dict[str, str] | None = None,
        details: dict[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> RunDir:
        """Make `path` a run and become its writer.

        kind: what runs, for example `scaler_wizard`. command, resume_command: argument vectors; secrets are redacted.
        config: the resolved configuration; its digest is `config_sha256` or computed. files: other names for
        `heartbeat` (without suffix), `metrics`, `checkpoints`. details: whatever else the room wants on record.
        Raises UsageError when `path` already holds a run, RunLockedError, StorageError.
        """
        folder = make_folder(Path(path).absolute())
        lock = WriterLock(folder, command=redact(command), clock=clock)
        try:
            remove_stale_temporaries(folder)
            if (folder / RECORD_NAME).exists():
                raise UsageError(
                    f"{folder}: found a run there already; allowed: a directory without one. Resume it, or choose another path."
                )
            record = new_record(
                kind=kind,
                command=command,
                cwd=os.getcwd(),
                created_at=stamp(clock.now()),
                resume_command=resume_command,
                config=config,
                config_sha256=config_sha256,
                tags=tags,
                group=group,
                files=files,
                details=details,
            )
            make_folder(folder / CONTROL_NAME)
            run = cls(folder, record, lock, clock)
            run._save()
            run._reserve()
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def open_writer(
        cls,
        path: Path | str,
        *,
        command: Sequence[str] | None = None,
        take_over: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> RunDir:
        """Become the writer of an existing run, as its next attempt.

        An entry that the former writer left running is closed as `died`, with the step and time of the last
        heartbeat. command: what runs now, for the lock's message; default the recorded one. take_over: see
        WriterLock. Raises RunLockedError naming the holder, ModelwrightError when there is no run, DamagedFileError,
        StorageError.
        """
        folder = Path(path).absolute()
        record = read_record(folder)
        lock = WriterLock(folder, command=redact(command or record.command), take_over=take_over, clock=clock)
        try:
            run = cls(folder, read_record(folder), lock, clock)
            run._begin_attempt()
            run._reserve()
        except BaseException:
            lock.release()
            raise
        return run

    @classmethod
    def open_reader(cls, path: Path | str, *, clock: Clock = SYSTEM_CLOCK) -> RunDir:
        """Look at a run without a lock; `record` is as of now."""
        folder = Path(path).absolute()
        return cls(folder, read_record(folder), None, clock)

    def _begin_attempt(self) -> None:
        remove_stale_temporaries(self.path)
        record, now = self.record, stamp(self._clock.now())
        if record.status == "running":
            snapshot, _ = read_snapshot(self.path / f"{record.files.heartbeat}.json")
            seen = snapshot if snapshot and snapshot.get("attempt") == record.attempt else {}
            died_at, step = str(seen.get("alive_at") or record.updated_at), seen.get("step")
            entry = record.open_entry()
            reason = "its writer died" + (f" at step {step}" if isinstance(step, int) else "")
            if entry is not None:
                entry.status, entry.ended_at, entry.reason = "died", died_at, reason
                entry.last_step = step if isinstance(step, int) else None
            record.history.append(StatusChange(at=died_at, status="died", attempt=record.attempt, reason=reason))
        record.attempt += 1
        record.change("running", now)
        self._save()
        self.control().settle_lost()

    # --- state

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def attempt(self) -> int:
        """1 for the process that created the run, one more for every later writer."""
        return self.record.attempt

    @property
    def finished(self) -> bool:
        return self.record.status in TERMINAL

    def liveness(self) -> Liveness:
        """Of the run's writer."""
        return writer_liveness(self.path)

    def start_phase(self, name: str) -> None:
        """Open an entry for a phase of this attempt. Raises ValueError while another phase is open."""
        self._need_writer()
        current = self.record.open_entry()
        if current is not None:
            raise ValueError(f"phase {name}: {current.phase} is still open; end it first")
        writer = Writer.model_validate(current_identity().as_dict())
        started = stamp(self._clock.now())
        self.record.entries.append(Entry(phase=name, attempt=self.attempt, status="running", started_at=started, writer=writer))
        self._save()

    def end_phase(self, status: RunStatus = "completed", exit_code: int | None = None, reason: str = "") -> None:
        """Close the open entry. Raises ValueError when none is open."""
        self._need_writer()
        if self.record.open_entry() is None:
            raise ValueError("no phase is open")
        self._close_entry(status, exit_code, reason)
        self._save()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase as a block: completed at its end, paused or failed when it raises."""
        self.start_phase(name)
        try:
            yield
        except BaseException as error:
            self._close_entry(*_verdict(error))
            self._save()
            raise
        self.end_phase("completed", 0)

    def finish(self, status: RunStatus, exit_code: int, reason: str = "") -> None:
        """End this attempt: close the open entry, answer open requests, write a last heartbeat and the record.

        On a full disk the reserved space is given up for it; DiskFullError when even that does not suffice.
        """
        self._need_writer()
        if status not in TERMINAL:
            raise ValueError(f"finish: found status {status!r}; allowed: {', '.join(sorted(TERMINAL))}")
        self._close_entry(status, exit_code, reason)
        self.record.change(status, stamp(self._clock.now()), reason, exit_code)
        try:
            self._write_end(status, reason)
        except DiskFullError:
            (self.path / RESERVE_NAME).unlink(missing_ok=True)
            self._write_end(status, reason)

    def _write_end(self, status: RunStatus, reason: str) -> None:
        self._save()
        if self._heartbeat is not None and self._heartbeat.snapshot.get("status") != status:
            self._heartbeat.end(status, reason)
        self.control().settle("ended", reason=f"The run ended ({status}) before this request was acted on.")

    def _close_entry(self, status: RunStatus, exit_code: int | None, reason: str) -> None:
        entry = self.record.open_entry()
        if entry is not None:
            entry.status, entry.exit_code, entry.reason = status, exit_code, reason
            entry.ended_at = stamp(self._clock.now())
            step = self._heartbeat.snapshot.get("step") if self._heartbeat else None
            entry.last_step = step if isinstance(step, int) else None

    def update(self, *, tags: Sequence[str] | None = None, **details: Any) -> None:
        """Set tags, and add or replace details, on record."""
        self._need_writer()
        if tags is not None:
            self.record.tags = list(tags)
        self.record.details.update(details)
        self._save()

    def _need_writer(self) -> None:
        if self._lock is None or not self._lock.held:
            raise UsageError(f"{self.path} is not open for writing; open it with open_writer.")

    def _save(self) -> None:
        self._need_writer()
        assert self._lock is not None
        self._lock.check()
        self.record.updated_at = stamp(self._clock.now())
        write_record(self.path, self.record)

    def _reserve(self) -> None:
        """Keep RESERVE_BYTES aside for `finish` on a full disk; going without is no fault."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path / RESERVE_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < RESERVE_BYTES:
                    write_all(descriptor, bytes(RESERVE_BYTES))
            finally:
                os.close(descriptor)

    # --- pieces

    def metrics(self, path: str | None = None, *, flush_every: int = 1, fsync_every_s: float | None = 1.0) -> MetricWriter:
        """The writer of a metrics file, by default the one the record names; the same object for the same path."""
        self._need_writer()
        target = self.path / (path or self.record.files.metrics)
        if target not in self._metrics:
            make_folder(target.parent)
            self._metrics[target] = MetricWriter(
                target, attempt=self.attempt, flush_every=flush_every, fsync_every_s=fsync_every_s, clock=self._clock
            )
        return self._metrics[target]

    def heartbeat(self, *, min_interval_s: float = 1.0, stale_after_s: float = 120.0) -> Heartbeat:
        """The run's heartbeat; the same object at every call."""
        self._need_writer()
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(
                self.path,
                run_id=self.run_id,
                attempt=self.attempt,
                stem=self.record.files.heartbeat,
                min_interval_s=min_interval_s,
                stale_after_s=stale_after_s,
                clock=self._clock,
            )
        return self._heartbeat

    def control(self) -> Control:
        """The run's side of control requests."""
        self._need_writer()
        if self._control is None:
            self._control = Control(self.path, clock=self._clock)
        return self._control

    def checkpoints(self, dirname: str | None = None) -> CheckpointStore:
        """The checkpoint store; a reader's creates and cleans nothing."""
        writer = self._lock is not None
        if writer:
            self._need_writer()
        return CheckpointStore(self.path / (dirname or self.record.files.checkpoints), writer=writer, exclusive=writer, clock=self._clock)

    # --- closing

    def close(self) -> None:
        """Flush and close everything and release the lock. Does not judge how the run ended: `finish` does."""
        writers: list[MetricWriter | Heartbeat] = list(self._metrics.values())
        if self._heartbeat is not None:
            writers.append(self._heartbeat)
        try:
            with contextlib.ExitStack() as stack:
                for writer in writers:
                    stack.callback(writer.close)
        finally:
            if self._lock is not None and self._lock.held:
                if self.finished:
                    with contextlib.suppress(OSError):  # an unused reserve is at worst 256 KiB
                        (self.path / RESERVE_NAME).unlink(missing_ok=True)
                self._lock.release()

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if self._lock is not None and self._lock.held and not self.finished:
                try:
                    self.finish(*(("completed", 0, "") if error is None else _verdict(error)))
                except DiskFullError as full:
                    error = error or full
        finally:
            self.close()
        if error is not None and not isinstance(error, Paused) and is_disk_full(error):
            raise Paused("disk", f"The run is paused (reason: disk). {error}") from error


def _verdict(error: BaseException) -> tuple[RunStatus, int, str]:
    """(status, exit code, reason) of a run whose block raised `error`."""
    if isinstance(error, Paused):
        return "paused", EXIT_PAUSED, error.reason
    if is_disk_full(error):
        return "paused", EXIT_PAUSED, "disk"
    if isinstance(error, ModelwrightError):
        return "failed", error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped", 130, "keyboard interrupt"
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        return ("completed" if code == 0 else "failed"), code, "" if code == 0 else f"exit {code}"
    return "failed", 1, f"{type(error).__name__}: {error}"
