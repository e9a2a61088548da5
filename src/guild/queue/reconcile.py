"""Folders and database brought together: kills completed, files put or taken by hand noticed. (specs/guild.md 2.1.2; issue decision State)

For every job whose file should be there: one that is where it belongs is left alone; an interrupted move is completed; a file found in
another level was moved by hand, so its job moves too; one that is nowhere was taken away, so its job is cancelled. A file that belongs
to no job is imported. Doing it twice changes nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guild.naming import sidecar_name
from guild.places import PRIORITIES, Places, Priority
from guild.queue.documents import export_metadata
from guild.queue.folders import Entry, Scan, queue_lock, scan
from guild.queue.moves import move_sidecar, remove_old_copies
from guild.queue.names import shown
from guild.queue.payload import TRAIN_FILE, cancelled_places, folder_for, note_place, settle
from guild.records import events, job_rows, jobs
from guild.records.checksums import DamagedRowError
from guild.records.jobs import Job, NewJob
from guild.records.states import State
from modelwright.clock import SYSTEM_CLOCK, Clock, stamp
from modelwright.database import Database

QUIET_S = 2.0
"""Seconds without a change after which a file put by hand counts as whole."""
NS = 10**9
_WITH_FILES = (
    "SELECT id, name, state, priority, place FROM jobs LEFT JOIN queue_files ON job = id WHERE kind = ? AND "
    "(state IN ('queued', 'running', 'paused', 'failed', 'rejected') OR place IS NOT NULL) ORDER BY id"
)
"""Columns enough to see that all is well, which it nearly always is; a row is read whole, and its checksum proved, before it is changed."""


@dataclass
class Reconciled:
    """What was found and done, by file name. completed: interrupted moves. notes: one sentence for each thing left as it is."""

    imported: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    reprioritised: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    dismissed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return any(getattr(self, name) for name in self.as_dict() if name != "notes")

    def as_dict(self) -> dict[str, Any]:
        return {name: list(value) for name, value in vars(self).items()}


@dataclass
class _Work:
    """What one pass knows. owned: places of files that belong to a job. live: names in use, with the id and state of their job. facts: of
    the jobs of files that are imported."""

    db: Database
    places: Places
    found: Scan
    result: Reconciled
    clock: Clock
    facts: Mapping[str, Any] = field(default_factory=dict)
    owned: set[str] = field(default_factory=set)
    live: dict[str, tuple[int, State]] = field(default_factory=dict)


def reconcile(db: Database, places: Places, *, quiet_s: float = QUIET_S, clock: Clock = SYSTEM_CLOCK) -> Reconciled:
    """Bring folders and database together, as the only program that touches the queue meanwhile. Raises StorageError, DamagedFileError."""
    with queue_lock(places):
        result = reconcile_locked(db, places, quiet_s=quiet_s, clock=clock)
        if result.changed:
            export_metadata(db, places)
    return result


def reconcile_locked(
    db: Database, places: Places, *, quiet_s: float = QUIET_S, facts: Mapping[str, Any] | None = None, clock: Clock = SYSTEM_CLOCK
) -> Reconciled:
    """`reconcile` for a caller that holds the queue's lock and writes the exports. facts: of the jobs of files that are imported."""
    work = _Work(db, places, scan(places), Reconciled(), clock, facts or {})
    missing = _place_known(work)
    if missing or work.result.completed:
        work.found = scan(places)
    for job in missing:
        _look_for(work, job)
    for entry in [entry for entry in work.found.data.values() if entry.where not in work.owned]:
        _import(work, entry, quiet_s)
    work.result.notes += _rejoin_sidecars(work)
    for level in PRIORITIES:
        remove_old_copies(places.level(level), now_s=clock.now().timestamp())
    return work.result


def _place_known(work: _Work) -> list[Job]:
    """Note which files belong to which job, completing moves on the way; returns the jobs whose file is not where it could be."""
    missing = []
    for row in work.db.rows(_WITH_FILES, (TRAIN_FILE,)):
        state, last = row["state"], row["place"]
        at_home = last in work.found.data and last.split("/", 1)[0] == folder_for(state, row["priority"])
        if not at_home:
            job = _sound(work, row["id"])
            if job is None:
                continue
            place = settle(work.db, work.places, job)
            if place is None:
                missing.append(job)
            elif place != last and last is not None:
                work.result.completed.append(row["name"])
            last = place
        if last is not None:
            work.owned.add(last)
        if row["name"] is not None and state not in ("completed", "cancelled"):
            work.live[row["name"]] = (row["id"], state)
    return missing


def _sound(work: _Work, job: int) -> Job | None:
    """The job, or None when its row is damaged: it is set aside then, and its file is imported anew."""
    try:
        return jobs.get(work.db, job)
    except DamagedRowError:
        with work.db.transaction() as connection:
            job_rows.quarantine(connection, [job], stamp(work.clock.now(), millis=True))
        return None


