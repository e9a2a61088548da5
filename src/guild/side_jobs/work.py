"""What a side job's worker works with, and the lease it holds the job by. (issue decision One job system)"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guild.places import Places
from guild.records import events, jobs
from guild.records.database import open_guild
from guild.records.kinds import KINDS
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.control import SignalFlag
from modelwright.database import Database
from modelwright.errors import ModelwrightError
from modelwright.identity import ProcessIdentity

SOURCE = "side_jobs"
LEASE_EVERY_S = 10.0
GRACE_S = 120.0
"""How long something that was asked to stop may take before it is made to."""


@dataclass
class Desk:
    """One worker process. grace_s: see GRACE_S. poll_s: seconds between looks at what runs. lease_every_s: between renewals."""

    db: Database
    places: Places
    me: ProcessIdentity
    signals: SignalFlag
    clock: Clock = SYSTEM_CLOCK
    grace_s: float = GRACE_S
    poll_s: float = 0.5
    lease_every_s: float = LEASE_EVERY_S

    def tell(self, job: jobs.Job, type: str, message: str, *, severity: events.Severity = "info", **data: Any) -> None:
        """Put a line into the log of a job."""
        told = {"kind": job.kind, **data}
        events.record(self.db, type, message, source=SOURCE, severity=severity, job=job.id, data=told, clock=self.clock)


@dataclass(frozen=True)
class Work:
    """What a job that is done inside this process gets. stop: why it should stop now, or "" (a request to cancel, a signal, its time is
    over); a long work asks between two of its steps and raises `Stopped`."""

    db: Database
    places: Places
    job: jobs.Job
    me: ProcessIdentity
    stop: Callable[[], str]
    clock: Clock = SYSTEM_CLOCK


class Stopped(ModelwrightError):
    """Raised by a work that stopped because it was asked to. position: see `jobs.release`."""

    def __init__(self, message: str, position: int | None = None) -> None:
        self.position = position
        super().__init__(message)


@dataclass
class Leash:
    """Renews the lease of a job from a thread while this process works on it, and ends the process when the work does not stop.

    cancelled, lost, overdue: what the work should know.
    """

    places: Places
    job: jobs.Job
    me: ProcessIdentity
    signals: SignalFlag
    clock: Clock
    every_s: float = LEASE_EVERY_S
    grace_s: float = GRACE_S
    cancelled: bool = False
    lost: str = ""
    overdue: bool = False
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Leash:
        self._thread = threading.Thread(target=self._renew, name=f"lease of job {self.job.id}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def why(self) -> str:
        """Why the work should stop, or ""."""
        if self.signals:
            return f"{self.signals.name} arrived"
        if self.cancelled:
            return "it is to be cancelled"
        return self.lost or ("its time is over" if self.overdue else "")

    def _renew(self) -> None:
        limit = KINDS[self.job.kind].timeout_s
        started = self.clock.monotonic()
        with open_guild(self.places) as db:
            while not self._done.wait(min(self.every_s, max(0.05, started + limit - self.clock.monotonic()))):
                try:
                    self.cancelled = jobs.heartbeat(db, self.job.id, self.me, clock=self.clock).cancel_asked
                except jobs.NotHeldError as error:
                    self.lost = str(error)
                    return
                except ModelwrightError as error:
                    print(error, flush=True)  # a full disk, for instance: the next renewal may succeed, and nobody takes a living one's job
                if self.clock.monotonic() - started >= limit:
                    self._overdue(db, limit)

    def _overdue(self, db: Database, limit: float) -> None:
        """Say that the time is over, wait for the work to stop, and end the process with its group when it does not."""
        if not self.overdue:
            self.overdue = True
            text = f"{self.job.label} runs for longer than {limit:g} s and is asked to stop."
            data = {"kind": self.job.kind}
            events.record(db, "queue.overdue", text, source=SOURCE, severity="warning", job=self.job.id, data=data, clock=self.clock)
        if self._done.wait(self.grace_s):
            return
        text = f"It did not stop within {self.grace_s:g} s after its time of {limit:g} s was over; its process is ended."
        jobs.fail(db, self.job.id, self.me, text, clock=self.clock)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)
