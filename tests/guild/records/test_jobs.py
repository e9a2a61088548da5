"""Jobs from the queue to their end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from guild.records import jobs
from guild.records.events import log_of
from guild.records.jobs import NewJob
from guild.records.states import STATES
from helpers.guild_jobs import ME, data_file, died, elsewhere, living, queued, report, run_all, store, words
from modelwright.clock import ManualClock
from modelwright.errors import ConfigError

# --- queueing


def test_a_queued_job_is_found_as_it_was_asked_for(tmp_path: Path) -> None:
    clock = ManualClock(datetime(2026, 5, 26, 18, 42, tzinfo=UTC))
    with store(tmp_path) as db:
        job = jobs.enqueue(db, data_file("train_a", "high", mtime=77, rows=100), clock=clock)
        assert (job.id, job.kind, job.name, job.state, job.level, job.ordinal) == (1, "train_file", "train_a.jsonl", "queued", "high", 77)
        assert job.payload["rows"] == 100 and job.enqueued_at == "2026-05-26T18:42:00.000Z"
        assert jobs.get(db, 1) == job == jobs.find_file(db, "train_a.jsonl")
        other = jobs.enqueue(db, NewJob("eval", {"step": 5, "checkpoint": "c", "skill": "bin", "campaign": "titan/1"}), clock=clock)
        assert (other.priority, other.campaign, other.resource) == (20, "titan/1", "inference")
        assert other.ordinal == int(clock.now().timestamp()) * 10**9
        assert words(log_of(db, 1).events) == ["enqueued"]


def test_all_faults_of_a_batch_are_told_and_nothing_is_queued(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        with pytest.raises(ConfigError) as refusal:
            jobs.enqueue_many(db, [data_file("good"), report(""), data_file("bad", rows=-1)])
        assert [fault.path for fault in refusal.value.faults] == ["job 2: name", "job 3: rows"]
        with pytest.raises(jobs.UnknownKindError):
            jobs.enqueue(db, NewJob("mine"))
        with pytest.raises(ConfigError, match="64 bit"):
            jobs.enqueue(db, report(number=2**70))
        assert jobs.list_jobs(db).jobs == ()


def test_a_name_in_the_queue_or_in_failed_is_refused_until_it_is_dealt_with(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        first = jobs.enqueue(db, data_file("a"))
        with pytest.raises(jobs.DuplicateJobError, match=r"a\.jsonl: found a job of that name \(job 1, queued\)"):
            jobs.enqueue_many(db, [data_file("b"), data_file("a")])
        assert [job.name for job in jobs.list_jobs(db).jobs] == ["a.jsonl"]
        jobs.claim(db, ME)
        jobs.reject(db, first.id, ME, "no row is valid")
        with pytest.raises(jobs.DuplicateJobError, match="Retry or dismiss"):
            jobs.enqueue(db, data_file("a"))
        jobs.dismiss(db, first.id)
        second = jobs.enqueue(db, data_file("a"))
        assert jobs.find_file(db, "a.jsonl").id == second.id != first.id
        jobs.claim(db, ME)
        jobs.finish(db, second.id, ME)
        jobs.enqueue(db, data_file("a"))  # a file may be trained again


def test_a_full_queue_refuses_and_warns_before(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        said = [jobs.submit(db, NewJob("health_check")).warning for _ in range(10)]
        assert said[:8] == [""] * 8 and said[9] == "10 of at most 10 jobs of kind health_check wait."
        with pytest.raises(jobs.QueueFullError, match="found 10 waiting jobs of kind health_check; allowed: 10") as refusal:
            jobs.submit(db, NewJob("health_check"))
        assert refusal.value.http_status == 429
        with pytest.raises(jobs.QueueFullError, match="and 3 more"):
            jobs.enqueue_many(db, [NewJob("retention")] * 3)
        jobs.claim(db, ME, kinds=["health_check"])
        jobs.enqueue(db, NewJob("health_check"))  # running ones do not count


def test_the_same_is_asked_for_once(tmp_path: Path) -> None:
    asked = NewJob("eval", {"step": 500, "checkpoint": "c", "skill": "bin"}, key="eval:500:bin:quick")
    with store(tmp_path) as db:
        first = jobs.submit(db, asked)
        again = jobs.submit(db, asked)
        assert first.created and not again.created and again.job == first.job
        assert "asked for already: Job 1 (eval) is queued" in again.warning
        with pytest.raises(jobs.DuplicateJobError):
            jobs.enqueue(db, asked)
        jobs.claim(db, ME)
        jobs.finish(db, 1, ME)
        assert not jobs.submit(db, asked, once="ever").created
        assert jobs.submit(db, asked).created


# --- the order in which jobs are taken


def test_item_1_high_before_low_and_older_files_first(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        jobs.enqueue_many(
            db, [data_file("low_new", "low", mtime=9), data_file("low_old", "low", mtime=3), data_file("high", "high", mtime=20)]
        )
        jobs.enqueue(db, data_file("normal", mtime=50))
        taken = []
        while (job := jobs.claim(db, ME)) is not None:
            taken.append(job.name)
            jobs.finish(db, job.id, ME)
        assert taken == ["high.jsonl", "normal.jsonl", "low_old.jsonl", "low_new.jsonl"]


def test_jobs_of_different_kinds_are_taken_in_one_order(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        asked = [("report", 20, 7), ("retention", 20, 5), ("data_gen", 25, 9), ("health_check", 20, 5)]
        payloads = {"report": {"name": "x"}, "data_gen": {"count": 1}}
        jobs.enqueue_many(db, [NewJob(kind, payloads.get(kind, {}), priority, ordinal) for kind, priority, ordinal in asked])
        taken = [job.kind for job in iter(lambda: jobs.claim(db, ME), None)]
        assert taken == ["data_gen", "retention", "health_check", "report"]


def test_a_waiting_job_moves_between_levels_and_a_held_one_does_not(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a", "b")
        assert jobs.set_priority(db, 2, "high").level == "high"
        job = jobs.claim(db, ME)
        assert job is not None and job.name == "b.jsonl" and job.from_priority == job.priority == 30
        with pytest.raises(jobs.IllegalTransitionError, match=r"Job 2 \(b\.jsonl\) is running: found the event 'reprioritise'"):
            jobs.set_priority(db, 2, "low")


def test_a_taker_may_name_the_jobs_that_it_takes(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        ids = [jobs.enqueue(db, NewJob("report", {"name": name}, priority)).id for name, priority in (("a", 5), ("b", 9), ("c", 7))]
        taken = [jobs.claim(db, ME, kinds=("report",), among=[ids[0], ids[2]]) for _ in range(3)]
        assert [job.id if job else None for job in taken] == [ids[2], ids[0], None]
        assert jobs.claim(db, ME, kinds=("report",), among=[]) is None
        last = jobs.claim(db, ME, kinds=("report",))
        assert last is not None and last.id == ids[1]


def test_one_executor_trains_while_other_resources_are_free(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a", "b")
        jobs.enqueue_many(db, [report(), NewJob("scale", {"arguments": ["x"]}, "high"), NewJob("data_gen", {"count": 1}), report()])
        first = jobs.claim(db, ME, resource="trainer")
        assert first is not None and first.kind == "scale"
        assert jobs.claim(db, ME, resource="trainer") is None
        jobs.pause(db, first.id, ME)
        assert jobs.claim(db, ME, kinds=["train_file"]) is None  # a paused job keeps the device
        assert [job.kind for job in iter(lambda: jobs.claim(db, ME), None)] == ["data_gen", "report", "report"]
        two = jobs.claim(db, ME, resource="trainer", slots={"trainer": 2})
        assert two is not None and two.name == "a.jsonl"
        assert jobs.claim(db, ME, resource="trainer", slots={"trainer": 3}) is None  # one file at a time, whatever the devices
        with pytest.raises(jobs.UnknownKindError):
            jobs.claim(db, ME, kinds=["training"])


def test_item_2_four_takers_never_get_one_job_twice(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        jobs.enqueue_many(db, [report(number=number) for number in range(500)])
    code = """
