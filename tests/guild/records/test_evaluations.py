from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guild.places import Places
from guild.records import evaluation_documents, evaluation_history, evaluations, ledger
from guild.records.checkpoint_record import CampaignId
from guild.records.database import open_guild
from guild.records.evaluation_queue import EvalQueueEntry, export_queue
from guild.records.evaluation_records import Evaluation, new_evaluation
from guild.records.intervals import wilson
from helpers.guild_records import in_processes, killed_at_line, write_campaign, write_checkpoint
from modelwright.clock import ManualClock

DIO = CampaignId("dio-qwen3-0.6b", "campaign-001")
AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    write_campaign(tmp_path)
    return Places(tmp_path)


def made(step: int = 500, correct: int = 16, total: int = 20, skill: str = "bin", level: int = 2, **further: Any) -> Evaluation:
    return new_evaluation(DIO, step, skill, level, correct=correct, total=total, timestamp=AT, **further)


def exported(places: Places) -> Any:
    return json.loads((places.status / "evaluation_ledger.json").read_text())


def test_an_evaluation_has_the_fields_of_the_contract_and_its_interval(places: Places) -> None:
    path = write_checkpoint(places.campaigns / DIO.hero_id / DIO.campaign_id / "checkpoints", "checkpoint-500")
    problems = [{"prompt": "p", "expected": "e", "reply": "r", "correct": False}]
    with open_guild(places) as db:
        ledger.record(db, places, path)
        assert evaluations.record_evaluation(db, places, made(skill="binary", problems=problems, eval_type="full", judge_version="1"))
        assert evaluations.evaluations_of(db)[0].problems == ()
        assert evaluations.evaluations_of(db, problems=True)[0].problems == tuple(problems)
    (entry,) = exported(places)["evaluations"]
    interval = wilson(16, 20)
    assert entry == {
        "schema_version": 1,
        "hero_id": DIO.hero_id,
        "campaign_id": DIO.campaign_id,
        "checkpoint_step": 500,
        "skill": "bin",
        "level": 2,
        "available": None,
        "accuracy": 0.8,
        "correct": 16,
        "total": 20,
        "interval_low": interval.low,
        "interval_high": interval.high,
        "timestamp": AT,
        "validation_type": "static",
        "eval_type": "full",
        "problems": problems,
        "judge_version": "1",
    }
    assert exported(places)["count"] == 1 and exported(places)["schema_version"] == 1
    assert json.loads((path / ".evals.json").read_text())["evaluations"] == [entry]
    own = json.loads((path.parents[1] / "status" / "evaluation_ledger.json").read_text())
    assert own["evaluations"] == [entry]


def test_a_repeated_one_counts_only_with_at_least_as_many_problems_and_history_is_kept(places: Places) -> None:
    with open_guild(places) as db:
        turns = [(16, 20), (5, 5), (10, 20), (45, 50), (20, 20)]
        counted = [evaluations.record_evaluation(db, places, made(correct=correct, total=total)) for correct, total in turns]
        assert counted == [True, False, True, True, False]
        assert [(item.correct, item.total) for item in evaluations.evaluations_of(db)] == [(45, 50)]
        assert [(item.correct, item.total) for item in evaluations.evaluations_of(db, history=True)] == turns
        assert evaluations.record_evaluation(db, places, made(correct=45, total=50))  # sent again after a kill
        assert len(evaluations.evaluations_of(db, history=True)) == 5 and exported(places)["count"] == 1


def test_the_best_of_a_skill_and_level_is_the_most_accurate_and_then_the_later(places: Places) -> None:
    with open_guild(places) as db:
        for step, correct, total in ((100, 8, 10), (200, 16, 20), (300, 15, 20), (99, 40, 50)):
            evaluations.record_evaluation(db, places, made(step, correct, total))
        evaluations.record_evaluation(db, places, made(50, 5, 5, level=1))
        best = evaluations.best_evaluation(db, "binary", 2)
        assert best is not None and best.checkpoint_step == 200
        overall = evaluations.best_evaluation(db, "bin", campaign=DIO)
        assert overall is not None and overall.level == 1
        assert evaluations.best_evaluation(db, "sy") is None
        assert evaluations.has_evaluation(db, DIO, 300, "binary", 2) and not evaluations.has_evaluation(db, DIO, 300, "bin", 1)
        counts = evaluations.evaluation_counts(db)
        seen = [(one.skill, one.level, one.checkpoints, one.problems, one.latest_step) for one in counts]
        assert seen == [("bin", 1, 1, 5, 50), ("bin", 2, 4, 100, 300)]


def test_only_the_newest_evaluations_carry_their_problems_in_the_common_document(places: Places) -> None:
    with open_guild(places) as db:
        for step in range(5):
            evaluations.store_evaluation(db, made(step, problems=[{"n": step}, {"n": step}]))
        found = evaluation_documents.evaluation_document(db, with_problems=2)["evaluations"]
    assert [len(item["problems"]) for item in found] == [0, 0, 0, 2, 2]
    assert [item.get("problems_left_out") for item in found] == [True, True, True, None, None]


def history(folder: Path) -> Any:
    return json.loads((folder / "eval_results_history.json").read_text())


