"""SIGKILL before every line of an operation on the queue: nothing is lost, nothing doubled, and a second look changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from guild.places import Places
from guild.queue import add, inbox, marks, moves, payload, reconcile, recovery
from guild.queue.folders import FOLDERS, scan
from guild.records import operating, submitting, workers
from guild.records.database import open_guild
from guild.records.jobs import Job, find_file
from helpers.guild_queue import age, all_jobs, check_whole, new_queue, put
from helpers.kill_points import killed_before, lines_of
from modelwright.identity import current_identity

ALWAYS = (add, marks, moves, payload, operating, submitting, workers)
ALSO = {"import": (reconcile,), "inbox": (inbox,), "bad-inbox": (inbox,)}
"""Modules before whose lines a case is killed: those that change something, and the ones that the case is about."""
Act = Callable[[Places], None]
NAME = "work.jsonl"


def add_it(places: Places) -> None:
    with open_guild(places) as db:
        add.add_file(db, places, places.base / "outside" / NAME, priority="high", validate=False)


def copy_it(places: Places) -> None:
    with open_guild(places) as db:
        add.add_file(db, places, places.base / "outside" / NAME, copy=True, validate=False)


def from_inbox(places: Places) -> None:
    with open_guild(places) as db:
        inbox.process_inbox(db, places)


def by_hand(places: Places) -> None:
    with open_guild(places) as db:
        reconcile.reconcile(db, places)


def take_it(places: Places) -> None:
    with open_guild(places) as db:
        assert marks.take(db, places, current_identity()) is not None


def _after_taking(end: Callable[..., object]) -> Act:
    def act(places: Places) -> None:
        with open_guild(places) as db:
            taken = marks.take(db, places, current_identity())
            assert taken is not None
            end(db, places, taken.job.id, current_identity())

    return act


complete_it = _after_taking(marks.mark_completed)
fail_it = _after_taking(lambda db, places, job, me: marks.mark_failed(db, places, job, me, "no luck"))
reject_it = _after_taking(lambda db, places, job, me: marks.mark_rejected(db, places, job, me, "unfit"))
return_it = _after_taking(lambda db, places, job, me: marks.mark_returned(db, places, job, me, position=7))


def reprioritise_it(places: Places) -> None:
    with open_guild(places) as db:
        marks.set_priority(db, places, NAME, "low")


def outside(places: Places) -> None:
    put(places.base / "outside" / NAME, sidecar=True)


def in_inbox(places: Places) -> None:
    put(places.inbox / "deep" / NAME, sidecar=True)


def bad_in_inbox(places: Places) -> None:
    in_inbox(places)
    (places.inbox / "deep" / NAME).write_text('{"schema_id": "chat_sft_v1", "messages": []}\n')
    age(places.inbox / "deep" / NAME, 60)


def in_level(places: Places) -> None:
    put(places.level("normal") / NAME, sidecar=True)


def waiting(places: Places) -> None:
    in_level(places)
    by_hand(places)


CASES: dict[str, tuple[Act, Act]] = {
    "add": (outside, add_it),
    "copy": (outside, copy_it),
    "inbox": (in_inbox, from_inbox),
    "bad-inbox": (bad_in_inbox, from_inbox),
    "import": (in_level, by_hand),
    "take": (waiting, take_it),
    "complete": (waiting, complete_it),
    "fail": (waiting, fail_it),
    "reject": (waiting, reject_it),
    "return": (waiting, return_it),
    "set-priority": (waiting, reprioritise_it),
}
FAST = ("add",)
"""The others go through the same lines in another order."""


def contents(places: Places) -> list[str]:
    """Where files with the payload's content lie below the base directory, hidden copies left out."""
    found = [path for path in places.base.rglob("*.jsonl") if not path.name.startswith(".") and path.is_file()]
    return sorted(str(path.relative_to(places.base)) for path in found)


@pytest.mark.parametrize("case", [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES])
def test_a_kill_before_any_line_loses_and_doubles_nothing(case: str, memory_path: Path) -> None:
    prepare, act = CASES[case]
    modules = (*ALWAYS, *ALSO.get(case, ()))
    template = new_queue(memory_path / "template")
    open_guild(template).close()
    prepare(template)
    trial = memory_path / "trial"

    def fresh() -> Places:
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(template.base, trial)
        return Places(trial)

    act(fresh())  # so that what is looked up once per process is known to every child
    places = fresh()
    numbers = lines_of(lambda: act(places), modules)
    assert len(numbers) > 20
    left = set()
    for number in numbers:
        places = fresh()
        killed_before(lambda: act(Places(trial)), modules, number)
        left.add((left_behind(places), tuple(everything(places))))
        judge(places, keeps_source=case == "copy", parked=case == "bad-inbox")
        act_again(case, places, act)
    assert len(left) > 2, "hardly any kill was in the middle"


def everything(places: Places) -> list[str]:
    """Every file with the payload's name or its sidecar's."""
    return sorted(str(path.relative_to(places.base)) for path in places.base.rglob("*.jsonl*"))


def left_behind(places: Places) -> str:
    """The state of the job as the kill left it."""
    with open_guild(places) as db:
        return ",".join(f"{job.state}@{payload.last_place(db, job.id)}" for job in all_jobs(db))


def standing(job: Job) -> tuple[object, ...]:
    """What nobody but its worker or an operator may change."""
    return job.state, job.level, job.attempts, job.position, job.error


def judge(places: Places, *, keeps_source: bool, parked: bool) -> None:
    """What must hold once the queue was looked at after the kill."""
    with open_guild(places) as db:
        before = {job.id: standing(job) for job in all_jobs(db) if job.state not in ("running", "paused")}
        recovery.recover_queue(db, places)
        check_whole(db, places)
        after = {job.id: standing(job) for job in all_jobs(db)}
        assert {number: after[number] for number in before} == before or parked, "what was on record before is still so"
        found = contents(places)
        inside = [place for place in found if place.startswith("queue/")]
        if keeps_source:
            assert f"outside/{NAME}" in found
            assert len(inside) <= 1, found
        else:
            assert len(found) == 1, found
        place = (inside or found)[0]
        assert (places.base / f"{place}.meta.json").is_file() or keeps_source or not inside, sorted(places.base.rglob("*"))
        jobs = [job for job in all_jobs(db) if job.name == NAME]
        assert len(jobs) == (1 if inside else 0) or place == f"queue/failed/{NAME}", (jobs, found)
        assert not any(job.state in ("running", "paused") for job in jobs)
        folder = place.split("/")[1] if inside else "outside"
        state = jobs[0].state if jobs else "none"
        if folder in FOLDERS[:3]:
            assert state == "queued"
        if folder == "recently_completed":
            assert state == "completed"
        if jobs:
            assert payload.last_place(db, jobs[0].id) == place.removeprefix("queue/")


def act_again(case: str, places: Places, act: Act) -> None:
    """What the kill left unfinished can simply be done again: adding, and taking what waits."""
    with open_guild(places) as db:
        waiting = [job for job in all_jobs(db) if job.state == "queued"]
    if case in ("add", "copy", "inbox", "import") and not waiting:
        act(places)
    if case in ("add", "copy", "inbox", "import"):
        with open_guild(places) as db:
            taken = marks.take(db, places, current_identity())
            assert taken is not None and taken.path.name == NAME
            marks.mark_completed(db, places, taken.job.id, current_identity())
            assert find_file(db, NAME).state == "completed"
            assert [entry.folder for entry in scan(places).data.values()] == ["recently_completed"]
