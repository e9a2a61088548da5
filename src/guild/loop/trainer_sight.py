"""What the trainer is at, read from the job store, the heartbeat of its run and the kernel; nothing is asked of it. (specs/guild.md G11)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guild.places import Places
from guild.processes import OwnProcess
from guild.queue.payload import TRAIN_FILE
from guild.records import jobs
from guild.records.jobs import Job
from guild.records.turns import whose_turn
from modelwright.database import Database
from modelwright.heartbeat import HEARTBEAT_STEM, read_snapshot
from modelwright.identity import ProcessIdentity

TRAINING, EVALUATING = "training", "evaluating"
BETWEEN = "between files"
"""It could be training and is not: files wait that nothing holds up, or it holds one and has not said a word about it."""
AT_REST = "at rest"
"""It has nothing to do: no file waits, or the device is another's."""
HALTED = "halted"
PAUSED = "paused"


@dataclass(frozen=True)
class Sight:
    """phase: what it is at; of a file under way the word of its heartbeat. job: the file's, None between files. run: its run directory.
    step: finished steps of the file, as far as told."""

    phase: str
    job: Job | None = None
    run: Path | None = None
    step: int | None = None

    @property
    def mark(self) -> tuple[str, int | None, int | None]:
        """Another one after every step, every file and every change of phase."""
        return self.phase, None if self.job is None else self.job.id, self.step


def look_at(db: Database, places: Places, trainer: OwnProcess) -> Sight:
    """What a living trainer is at. Raises what the store raises."""
    if is_halted(trainer.identity):
        return Sight(HALTED)
    job = held_by(db, trainer.identity)
    if job is None:
        ready = jobs.takeable(db, (TRAIN_FILE,)) and whose_turn(db, "trainer") in (None, TRAIN_FILE)
        return Sight(BETWEEN if ready else AT_REST)
    run = None if job.run is None else places.base / job.run
    if job.state == "paused":
        return Sight(PAUSED, job, run)
    snapshot = None if run is None else read_snapshot(run / f"{HEARTBEAT_STEM}.json")[0]
    if snapshot is None or not _written_by(snapshot, trainer.identity):
        return Sight(BETWEEN, job)  # the run, if there is one, speaks of an earlier attempt
    step = snapshot.get("step")
    return Sight(_phase(snapshot), job, run, step if isinstance(step, int) else None)


def held_by(db: Database, identity: ProcessIdentity) -> Job | None:
    """The file that a process holds."""
    held = jobs.list_jobs(db, kinds=(TRAIN_FILE,), states=("running", "paused")).jobs
    return next((job for job in held if job.owner is not None and _same(job.owner, identity)), None)


def is_halted(identity: ProcessIdentity) -> bool:
    """Whether somebody stopped the process where it stands (SIGSTOP, Ctrl-Z, a debugger). Unknown, so no, without /proc."""
    try:
        text = Path(f"/proc/{identity.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text[text.rfind(")") + 2 :][:1] in ("T", "t")


def _phase(snapshot: dict[str, Any]) -> str:
    if snapshot.get("status") == PAUSED:
        return PAUSED
    return str(snapshot.get("busy") or snapshot.get("phase"))


def _written_by(snapshot: dict[str, Any], identity: ProcessIdentity) -> bool:
    try:
        return _same(ProcessIdentity.from_dict(snapshot["writer"]), identity)
    except (KeyError, ValueError):
        return False


def _same(one: ProcessIdentity, other: ProcessIdentity) -> bool:
    return (one.pid, one.start_time, one.boot_id) == (other.pid, other.start_time, other.boot_id)
