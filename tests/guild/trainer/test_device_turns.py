"""Trainer and evaluator on one GPU: turns, and never both at once. (specs/guild.md 2.1.9)

The registry gives both roles the same GPU; the processes of these tests compute on the processor.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from guild.campaigns.effective_config import start_config
from guild.campaigns.pointer import require_active
from guild.evaluation import runner
from guild.evaluation.due import Wanted, enqueue
from guild.hosts.registry import load_registry, same_gpu
from guild.places import Places
from guild.queue.marks import take
from guild.queue.recovery import recover_queue
from guild.records import jobs
from guild.records.database import open_guild
from guild.trainer.device_turns import TURN_S, UNTAKEN_S, EvaluatorTurn, evaluation_at_work
from guild.trainer.job import Desk, train_one
from guild.training.engine import TrainerEngine
from guild.training.interface import LeaveError
from helpers.guild_evaluation import CAMPAIGN, Knowing, add_checkpoint
from helpers.guild_house import make_house, put
from helpers.guild_jobs import died, living
from helpers.guild_watch import watching
from modelwright.clock import SYSTEM_CLOCK, ManualClock
from modelwright.control import SignalFlag
from modelwright.database import Database
from modelwright.files import read_json, write_json
from modelwright.identity import current_identity

EVALUATOR = """
import sys, time
from guild.evaluation.keeping import Keeper
from guild.evaluation.runner import run_waiting
from guild.places import Places
from guild.records.database import open_guild

places, keeper = Places.of(sys.argv[1]), Keeper()
with open_guild(places) as db:
    while True:
        run_waiting(db, places, keeper=keeper, ask=lambda subject, device, clock: subject.answerer("cpu", clock))
        time.sleep(0.05)