def test_the_history_lists_every_result_in_the_order_in_which_it_came(places: Places) -> None:
    own = places.campaigns / DIO.hero_id / DIO.campaign_id / "status"
    other = CampaignId("dio-qwen3-0.6b", "campaign-002")
    write_campaign(places.base, *other.key.split("/"))
    (own / "eval_results_history.json").write_text('{"schema_version": 1, "count": 0, "results": [], "note": "kept"}')
    with open_guild(places) as db:
        evaluations.record_evaluation(db, places, made(500, 16, 20, problems=[{"n": 1}], mean_loss=0.5, checkpoint="checkpoint-500"))
        evaluations.record_evaluation(db, places, made(500, 3, 5))
        one = new_evaluation(other, 7, "sy", 1, correct=1, total=20, timestamp=AT)
        evaluations.record_evaluation(db, places, one)
    told = history(own)
    assert (told["schema_version"], told["count"], told["total"], told["note"]) == (1, 2, 2, "kept")
    first, again = told["results"]
    assert (first["checkpoint_step"], first["skill"], first["level"], first["accuracy"], first["counts"]) == (500, "bin", 2, 0.8, True)
    assert (first["mean_loss"], first["mean_confidence"], first["checkpoint"]) == (0.5, None, "checkpoint-500")
    assert (again["correct"], again["total"], again["counts"]) == (3, 5, False)  # fewer problems: history alone
    assert "problems" not in first
    assert [entry["campaign_id"] for entry in history(places.status)["results"]] == ["campaign-001", "campaign-001", "campaign-002"]
    assert history(places.campaigns / other.hero_id / other.campaign_id / "status")["count"] == 1


def test_the_history_is_bounded_and_rebuilt_from_the_database(places: Places) -> None:
    with open_guild(places) as db:
        for step in range(5):
            evaluations.store_evaluation(db, made(step))
        told = evaluation_history.history_document(db, newest=3)
        assert ([entry["checkpoint_step"] for entry in told["results"]], told["count"], told["total"]) == ([2, 3, 4], 3, 5)
        evaluation_documents.export_evaluations(db, places)
        whole = history(places.status)
        (places.status / "eval_results_history.json").unlink()
        evaluation_documents.export_evaluations(db, places)
    assert history(places.status)["results"] == whole["results"] and whole["count"] == 5


def test_the_readers_of_the_active_campaign_find_its_history(places: Places) -> None:
    from guild.campaigns.activation import readable_status_file
    from guild.campaigns.pointer import write_pointers

    folder = places.campaigns / DIO.hero_id / DIO.campaign_id
    (folder / "campaign.json").write_text(json.dumps({"id": DIO.campaign_id, "hero_id": DIO.hero_id, "name": "Test", "created_at": AT}))
    write_pointers(places, DIO.hero_id, DIO.campaign_id, ManualClock())
    with open_guild(places) as db:
        evaluations.record_evaluation(db, places, made())
    path = readable_status_file(places, "eval_results_history")
    assert path == folder / "status" / "eval_results_history.json"
    assert json.loads(path.read_text())["results"][0]["correct"] == 16


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (6, 5), (-1, 5)])
def test_counts_that_cannot_be_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="allowed"):
        made(correct=correct, total=total)


def test_an_evaluation_of_a_deleted_checkpoint_makes_no_folder(places: Places) -> None:
    import shutil

    path = write_checkpoint(places.campaigns / DIO.hero_id / DIO.campaign_id / "checkpoints", "checkpoint-500")
    with open_guild(places) as db:
        ledger.record(db, places, path)
        shutil.rmtree(path)
        assert evaluations.record_evaluation(db, places, made())
    assert not path.exists() and exported(places)["count"] == 1


def test_processes_that_evaluate_at_once_leave_one_record_each_and_the_largest(places: Places) -> None:
    def work(number: int) -> None:
        with open_guild(places) as db:
            for step in range(4):
                evaluations.record_evaluation(db, places, made(step, number, 20 + number))

    in_processes([lambda number=number: work(number) for number in range(4)])  # type: ignore[misc]
    with open_guild(places) as db:
        found = evaluations.evaluations_of(db)
        assert [(item.checkpoint_step, item.total) for item in found] == [(step, 23) for step in range(4)]
        assert len(evaluations.evaluations_of(db, history=True)) == 16
    assert {item["checkpoint_step"]: item["total"] for item in exported(places)["evaluations"]} == dict.fromkeys(range(4), 23)


def test_a_kill_at_any_line_converges_with_the_next_write(tmp_path: Path) -> None:
    names = ("evaluations", "standing", "evaluation_documents", "evaluation_history", "status_documents")
    modules = tuple(f"records/{name}.py" for name in names)
    stored = []
    for line in range(1, 1000, 7):
        places = Places(tmp_path / str(line))

        def work(places: Places = places) -> None:
            with open_guild(places) as db:
                evaluations.record_evaluation(db, places, made())

        died = killed_at_line(line, modules, work)
        with open_guild(places) as db:
            stored.append(len(evaluations.evaluations_of(db)))
            assert evaluations.record_evaluation(db, places, made())  # the queue hands the evaluation out again
            assert len(evaluations.evaluations_of(db, history=True)) == 1 == exported(places)["count"] == history(places.status)["count"]
        if not died:
            break
    assert not died and stored[0] == 0 and stored[-2] == 1  # deaths before and after the row


def test_the_queue_document_is_in_the_order_of_taking(places: Places) -> None:
    rows = [(100, "full", 6), (100, "quick", 10), (200, "quick", 10), (300, "full", 10), (300, "quick", 10), (50, "quick", 99)]
    entries = [EvalQueueEntry(step, "bin", None, AT, kind, priority) for step, kind, priority in rows]  # type: ignore[arg-type]
    export_queue(places, entries, clock=ManualClock())
    document = json.loads((places.status / "eval_queue.json").read_text())
    order = [(entry["checkpoint_step"], entry["eval_type"], entry["priority"]) for entry in document["queue"]]
    assert order == [(50, "quick", 99), (300, "quick", 10), (300, "full", 10), (200, "quick", 10), (100, "quick", 10), (100, "full", 6)]
    assert {"checkpoint_step", "skill", "level", "queued_at", "eval_type", "priority"} <= set(document["queue"][0])