def _look_for(work: _Work, job: Job) -> None:
    """The file of `job` is neither where it was nor where it belongs: somebody moved it, or took it away."""
    name = job.name or ""
    elsewhere = [entry for entry in work.found.named(name) if entry.where not in work.owned and entry.folder != "recently_completed"]
    entry = elsewhere[0] if elsewhere else None
    if job.state in ("completed", "cancelled"):
        note_place(work.db, job.id, None)  # deleted or taken; a file of its name elsewhere is a new one
    elif entry is None:
        _gone(work, job, name)
    else:
        work.owned.add(entry.where)
        _found_elsewhere(work, job, entry)


def _gone(work: _Work, job: Job, name: str) -> None:
    note_place(work.db, job.id, None)
    if job.state == "queued":
        jobs.cancel(work.db, job.id, reason="its file was taken away", clock=work.clock)
        work.result.cancelled.append(name)
    elif job.state in ("failed", "rejected"):
        jobs.dismiss(work.db, job.id, clock=work.clock)  # a person dealt with it
        work.result.dismissed.append(name)
    else:
        work.result.notes.append(f"{shown(name)} is being trained and its file is gone from the queue. Put it back into queue/processing/.")
        return
    work.live.pop(name, None)


def _found_elsewhere(work: _Work, job: Job, entry: Entry) -> None:
    """Moved by hand: into a level changes the level, out of failed/ is a retry, into failed/ parks it; what is being trained goes back."""
    name = entry.name
    if job.state == "queued" and entry.folder == "failed":
        note_place(work.db, job.id, entry.where)
        jobs.reject_waiting(work.db, job.id, "moved to failed/ by hand", clock=work.clock)
        work.result.cancelled.append(name)
        return
    if entry.folder in PRIORITIES and job.state == "queued":
        jobs.set_priority(work.db, job.id, entry.folder, clock=work.clock)
        work.result.reprioritised.append(name)
    elif entry.folder in PRIORITIES and job.state in ("failed", "rejected"):
        jobs.retry(work.db, job.id, priority=entry.folder, clock=work.clock)
        work.result.retried.append(name)
    note_place(work.db, job.id, entry.where)
    place = settle(work.db, work.places, jobs.get(work.db, job.id))
    if place is not None and place != entry.where:
        work.owned.add(place)
        work.result.completed.append(name)


def _import(work: _Work, entry: Entry, quiet_s: float) -> None:
    """A file that belongs to no job."""
    if entry.folder not in (*PRIORITIES, "processing"):
        return  # parked or finished; its name in failed/ is refused below
    holder, where = work.live.get(entry.name), f"queue/{shown(entry.where)}"
    if holder is not None:
        todo = f"found a second file of that name (job {holder[0]} is {holder[1]}); allowed: one. Rename this one."
        work.result.notes.append(f"{where}: {todo}")
    elif (parked := f"failed/{entry.name}") in work.found.data and parked not in cancelled_places(work.db):
        todo = "found a name that lies in queue/failed/; allowed: one that does not. Rename this file, or move that one away."
        work.result.notes.append(f"{where}: {todo}")
    elif entry.size == 0:
        work.result.notes.append(
            f"queue/{shown(entry.where)}: found an empty file; allowed: at least one row. Write its rows, or remove it."
        )
    elif abs(work.clock.now().timestamp() - entry.mtime_ns / NS) < quiet_s:
        work.result.notes.append(f"{where} changed a moment ago; it is taken in when it has been quiet for {quiet_s:g} seconds.")
    else:
        job = jobs.enqueue(work.db, new_file_job(entry, work.facts), clock=work.clock)
        note_place(work.db, job.id, entry.where)
        work.owned.add(settle(work.db, work.places, job) or entry.where)
        work.live[entry.name] = (job.id, job.state)
        work.result.imported.append(entry.name)
        events.record(
            work.db, "queue.imported", f"{shown(entry.name)} was found in queue/{entry.folder}/ and is queued as {job.level}.",
            source="queue", job=job.id, data={"folder": entry.folder}, clock=work.clock,
        )  # fmt: skip


def new_file_job(entry: Entry, facts: Mapping[str, Any] | None = None) -> NewJob:
    """The job of a data file: the level of its folder (`normal` outside the three), in the order of its modification time."""
    level: Priority = entry.folder if entry.folder in PRIORITIES else "normal"
    return NewJob(TRAIN_FILE, {"file": entry.name, "size_bytes": entry.size, **(facts or {})}, level, ordinal=entry.mtime_ns)


def _rejoin_sidecars(work: _Work) -> list[str]:
    """Bring sidecars that a kill left behind to their data file; returns the sentences about whatever else is odd."""
    left = [place for place in sorted(work.found.sidecars) if place not in work.found.data]
    if not left:
        return work.found.odd
    now = scan(work.places)
    for place in left:
        name = place.split("/", 1)[1]
        homes = [entry for entry in now.named(name) if entry.where not in now.sidecars]
        if len(homes) == 1 and (work.places.queue / f"{sidecar_name(place)}").is_file():
            move_sidecar(work.places.queue / place, work.places.queue / homes[0].where)
    return scan(work.places).odd