"""


def one_gpu(places: Places, **devices: str) -> Places:
    content = read_json(places.hosts)
    content["hosts"]["local"]["devices"] = {"trainer": "cuda:0", "inference": "cuda", **devices}
    write_json(places.hosts, content)
    write_json(places.config_file, {"schema_version": 1, "model_name": "tiny", "eval_max_tokens": 4})
    return places


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return one_gpu(make_house(tmp_path, overrides={"device": "cpu"}))


def an_evaluation(db: Database, house: Places, step: int = 10, level: int = 1) -> jobs.Job:
    return enqueue(db, house, CAMPAIGN, [Wanted(step, f"checkpoint-{step}", "skill", "bin", "quick", 10, level)]).jobs[0]


def test_which_devices_are_one() -> None:
    assert same_gpu("cuda", "cuda:0") and same_gpu("cuda:1", "cuda:1")
    assert not same_gpu("cuda:0", "cuda:1") and not same_gpu("cpu", "cpu") and not same_gpu("cuda", "cpu")


@pytest.mark.slow  # the rule is shown below without a model
def test_what_a_file_saved_is_evaluated_before_the_next_and_nothing_beside_a_training(house: Places) -> None:
    for number, name in enumerate(("a.jsonl", "b.jsonl")):
        put(house, name, 40, folder="queue/normal", first=number * 100)
    evaluator = subprocess.Popen([sys.executable, "-c", EVALUATOR, str(house.base)])
    try:
        words = ["--base-dir", str(house.base), "--files", "2", "--min-free-gb", "0"]
        done = subprocess.run([sys.executable, "-m", "guild.trainer.process", *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert evaluator.poll() is None
    finally:
        evaluator.kill()
        evaluator.wait()
    with open_guild(house) as db:
        kinds = {row["id"]: row["kind"] for row in db.rows("SELECT id, kind FROM jobs")}
        rows = db.rows("SELECT type, job FROM events WHERE type IN ('training.started', 'queue.claimed', 'queue.completed') ORDER BY id")
    story = [(kinds[row["job"]], row["type"].partition(".")[2]) for row in rows]
    first, second = (number for number, entry in enumerate(story) if entry == ("train_file", "started"))
    assert story[first : first + 2] == [("train_file", "started"), ("train_file", "completed")], "nothing is evaluated beside it"
    between = story[first + 2 : second]
    assert between[-1] == ("train_file", "claimed")
    evaluated = between[:-1]
    assert evaluated == [("eval", "claimed"), ("eval", "completed")] * (len(evaluated) // 2), "none is at work when the next file is begun"
    assert len(evaluated) >= 4


def test_a_trainer_alone_on_its_device_waits_for_nobody(tmp_path: Path) -> None:
    """Evaluations on the processor, or on another GPU: nothing changes."""
    house = one_gpu(make_house(tmp_path, overrides={"device": "cpu"}), inference="cpu")
    assert not load_registry(house).one_gpu
    put(house, "a.jsonl", 40, folder="queue/normal")
    process, identity = living()
    try:
        with open_guild(house) as db:
            an_evaluation(db, house)
            an_evaluation(db, house, 20)
            assert jobs.claim(db, identity, kinds=("eval",)) is not None
        words = ["--base-dir", str(house.base), "--files", "1", "--min-free-gb", "0"]
        done = subprocess.run([sys.executable, "-m", "guild.trainer.process", *words], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0
    finally:
        process.communicate()
    with open_guild(house) as db:
        assert jobs.find_file(db, "a.jsonl").state == "completed"


# --- the rule


def test_the_evaluator_has_its_turn_for_as_long_as_it_goes_on_and_no_longer_than_its_time(house: Places) -> None:
    clock, me = ManualClock(), current_identity()
    with open_guild(house) as db:
        turn = EvaluatorTurn(db, clock)
        assert not turn.lasts(), "nothing waits"
        for step in range(8):
            an_evaluation(db, house, step)
        seconds = 0
        while turn.lasts():
            job = jobs.claim(db, me, kinds=("eval",))
            assert job is not None and turn.lasts()
            clock.advance(UNTAKEN_S - 10)
            assert turn.lasts() == (seconds + UNTAKEN_S - 10 < TURN_S)
            jobs.finish(db, job.id, me)
            seconds += UNTAKEN_S - 10
        assert TURN_S <= seconds < TURN_S + UNTAKEN_S
        assert not turn.lasts(), "and the file is begun"
        turn.over()
        assert turn.lasts(), "behind it is the next turn"


def test_where_nobody_evaluates_the_trainer_waits_once(house: Places) -> None:
    clock, me = ManualClock(), current_identity()
    with open_guild(house) as db:
        turn = EvaluatorTurn(db, clock)
        for step in (10, 20):
            an_evaluation(db, house, step)
        assert turn.lasts()
        clock.advance(UNTAKEN_S - 1)
        assert turn.lasts()
        clock.advance(2)
        assert not turn.lasts()
        turn.over()
        assert not turn.lasts()
        job = jobs.claim(db, me, kinds=("eval",))
        assert job is not None and turn.lasts(), "somebody is there now"
        jobs.finish(db, job.id, me)
        turn.over()
        assert turn.lasts()


def test_a_dead_evaluator_is_not_waited_for(house: Places) -> None:
    process, identity = living()
    with open_guild(house) as db:
        try:
            for step, owner in ((10, died()), (20, identity)):
                job = an_evaluation(db, house, step)
                held = jobs.claim(db, owner, kinds=("eval",))
                assert held is not None and held.id == job.id
                assert evaluation_at_work(db) == (owner == identity)
                jobs.fail(db, job.id, owner, "gone")
                jobs.cancel(db, job.id)
        finally:
            process.communicate()


def test_a_file_that_was_taken_is_not_begun_while_an_evaluation_is_held_and_can_be_left(house: Places) -> None:
    class Clock(ManualClock):
        waits = 0

        def sleep(self, seconds: float) -> None:
            self.advance(seconds)
            self.waits += 1
            if self.waits == 3:
                jobs.finish(watch.db, job.id, current_identity())

    clock = Clock()
    with watching(house, clock=clock) as watch:
        job = an_evaluation(watch.db, house)
        assert jobs.claim(watch.db, current_identity(), kinds=("eval",)) is not None
        watch.wait_while(lambda: evaluation_at_work(watch.db), "an evaluation has the GPU")
        assert clock.waits == 3 and watch.run.heartbeat().snapshot["message"] == "an evaluation has the GPU"
        watch.signals.signal = 15
        with pytest.raises(LeaveError):
            watch.wait_while(lambda: True, "for ever")


def test_an_evaluator_that_comes_second_gives_way(house: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is taken between its look and its own taking."""
    process, identity = living()
    claim = jobs.claim

    def beaten(db: Database, owner: object, **more: object) -> jobs.Job | None:
        assert claim(db, identity, kinds=("train_file",)) is not None
        return claim(db, owner, **more)  # type: ignore[arg-type]

    try:
        with open_guild(house) as db:
            add_checkpoint(db, house, 10)
            waits = an_evaluation(db, house)
            jobs.enqueue(db, jobs.NewJob("train_file", {"file": "a.jsonl"}))
            monkeypatch.setattr(runner.jobs, "claim", beaten)
            report = runner.run_waiting(db, house, ask=Knowing({}).for_subject)
            assert (report.outcomes, report.left) == ((), 1) and "cuda" in report.held_back
            now = jobs.get(db, waits.id)
            assert (now.state, now.attempts, now.crashes) == ("queued", 0, 0)
    finally:
        process.communicate()


def test_the_trainer_holds_no_model_between_files_on_a_shared_gpu(house: Places) -> None:
    put(house, "a.jsonl", 40, folder="queue/normal")
    put(house, "b.jsonl", 40, folder="queue/normal", first=100)
    folder, me, engine, models = require_active(house), current_identity(), TrainerEngine(), []
    effective = start_config(house, folder)
    with open_guild(house) as db:
        recover_queue(db, house, quiet_s=0)
        for shared in (False, True):
            desk = Desk(db, house, me, SignalFlag(), SYSTEM_CLOCK, 0, one_gpu=shared)
            taken = take(db, house, me, quiet_s=0)
            assert taken is not None and train_one(desk, engine, folder, effective, taken) == "next file"
            models.append(engine._session is not None)
            assert jobs.get(db, taken.job.id).state == "completed"
    assert models == [True, False]
