"""The runner of waiting evaluations. (specs/guild.md 2.1.9, 6.3; acceptance items 19, 20; 10.1 no. 8)"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from guild.analytics.reports import run_report
from guild.curriculum.progress import training_level
from guild.evaluation.due import Wanted, enqueue, enqueue_for_checkpoint, waiting
from guild.evaluation.keeping import Keeper
from guild.evaluation.passives import passive_module
from guild.evaluation.questions import skill_questions
from guild.evaluation.runner import RunReport, run_waiting
from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.evaluations import evaluations_of
from guild.records.passives import passives_of
from guild.skills.registry import load_skill
from helpers.guild_evaluation import CAMPAIGN, Knowing, add_checkpoint
from helpers.guild_house import make_house, until
from modelwright.database import Database
from modelwright.files import read_json, write_json


@pytest.fixture
def house(tmp_path: Path) -> Places:
    return make_house(tmp_path)


def _golden(house: Places, *levels: int, count: int = 100) -> dict[str, str]:
    skill = load_skill("bin", folder=house.skills)
    asked = [question for level in levels for question in skill_questions(skill, level, count)]
    asked += [question for id in ("arithmetic", "logic") for question in passive_module(id).questions("full")]
    return {question.prompt: question.expected for question in asked}


def _quick(db: Database, house: Places, step: int, level: int = 1) -> jobs.Job:
    return enqueue(db, house, CAMPAIGN, [Wanted(step, f"checkpoint-{step}", "skill", "bin", "quick", 10, level)]).jobs[0]


def _run(db: Database, house: Places, who: Knowing, **more: object) -> RunReport:
    return run_waiting(db, house, ask=who.for_subject, **more)  # type: ignore[arg-type]


def test_the_tiny_model_is_evaluated_stored_and_exported(house: Places) -> None:
    with open_guild(house) as db:
        folder = add_checkpoint(db, house, 10)
        job = _quick(db, house, 10)
        report = run_waiting(db, house)
        assert [outcome.state for outcome in report.outcomes] == ["stored"]
        (found,) = evaluations_of(db, CAMPAIGN, problems=True)
        assert (found.checkpoint_step, found.skill, found.level, found.total, found.eval_type) == (10, "bin", 1, 20, "quick")
        assert found.interval_low <= found.accuracy <= found.interval_high
        assert len(found.problems) == 20
        assert {"prompt", "expected", "reply", "correct", "reason"} <= set(found.problems[0])
        assert found.model_extra is not None
        assert found.model_extra["system_prompt"].startswith("Today is ")
        assert read_json(folder / ".evals.json")["evaluations"][0]["correct"] == found.correct
        assert read_json(house.status / "evaluation_ledger.json")["count"] == 1
        assert read_json(house.status / "eval_queue.json")["count"] == 0
        ended = jobs.get(db, job.id)
        assert (ended.state, ended.result["results"][0]["total"] if ended.result else None) == ("completed", 20)


def test_a_real_evaluation_gives_calibration_and_mining_real_figures(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        for name in ("confidence_calibration", "adversarial_mining"):
            assert run_report(house, name, db=db)["status"] == "no data"
        wanted = [
            Wanted(10, "c", "skill", "bin", "quick", 10, 1, problems=8), Wanted(10, "c", "passive", "logic", "lite", 8),
        ]  # fmt: skip
        enqueue(db, house, CAMPAIGN, wanted)
        assert run_waiting(db, house).count("stored") == 2
        (found,) = evaluations_of(db, CAMPAIGN, problems=True)
        (passive,) = passives_of(db, CAMPAIGN)
        for problem in (*found.problems, *passive.problems):
            assert problem["loss"] > 0 and (problem["confidence"] is None or 0 < problem["confidence"] <= 1)
        confidences = [problem["confidence"] for problem in found.problems if problem["confidence"] is not None]
        assert confidences and found.model_extra is not None
        mean_loss = sum(problem["loss"] for problem in found.problems) / 8
        assert found.model_extra["mean_loss"] == pytest.approx(mean_loss, abs=1e-5)
        assert found.model_extra["mean_confidence"] == pytest.approx(sum(confidences) / len(confidences), abs=1e-5)

        made = run_report(house, "confidence_calibration", db=db)
        accuracy = sum(problem["correct"] for problem in found.problems if problem["confidence"] is not None) / len(confidences)
        assert (made["status"], made["answers"], made["answers_without_confidence"]) == ("ok", len(confidences), 8 - len(confidences))
        assert (made["accuracy"], made["mean_confidence"]) == (accuracy, pytest.approx(sum(confidences) / len(confidences)))
        assert 0 <= made["ece"] <= 1 and sum(one["count"] for one in made["bins"]) == len(confidences)
        made = run_report(house, "adversarial_mining", db=db)["latest_summary"]
        wrong = [problem["loss"] for problem in found.problems if not problem["correct"]]
        shown = made["categories"].values()
        assert (made["total_examples"], sum(one["count"] for one in shown)) == (len(wrong), len(wrong))
        assert sum(one["count"] * one["avg_loss"] for one in shown) == pytest.approx(sum(wrong))
        hard = run_report(house, "hard_examples", db=db)["examples"]
        assert len(hard) == len(wrong) and all(one["avg_loss"] > 0 for one in hard)


def test_an_answerer_that_cannot_tell_leaves_the_figures_unknown(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        _quick(db, house, 10)
        _run(db, house, Knowing(_golden(house, 1)))
        (found,) = evaluations_of(db, CAMPAIGN, problems=True)
        assert {(problem["confidence"], problem["loss"]) for problem in found.problems} == {(None, None)}
        assert found.model_extra is not None and found.model_extra["mean_confidence"] is None is found.model_extra["mean_loss"]
        assert run_report(house, "confidence_calibration", db=db)["answers_without_confidence"] == 20


def test_three_checkpoints_with_right_answers_raise_the_level(house: Places) -> None:
    with open_guild(house) as db:
        who = Knowing(_golden(house, 1, 2))
        for step in (10, 20, 30):
            add_checkpoint(db, house, step)
            _quick(db, house, step)
            _run(db, house, who)
            if step < 30:
                assert training_level(house, "bin", CAMPAIGN) == 1
        assert training_level(house, "bin", CAMPAIGN) == 2
        assert db.row("SELECT count(*) AS n FROM events WHERE type = 'hero.level_up'") == {"n": 1}
        assert [one.accuracy for one in evaluations_of(db, CAMPAIGN)] == [1.0, 1.0, 1.0]


def test_a_question_without_a_result_is_not_a_wrong_answer(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        _quick(db, house, 10)
        number = iter(range(1000))
        _run(db, house, Knowing(_golden(house, 1), lambda answer: None if next(number) % 7 == 0 else answer))
        (found,) = evaluations_of(db, CAMPAIGN, problems=True)
        assert (found.correct, found.total, found.accuracy) == (17, 17, 1.0)
        assert sum(problem["correct"] is None for problem in found.problems) == 3


def test_too_few_results_store_nothing_and_the_failure_is_recorded(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        job = _quick(db, house, 10)
        dead = Knowing(_golden(house, 1), lambda answer: None)
        for attempt in (1, 2, 3):
            report = _run(db, house, dead)
            assert [outcome.state for outcome in report.outcomes] == ["failed"]
            now = jobs.get(db, job.id)
            assert (now.state, now.attempts) == ("queued" if attempt < 3 else "failed", attempt)
            assert "20 of 20 questions had no result; allowed: at most 20%. the line is dead" in (now.error or "")
        assert evaluations_of(db, CAMPAIGN) == []
        assert _run(db, house, dead).outcomes == ()


def test_what_cannot_be_evaluated_is_rejected_with_its_reason_and_the_others_go_on(house: Places) -> None:
    with open_guild(house) as db:
        shutil.rmtree(add_checkpoint(db, house, 20))
        (add_checkpoint(db, house, 30) / "model.safetensors").write_bytes(b"cut")
        add_checkpoint(db, house, 10)
        good, *_ = [_quick(db, house, step) for step in (10, 20, 30, 40)]
        (unknown,) = enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "skill", "juggling", "quick", 10, 1)]).jobs
        (beyond,) = enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "skill", "bin", "quick", 9, 31)]).jobs
        report = _run(db, house, Knowing(_golden(house, 1)))
        by_job = {outcome.job.id: outcome for outcome in report.outcomes}
        assert by_job.pop(good.id).state == "stored"
        assert {outcome.state for outcome in by_job.values()} == {"rejected"}
        assert "not there any more" in by_job[good.id + 1].sentence
        assert "cut off" in by_job[good.id + 2].sentence
        assert "not there any more" in by_job[good.id + 3].sentence
        assert "juggling" in by_job[unknown.id].sentence
        assert "31" in by_job[beyond.id].sentence
        assert all(jobs.get(db, id).state == "rejected" and jobs.get(db, id).error for id in by_job)


def test_the_model_is_loaded_once_for_the_jobs_of_a_checkpoint(house: Places) -> None:
    with open_guild(house) as db:
        for step in (10, 20):
            add_checkpoint(db, house, step)
            wanted = [Wanted(step, "c", "skill", "bin", "quick", 10, level) for level in (1, 2)]
            enqueue(db, house, CAMPAIGN, [*wanted, Wanted(step, "c", "passive", "logic", "lite", 8)])
        who, opened = Knowing(_golden(house, 1, 2)), []

        def ask(subject, device, clock):  # type: ignore[no-untyped-def]
            opened.append(subject.step)
            return who

        run_waiting(db, house, ask=ask)
        assert opened == [20, 10, 20, 10]  # priority goes before saving a load
        assert who.closed == 4


def _opening(who: Knowing) -> tuple[list[int], Any]:
    opened: list[int] = []

    def ask(subject: Any, device: str, clock: Any) -> Knowing:
        opened.append(subject.step)
        return who

    return opened, ask


def test_a_keeper_holds_the_model_from_one_round_to_the_next(house: Places) -> None:
    with open_guild(house) as db:
        folder = add_checkpoint(db, house, 10)
        add_checkpoint(db, house, 20)
        who, keeper = Knowing(_golden(house, 1, 2)), Keeper()
        opened, ask = _opening(who)
        for level in (1, 2):
            _quick(db, house, 10, level)
            assert run_waiting(db, house, ask=ask, keeper=keeper).count("stored") == 1
        assert (opened, who.closed, keeper.empty) == ([10], 0, False)
        os.utime(folder / "model.safetensors")  # other weights under the same name
        enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "passive", "logic", "lite", 8)])
        run_waiting(db, house, ask=ask, keeper=keeper)
        assert (opened, who.closed) == ([10, 10], 1)
        _quick(db, house, 20)
        run_waiting(db, house, ask=ask, keeper=keeper)
        assert (opened, who.closed) == ([10, 10, 20], 2)
        keeper.drop()
        assert (who.closed, keeper.empty) == (3, True)


def test_nothing_is_left_on_a_gpu_that_trains_nor_after_a_failure(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        keeper = Keeper()
        _quick(db, house, 10)
        opened, ask = _opening(dead := Knowing(_golden(house, 1), lambda answer: None))
        run_waiting(db, house, ask=ask, keeper=keeper)
        assert (opened, dead.closed, keeper.empty) == ([10], 1, True)
        content = read_json(house.hosts)
        content["hosts"]["local"]["devices"] = {"trainer": "cuda", "inference": "cuda:0"}
        write_json(house.hosts, content)
        opened, ask = _opening(who := Knowing(_golden(house, 1)))
        assert run_waiting(db, house, ask=ask, keeper=keeper).count("stored") == 1
        assert (opened, who.closed, keeper.empty) == ([10], 1, True)


def test_passives_are_stored_under_step_id_mode_and_version(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "passive", "arithmetic", mode, 8) for mode in ("lite", "full")])  # type: ignore[arg-type]
        _run(db, house, Knowing(_golden(house)))
        assert [(one.key, one.correct, one.total) for one in passives_of(db, CAMPAIGN)] == [
            ("10:arithmetic:full:1.0.0", 40, 40), ("10:arithmetic:lite:1.0.0", 5, 5),
        ]  # fmt: skip
        assert {one.config_hash for one in passives_of(db, CAMPAIGN)} == {passive_module("arithmetic").config_hash}


def test_a_full_evaluation_without_a_level_goes_through_every_level_and_on_where_it_stopped(house: Places) -> None:
    from guild.curriculum.progress import set_mastered

    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        set_mastered(house, "bin", 2, CAMPAIGN)
        (job,) = enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "skill", "bin", "full", 6, None)]).jobs
        who = Knowing(_golden(house, 1, 2, 3))
        report = _run(db, house, who, stop=lambda: len(evaluations_of(db, CAMPAIGN)) == 1)
        assert [outcome.state for outcome in report.outcomes] == ["released"]
        waits = jobs.get(db, job.id)
        assert (waits.state, waits.position, waits.attempts) == ("queued", 1, 0)
        before = len(who.asked)
        assert _run(db, house, who).count("stored") == 1
        found = [(one.level, one.total, one.eval_type) for one in evaluations_of(db, CAMPAIGN)]
        assert [level for level, _, _ in found] == [1, 2, 3]
        assert {kind for _, _, kind in found} == {"full"}
        assert found[2][1] == 100
        assert len(who.asked) - before == found[1][1] + found[2][1]  # level 1 is not asked again


def test_only_the_asked_for_kind_and_number_are_taken(house: Places) -> None:
    with open_guild(house) as db:
        for step in (10, 20):
            add_checkpoint(db, house, step)
            enqueue(db, house, CAMPAIGN, [Wanted(step, "c", "skill", "bin", kind, 10, 1) for kind in ("quick", "full")])  # type: ignore[arg-type]
        who = Knowing(_golden(house, 1))
        report = _run(db, house, who, suite="full", limit=1)
        assert [(outcome.job.payload["step"], outcome.job.payload["suite"]) for outcome in report.outcomes] == [(20, "full")]
        assert report.left == 3
        report = _run(db, house, who, suite="quick")
        assert [outcome.job.payload["step"] for outcome in report.outcomes] == [20, 10]


def test_a_cancelled_job_ends_cancelled(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        (job,) = enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "skill", "bin", "full", 6, 1)]).jobs
        who = Knowing(_golden(house, 1))

        def reply(answer: str) -> str:
            if len(who.asked) == 16:
                jobs.cancel(db, job.id)
            return answer

        who.reply = reply
        from modelwright.clock import ManualClock

        class Hurrying(ManualClock):
            def monotonic(self) -> float:
                self.advance(11)  # every look is a renewal of the lease
                return super().monotonic()

        report = _run(db, house, who, clock=Hurrying())
        assert [outcome.state for outcome in report.outcomes] == ["cancelled"]
        assert (jobs.get(db, job.id).state, len(who.asked), evaluations_of(db, CAMPAIGN)) == ("cancelled", 16, [])


def test_on_a_gpu_that_trains_evaluations_wait_until_the_file_is_done(house: Places) -> None:
    content = read_json(house.hosts)
    content["hosts"]["local"]["devices"] = {"trainer": "cuda:0", "inference": "cuda:0"}
    write_json(house.hosts, content)
    from modelwright.identity import current_identity

    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        _quick(db, house, 10)
        jobs.enqueue(db, jobs.NewJob("train_file", {"file": "a.jsonl"}))
        held = jobs.claim(db, current_identity(), kinds=("train_file",))
        assert held is not None
        who = Knowing(_golden(house, 1))
        report = _run(db, house, who)
        assert (report.outcomes, report.left) == ((), 1)
        assert "cuda:0" in report.held_back
        assert _run(db, house, who, device="cuda:1", limit=1).count("stored") == 1  # another device is free
        _quick(db, house, 10, level=1)
        jobs.finish(db, held.id, current_identity())
        assert _run(db, house, who).count("stored") == 1


def _child(house: Places, *words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "guild.eval_runner", "--base-dir", str(house.base), *words]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_runner_gives_its_job_back_and_two_at_once_share_the_work(house: Places) -> None:
    with open_guild(house) as db:
        for step in (10, 20):
            add_checkpoint(db, house, step)
        for step in (10, 20):
            enqueue(db, house, CAMPAIGN, [Wanted(step, "c", "skill", "bin", "full", 6, level, problems=6) for level in (3, 4)])
        child = _child(house, "--once")
        until(lambda: jobs.list_jobs(db, kinds=("eval",), states=("running",)).jobs, "an evaluation to be under way")
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        held = jobs.list_jobs(db, kinds=("eval",), states=("running",)).jobs
        both = [_child(house, "--once"), _child(house, "--once")]
        said = [one.communicate(timeout=120)[0] for one in both]
        assert [one.returncode for one in both] == [int("Another process is evaluating." in text) for text in said], said
        if waiting(db):  # the one that found the other at work may have left before the other ended
            last = _child(house, "--once")
            assert (last.communicate(timeout=120), last.returncode)[1] == 0
        assert len(held) == 1
        assert jobs.get(db, held[0].id).state == "completed"
        assert len(jobs.list_jobs(db, kinds=("eval",), states=("completed",)).jobs) == 4
        assert [(one.checkpoint_step, one.level) for one in evaluations_of(db, CAMPAIGN, history=True)] == [
            (10, 3),
            (10, 4),
            (20, 3),
            (20, 4),
        ]
        claimed = db.row("SELECT count(*) AS n FROM events WHERE type = 'queue.claimed'")
        assert claimed == {"n": 5}  # four jobs, and one of them again after the kill


def test_sigterm_returns_the_job_without_counting_an_attempt(house: Places) -> None:
    with open_guild(house) as db:
        add_checkpoint(db, house, 10)
        (job,) = enqueue(db, house, CAMPAIGN, [Wanted(10, "c", "skill", "bin", "full", 6, None, problems=2000)]).jobs
        child = _child(house, "--daemon", "--interval", "60")
        until(lambda: jobs.get(db, job.id).state == "running", "the evaluation to be under way")
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
        assert child.returncode == 0
        now = jobs.get(db, job.id)
        assert (now.state, now.attempts, now.crashes) == ("queued", 0, 0)


def test_item_19_evaluation_asks_with_the_day_of_training(house: Places) -> None:
    from modelwright.checkpoints import CheckpointStore
    from modelwright.tiny import tiny_model_path

    checkpoints = house.campaigns / "tiny" / "campaign-001" / "checkpoints"

    def fill(folder: Path) -> None:
        for file in tiny_model_path("tiny-0.4m").iterdir():
            if file.is_file():
                shutil.copy(file, folder / file.name)
        write_json(folder / "trainer_state.json", {"global_step": 10})

    CheckpointStore(checkpoints).save("checkpoint-10-20260101-1000", fill, step=10, metadata={"prompt_date": "2025-12-24"})
    from guild.records import ledger

    with open_guild(house) as db:
        ledger.record(db, house, checkpoints / "checkpoint-10-20260101-1000", campaign=CAMPAIGN)
        enqueue_for_checkpoint(db, house, CAMPAIGN, 10, "checkpoint-10-20260101-1000", skills=["bin"], passives=False)
        seen = []

        def ask(subject, device, clock):  # type: ignore[no-untyped-def]
            seen.append(subject.answerer(device, clock).system_prompt)
            return Knowing(_golden(house, 1))

        run_waiting(db, house, ask=ask)
        (found,) = evaluations_of(db, CAMPAIGN)
        assert seen == ["Today is 2025-12-24. You are happy. You enjoy helping others."]
        assert found.model_extra is not None
        assert found.model_extra["prompt_date"] == "2025-12-24"
