"""`control/state.json`: what the daemon does now, for people and pages. (specs/guild.md 4.1, G6)

An export, written by the process that runs the training loop; fields that are unknown here stay as they were. Nothing decides by it but
a start after a crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from guild.places import Places
from guild.records.status_documents import export
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.errors import DamagedFileError, MissingFileError, storage_error
from modelwright.files import make_folder, read_json

Status = Literal["idle", "training", "paused", "stopping", "skipping"]
STATUSES: tuple[Status, ...] = get_args(Status)
RECOVERED = "Recovered from crash"
FIELDS = ("status", "last_update", "current_file", "paused_at", "reason", "pending")


@dataclass(frozen=True)
class ControlState:
    """The document. Times are UTC stamps. pending: a signal that was taken and is not carried out yet, for example `pause` while the step
    is finished. other: fields that this version does not know."""

    status: Status = "idle"
    last_update: str | None = None
    current_file: str | None = None
    paused_at: str | None = None
    reason: str | None = None
    pending: str | None = None
    other: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The fields of 4.1 and `pending`, after those unknown here."""
        return {**self.other, **{name: getattr(self, name) for name in FIELDS}}


def read_state(places: Places) -> ControlState:
    """The state; idle where nothing was ever written. Raises DamagedFileError, StorageError."""
    try:
        content = read_json(places.state)
    except MissingFileError:
        return ControlState()
    allowed = f"an object whose status is one of {', '.join(STATUSES)}"
    if not isinstance(content, dict) or content.get("status") not in STATUSES:
        found = f"its status is {content.get('status')!r}" if isinstance(content, dict) else "it is not an object"
        raise DamagedFileError(places.state, found, allowed, "Delete it; the daemon writes it anew")
    known = {name: None if content.get(name) is None else str(content[name]) for name in FIELDS if name != "status"}
    other = {name: value for name, value in content.items() if name not in FIELDS and name != "schema_version"}
    return ControlState(status=content["status"], **known, other=other)


def write_state(
    places: Places, status: Status, *, current_file: str | None = None, reason: str | None = None, pending: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> ControlState:  # fmt: skip
    """Replace the state; `paused_at` is kept while it stays paused, else set or emptied. Raises StorageError."""
    now = stamp(clock.now())
    with _alone(places):
        former = _former(places)
        paused_at = (former.paused_at if former.status == "paused" and former.paused_at else now) if status == "paused" else None
        state = ControlState(status, now, current_file, paused_at, reason, pending, former.other)
        export(places.state, {name: getattr(state, name) for name in FIELDS})
    return state


def recover_state(places: Places, *, clock: Clock = SYSTEM_CLOCK) -> bool:
    """At the start of a daemon, which is alone by its lock: what a dead one left becomes idle with the reason RECOVERED.

    Returns whether there was something to recover; an idle or absent document is not touched.
    """
    try:
        left_over = read_state(places).status != "idle"
    except DamagedFileError:
        left_over = True
    if left_over:
        write_state(places, "idle", reason=RECOVERED, clock=clock)
    return left_over


def _former(places: Places) -> ControlState:
    try:
        return read_state(places)
    except DamagedFileError:
        return ControlState()  # `export` keeps the damaged document aside


@contextlib.contextmanager
def _alone(places: Places) -> Iterator[None]:
    """Hold the document through a read and a write."""
    path = make_folder(places.control) / ".state.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise storage_error(error, path, "lock") from error
    try:
        yield
    finally:
        os.close(descriptor)