import sys
from pathlib import Path
from helpers.guild_jobs import ME, store
from guild.records import jobs
with store(Path(sys.argv[1])) as db:
    while (job := jobs.claim(db, ME, kinds=["report"])) is not None:
        print(job.id)
        jobs.finish(db, job.id, ME)
"""
    said = run_all(code, [[tmp_path]] * 4)
    taken = [int(line) for text in said for line in text.split()]
    assert sorted(taken) == list(range(1, 501))
    with store(tmp_path) as db:
        assert jobs.counts(db, "report").states == {**dict.fromkeys(STATES, 0), "completed": 500}
        assert all(words(log_of(db, job).events) == ["enqueued", "claimed", "completed"] for job in (1, 250, 500))


def test_item_2_two_hundred_adds_and_marks_at_once_lose_nothing(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, *(f"old{number}" for number in range(100)))
    code = """
import sys
from pathlib import Path
from helpers.guild_jobs import data_file, store
from guild.records import jobs
with store(Path(sys.argv[1])) as db:
    for number in range(int(sys.argv[2]) * 25, int(sys.argv[2]) * 25 + 25):
        jobs.enqueue(db, data_file(f"new{number}", "low"))
        jobs.set_priority(db, number + 1, "high")
"""
    run_all(code, [[tmp_path, part] for part in range(4)])
    with store(tmp_path) as db:
        assert jobs.counts(db).levels == {"high": 100, "normal": 0, "low": 100}


# --- a worker's words


def test_item_3_a_failing_file_waits_in_low_twice_and_fails_for_good_the_third_time(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        job = jobs.enqueue(db, data_file("a", "high"))
        for attempt in (1, 2):
            jobs.claim(db, ME)
            job = jobs.fail(db, job.id, ME, f"loss is NaN ({attempt})")
            assert (job.state, job.level, job.attempts, job.owner) == ("queued", "low", attempt, None)
        jobs.claim(db, ME)
        job = jobs.fail(db, job.id, ME, "loss is NaN (3)")
        assert (job.state, job.attempts, job.error) == ("failed", 3, "loss is NaN (3)")
        assert jobs.claim(db, ME) is None
        log = log_of(db, job.id).events
        assert words(log) == ["enqueued", "claimed", "failed", "claimed", "failed", "claimed", "given_up"]
        assert log[-1].severity == "error" and "attempt 3 of 3" in log[-1].message


def test_other_kinds_keep_their_priority_when_they_fail(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        jobs.enqueue(db, NewJob("eval", {"step": 1, "checkpoint": "c", "skill": "bin"}, 25))
        jobs.claim(db, ME)
        assert jobs.fail(db, 1, ME, "no reply").priority == 25


def test_pausing_resuming_and_stopping_keep_the_position_and_cost_no_attempt(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        jobs.enqueue(db, data_file("a", "high"))
        for stop in range(1, 6):
            job = jobs.claim(db, ME)
            assert job is not None and job.position == (stop - 1) * 100 == job.taken_position
            assert jobs.pause(db, job.id, ME, position=job.position + 50).state == "paused"
            with pytest.raises(jobs.IllegalTransitionError):
                jobs.finish(db, job.id, ME)
            assert jobs.resume(db, job.id, ME).state == "running"
            job = jobs.release(db, job.id, ME, position=stop * 100)
            assert (job.state, job.position, job.attempts, job.crashes, job.level) == ("queued", stop * 100, 0, 0, "high")
        jobs.claim(db, ME)
        jobs.pause(db, 1, ME)
        assert jobs.release(db, 1, ME).state == "queued"  # a stop while paused


def test_a_skipped_file_waits_behind_the_others_and_is_counted(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a", "b")
        jobs.claim(db, ME)
        job = jobs.skip(db, 1, ME, reason="asked by a person", position=30)
        assert (job.state, job.level, job.skips, job.position, job.attempts) == ("queued", "low", 1, 30, 0)
        assert jobs.counts(db).skipped == 1
        after = jobs.claim(db, ME)
        assert after is not None and after.name == "b.jsonl"


def test_a_result_stays_with_the_job(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, ME)
        jobs.heartbeat(db, 1, ME, position=64, run="campaigns/titan/1/runs/a", campaign="titan/1")
        job = jobs.finish(db, 1, ME, {"loss": 0.5, "checkpoint": "checkpoint-64"}, position=100)
        assert jobs.get(db, 1) == job
        assert (job.state, job.position, job.run, job.campaign) == ("completed", 100, "campaigns/titan/1/runs/a", "titan/1")
        assert job.result == {"loss": 0.5, "checkpoint": "checkpoint-64"} and job.finished_at is not None


def test_who_does_not_hold_a_job_may_not_speak_for_it(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        for call in (jobs.heartbeat, jobs.finish, jobs.release, jobs.pause, jobs.skip, jobs.cancel_held):
            with pytest.raises(jobs.NotHeldError, match="Job 1 is queued and held by nobody"):
                call(db, 1, ME)
        jobs.claim(db, elsewhere())
        with pytest.raises(jobs.NotHeldError, match="held by pid 4711 on another-host"):
            jobs.fail(db, 1, ME, "x")
        with pytest.raises(jobs.UnknownJobError, match="found 99"):
            jobs.finish(db, 99, ME)
        assert jobs.get(db, 1).state == "running"


def test_a_job_is_handed_from_the_daemon_to_the_trainer(tmp_path: Path) -> None:
    process, trainer = living()
    try:
        with store(tmp_path) as db:
            queued(db, "a")
            jobs.claim(db, ME)
            assert jobs.transfer(db, 1, ME, trainer).owner == trainer
            with pytest.raises(jobs.NotHeldError):
                jobs.heartbeat(db, 1, ME)
            assert jobs.recover(db) == []
    finally:
        process.communicate()


def test_a_trainer_whose_job_was_taken_back_meanwhile_is_refused(tmp_path: Path) -> None:
    daemon = died()
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, daemon)
        jobs.recover(db)
        with pytest.raises(jobs.NotHeldError):
            jobs.transfer(db, 1, daemon, ME)


# --- an operator's words


def test_cancelling_a_waiting_job_is_done_at_once(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        assert jobs.cancel(db, 1, reason="a typing error").state == "cancelled"
        with pytest.raises(jobs.IllegalTransitionError, match="is cancelled: found the event 'cancel'; allowed: retry"):
            jobs.cancel(db, 1)


def test_cancelling_a_held_job_is_asked_of_its_worker(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, ME)
        assert jobs.cancel(db, 1).state == "running"
        assert jobs.claim(db, ME) is None  # its device is not free before it has stopped
        assert jobs.heartbeat(db, 1, ME).cancel_asked
        job = jobs.cancel_held(db, 1, ME, position=12)
        assert (job.state, job.position, job.cancel_asked) == ("cancelled", 12, False)


@pytest.mark.parametrize("end", ["release", "fail", "skip", "recover"])
def test_a_job_that_was_to_be_cancelled_does_not_return_to_its_queue(tmp_path: Path, end: str) -> None:
    owner = died() if end == "recover" else ME
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, owner)
        jobs.cancel(db, 1)
        if end == "recover":
            assert [found.state for found in jobs.recover(db)] == ["cancelled"]
        elif end == "fail":
            jobs.fail(db, 1, ME, "x")
        else:
            getattr(jobs, end)(db, 1, ME)
        assert jobs.get(db, 1).state == "cancelled"


def test_work_that_was_done_before_the_request_came_counts(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.claim(db, ME)
        jobs.cancel(db, 1)
        assert jobs.finish(db, 1, ME).state == "completed"


def test_a_failed_job_is_queued_again_with_all_its_attempts(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        for _ in range(3):
            jobs.claim(db, ME)
            jobs.fail(db, 1, ME, "x")
        job = jobs.retry(db, 1, priority="high")
        assert (job.state, job.attempts, job.level, job.error, job.finished_at) == ("queued", 0, "high", None, None)
        jobs.claim(db, ME)
        assert jobs.finish(db, 1, ME).state == "completed"
        with pytest.raises(jobs.IllegalTransitionError, match="allowed: none"):
            jobs.retry(db, 1)


def test_a_cancelled_file_cannot_come_back_beside_another_of_its_name(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a")
        jobs.cancel(db, 1)
        jobs.enqueue(db, data_file("a"))
        with pytest.raises(jobs.DuplicateJobError, match=r"a\.jsonl"):
            jobs.retry(db, 1)
        assert jobs.get(db, 1).state == "cancelled"


def test_an_unfit_waiting_job_is_rejected(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        queued(db, "a", "b")
        assert jobs.reject_waiting(db, 1, "no row is valid").state == "rejected"
        jobs.claim(db, ME)
        with pytest.raises(jobs.IllegalTransitionError):
            jobs.reject_waiting(db, 2, "no row is valid")


def test_old_ends_are_forgotten_and_failures_are_not(tmp_path: Path) -> None:
    clock = ManualClock()
    with store(tmp_path) as db:
        for number in range(4):
            jobs.enqueue(db, data_file(str(number)), clock=clock)
        for job, end in ((1, jobs.finish), (2, jobs.reject), (3, jobs.cancel_held)):
            jobs.claim(db, ME, clock=clock)
            end(db, job, ME, *(["unfit"] if job == 2 else []), clock=clock)  # type: ignore[operator]
        clock.advance(86400 * 8)
        jobs.claim(db, ME, clock=clock)
        jobs.finish(db, 4, ME, clock=clock)
        assert jobs.forget(db, older_than=timedelta(days=7), clock=clock) == 2
        assert [job.id for job in jobs.list_jobs(db, order="newest").jobs] == [4, 2]
        assert log_of(db, 1).events == () and log_of(db, 2).events != ()
        assert jobs.enqueue(db, data_file("new")).id == 5  # ids are never used again


# --- looking


def test_lists_are_filtered_ordered_and_paged(tmp_path: Path) -> None:
    with store(tmp_path) as db:
        jobs.enqueue_many(db, [data_file(name, level, mtime=9) for name, level in (("a", "low"), ("b", "high"), ("c", "normal"))])
        jobs.enqueue_many(db, [report(), NewJob("retention", campaign="titan/1")])
        jobs.claim(db, ME, kinds=["report"])

        def ids(**filters: object) -> list[int]:
            return [job.id for job in jobs.list_jobs(db, **filters).jobs]  # type: ignore[arg-type]

        assert ids(kinds=["train_file"]) == [2, 3, 1]
        assert ids(order="newest") == [5, 4, 3, 2, 1]
        assert ids(order="newest", limit=2, before=4) == [3, 2]
        assert ids(level="low", kinds=["train_file"]) == [1]
        assert ids(states=["running", "paused"]) == [4]
        assert ids(resource="cpu", states=["queued"]) == [5]
        assert ids(campaign="titan/1") == [5] and ids(name="b.jsonl") == [2] and ids(kinds=[]) == []
        counts = jobs.counts(db, None)
        assert counts.states["queued"] == 4 and counts.processing == 1
        assert jobs.counts(db).levels == {"high": 1, "normal": 1, "low": 1}
        with pytest.raises(jobs.UnknownJobError, match=r"z\.jsonl"):
            jobs.find_file(db, "z.jsonl")
        assert jobs.get(db, 4).as_dict()["owner"]["pid"] == ME.pid
