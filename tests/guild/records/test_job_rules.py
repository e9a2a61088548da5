"""The store against a model of it: whatever workers and operators do in whatever order, the rules hold."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from guild.records import jobs
from guild.records.backups import problems
from guild.records.events import log_of
from guild.records.kinds import PRIORITY_NUMBERS
from guild.records.states import HELD, LIVE, TERMINAL
from helpers.guild_jobs import ME, data_file, died, report, store

WORKERS = (ME, died())
"""One that lives, and one that died: what it holds is taken back by the next recovery."""
ENDS = {"completed", "given_up", "parked", "cancelled", "rejected"}


@dataclass
class Expected:
    """What the model knows of a job."""

    kind: str
    priority: int
    ordinal: int
    state: str = "queued"
    owner: int | None = None
    position: int = 0
    taken_position: int = 0
    attempts: int = 0
    crashes: int = 0
    cancel_asked: bool = False
    ends: int = 0
    retries: int = 0
    failures: list[int] = field(default_factory=list)

    def leave(self, state: str) -> None:
        self.state, self.owner, self.cancel_asked = state, None, False
        self.ends += state in TERMINAL


class JobStore(RuleBasedStateMachine):
    """The rules draw what happens; the model says what must come of it."""

    known = Bundle("known")

    @initialize(
        target=known, drawn=st.lists(st.tuples(st.booleans(), st.sampled_from(["high", "low"]), st.integers(0, 5)), min_size=4, max_size=8)
    )
    def open(self, drawn: list[tuple[bool, Any, int]]) -> Any:
        self.folder = tempfile.TemporaryDirectory()
        self.db = store(Path(self.folder.name))
        self.model: dict[int, Expected] = {}
        return multiple(*(self.enqueue_one(*one) for one in drawn))

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.run_dry()
            self.db.close()
            self.folder.cleanup()

    @rule(target=known, file=st.booleans(), level=st.sampled_from(["high", "normal", "low"]), ordinal=st.integers(0, 5))
    def enqueue(self, file: bool, level: Any, ordinal: int) -> int:
        return self.enqueue_one(file, level, ordinal)

    def enqueue_one(self, file: bool, level: Any, ordinal: int) -> int:
        new = data_file(f"f{len(self.model)}", level, mtime=ordinal) if file else replace(report(), priority=level, ordinal=ordinal)
        job = jobs.enqueue(self.db, new)
        self.model[job.id] = Expected(job.kind, PRIORITY_NUMBERS[level], ordinal)
        return job.id

    @rule(worker=st.sampled_from([0, 1]), kinds=st.sampled_from([None, ["train_file"], ["report"]]))
    def claim(self, worker: int, kinds: list[str] | None) -> None:
        training = any(job.kind == "train_file" and job.state in HELD for job in self.model.values())
        reports = sum(job.kind == "report" and job.state in HELD for job in self.model.values())
        free = {"train_file": not training, "report": reports < 8}
        waiting = [
            (-job.priority, job.ordinal, number)
            for number, job in self.model.items()
            if job.state == "queued" and free[job.kind] and (kinds is None or job.kind in kinds)
        ]
        job = jobs.claim(self.db, WORKERS[worker], kinds=kinds)
        assert (job.id if job else None) == (min(waiting)[2] if waiting else None)
        if job is not None:
            found = self.model[job.id]
            found.state, found.owner, found.taken_position = "running", worker, found.position

    @rule(number=known, worker=st.sampled_from([0, 1]), further=st.integers(0, 2))
    def heartbeat(self, number: int, worker: int, further: int) -> None:
        found = self.model[number]
        if self.holds(found, worker):
            assert jobs.heartbeat(self.db, number, WORKERS[worker], position=found.position + further).cancel_asked == found.cancel_asked
            found.position += further
        else:
            with pytest.raises(jobs.NotHeldError):
                jobs.heartbeat(self.db, number, WORKERS[worker])

    @rule(
        number=known, worker=st.sampled_from([0, 1]), word=st.sampled_from(["pause", "resume", "release", "finish", "skip", "cancel_held"])
    )
    def speak(self, number: int, worker: int, word: str) -> None:
        found = self.model[number]
        call = getattr(jobs, word)
        if not self.holds(found, worker):
            with pytest.raises(jobs.NotHeldError):
                call(self.db, number, WORKERS[worker])
            return
        needed = {"pause": "running", "resume": "paused", "finish": "running"}.get(word)
        if needed is not None and found.state != needed:
            with pytest.raises(jobs.IllegalTransitionError):
                call(self.db, number, WORKERS[worker])
            return
        call(self.db, number, WORKERS[worker])
        if word in ("pause", "resume"):
            found.state = "paused" if word == "pause" else "running"
        elif word == "finish":
            found.leave("completed")
        elif word == "cancel_held" or found.cancel_asked:
            found.leave("cancelled")
        else:
            if word == "skip":
                found.priority = PRIORITY_NUMBERS["low"]
            found.leave("queued")

    @rule(number=known, worker=st.sampled_from([0, 1]))
    def fail(self, number: int, worker: int) -> None:
        found = self.model[number]
        if not self.holds(found, worker):
            with pytest.raises(jobs.NotHeldError):
                jobs.fail(self.db, number, WORKERS[worker], "x")
            return
        jobs.fail(self.db, number, WORKERS[worker], "x")
        found.attempts += 1
        if found.cancel_asked:
            found.leave("cancelled")
            return
        found.crashes = 0
        if found.attempts < 3 and found.kind == "train_file":
            found.priority = PRIORITY_NUMBERS["low"]
        found.leave("failed" if found.attempts == 3 else "queued")

    @rule()
    def recover(self) -> None:
        taken = {found.job.id for found in jobs.recover(self.db)}
        assert taken == {number for number, job in self.model.items() if job.owner == 1}
        for number in taken:
            found = self.model[number]
            found_crashes = 1 if found.position > found.taken_position else found.crashes + 1
            if found.cancel_asked:
                found.leave("cancelled")
            else:
                found.crashes = found_crashes
                found.leave("failed" if found_crashes == 5 else "queued")

    @rule(number=known)
    def cancel(self, number: int) -> None:
        found = self.model[number]
        if found.state in TERMINAL:
            with pytest.raises(jobs.IllegalTransitionError):
                jobs.cancel(self.db, number)
            return
        jobs.cancel(self.db, number)
        if found.state in HELD:
            found.cancel_asked = True
        else:
            found.leave("cancelled")

    @rule(number=known, level=st.sampled_from(["high", "normal", "low"]))
    def move(self, number: int, level: Any) -> None:
        found = self.model[number]
        if found.state == "queued":
            jobs.set_priority(self.db, number, level)
            found.priority = PRIORITY_NUMBERS[level]
        else:
            with pytest.raises(jobs.IllegalTransitionError):
                jobs.set_priority(self.db, number, level)

    @rule(number=known)
    def retry(self, number: int) -> None:
        found = self.model[number]
        if found.state in ("failed", "cancelled", "rejected"):
            jobs.retry(self.db, number)
            found.state, found.attempts, found.crashes = "queued", 0, 0
            found.retries += 1
        else:
            with pytest.raises(jobs.IllegalTransitionError):
                jobs.retry(self.db, number)

    @rule(target=known, number=consumes(known))
    def reopen(self, number: int) -> Any:
        """Another process sees the same."""
        self.db.close()
        self.db = store(Path(self.folder.name))
        return multiple(number)

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        for job in jobs.list_jobs(self.db).jobs if self.model else ():
            found = self.model[job.id]
            assert (job.state, job.priority, job.position, job.attempts, job.crashes, job.cancel_asked) == (
                found.state, found.priority, found.position, found.attempts, found.crashes, found.cancel_asked,
            )  # fmt: skip
            assert (job.owner is not None) == (job.state in HELD) == (job.lease_until is not None)
            assert job.attempts <= job.max_attempts and job.crashes <= job.max_crashes

    def run_dry(self) -> None:
        """At the end whoever is left works through the queue; then each job stands at one end, as often as it was queued."""
        jobs.recover(self.db)
        for job in jobs.list_jobs(self.db, states=list(HELD)).jobs:
            if job.state == "paused":
                jobs.resume(self.db, job.id, ME)
            jobs.finish(self.db, job.id, ME)
        while (job := jobs.claim(self.db, ME)) is not None:
            jobs.finish(self.db, job.id, ME)
        for job in jobs.list_jobs(self.db).jobs:
            ends = [event for event in log_of(self.db, job.id).events if event.type.split(".")[1] in ENDS]
            assert job.state in TERMINAL and job.state not in LIVE
            assert len(ends) == 1 + self.model[job.id].retries
        assert problems(self.db) == []

    @staticmethod
    def holds(found: Expected, worker: int) -> bool:
        return found.state in HELD and found.owner == worker


TestJobStore = JobStore.TestCase
TestJobStore.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes, and the steps are printed anyway
)
