"""What the trainer says it is at beside steps, by which the daemon's watchdog knows that it works. (specs/guild.md G11)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from guild.loop.trainer_sight import look_at
from guild.processes import OwnProcess
from guild.records import jobs
from guild.training.engine import TrainerEngine
from guild.training.interface import Begun, Busy, Progress
from helpers.guild_house import make_house
from helpers.guild_training import Listener, trainer_config, write_rows
from helpers.guild_watch import watching
from modelwright.heartbeat import read_snapshot


@pytest.mark.parametrize("work", ["evaluating", "saving"])
def test_the_trainers_own_words_are_what_the_watchdog_sees(tmp_path: Path, work: Busy) -> None:
    house = make_house(tmp_path)
    with watching(house) as watch:
        trainer, run = OwnProcess(watch.me), str(watch.run.path.relative_to(house.base))
        jobs.heartbeat(watch.db, watch.taken.job.id, watch.me, run=run)
        watch.run.heartbeat().beat(status="running", phase="loading", step=0, force=True)
        assert look_at(watch.db, house, trainer).phase == "loading"
        watch.begun(Begun(7, 0, 9, {}, None))
        watch.progress(Progress(10, 3, 9, 0.5, 1.0, 1e-4, 100, 0.1))
        with watch.during(work):
            sight = look_at(watch.db, house, trainer)
            assert (sight.phase, sight.step) == (work, 3)
        sight = look_at(watch.db, house, trainer)
        assert (sight.phase, sight.step) == ("training", 3)  # at once, not with the next beat
        snapshot, _ = read_snapshot(watch.run.path / "heartbeat.json")
        assert snapshot is not None and (snapshot["total_steps"], snapshot["phase"]) == (9, "training")


def test_the_engine_says_so_around_all_that_takes_long(tmp_path: Path) -> None:
    listener = Listener()
    config = trainer_config(tmp_path, write_rows(tmp_path / "a.jsonl"))
    config = replace(config, monitoring=replace(config.monitoring, eval_steps=2, preview_every=0, micro_eval_every=0))
    assert TrainerEngine(listener).run_job(config).success
    looks = sum(step.step % 2 == 0 and step.done < step.total for step in listener.steps)
    assert listener.busy[:2] == ["loading", "evaluating"] and listener.busy[-2:] == ["evaluating", "saving"]
    assert listener.busy.count("evaluating") == looks + 2 and listener.busy.count("saving") == len(listener.checkpoints) == 1
