"""One record for every attempt at a file, whatever is killed. (specs/guild.md 2.9; acceptance 47)"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guild.analytics import impact
from guild.analytics.impact import close_impact, open_attempts, open_impact, read_records, settle_abandoned
from guild.campaigns.campaign import CampaignFolder
from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from guild.records.evaluations import store_evaluation
from helpers.guild_analytics import HERO, NAME, enter, evaluation, house, new_campaign, recorded
from helpers.guild_jobs import died
from helpers.kill_points import killed_before, lines_of
from modelwright.clock import ManualClock
from modelwright.database import Database
from modelwright.files import read_json
from modelwright.identity import current_identity
from modelwright.metrics import MetricWriter

ME = current_identity()
FILE = "train_bin_level1_200.jsonl"


@pytest.fixture
def home(tmp_path: Path) -> tuple[Places, CampaignFolder]:
    return house(tmp_path)


@pytest.fixture
def folder(home: tuple[Places, CampaignFolder]) -> CampaignFolder:
    return home[1]


@pytest.fixture
def db(home: tuple[Places, CampaignFolder]) -> Iterator[Database]:
    with open_guild(home[0]) as opened:
        yield opened


def begin(db: Database, folder: CampaignFolder, *, job: int = 7, **further: Any) -> str:
    told: dict[str, Any] = {
        "file": FILE, "owner": ME, "attempt": 1, "start_step": 100, "steps_left": 40, "total_steps": 40, "rows": 200, "val_loss": 2.0,
        "skill": "binary", "level": 1, "clock": ManualClock(),
    }  # fmt: skip
    return open_impact(db, folder, job=job, **{**told, **further})


def end(db: Database, folder: CampaignFolder, *, job: int = 7, **further: Any) -> dict[str, Any] | None:
    told: dict[str, Any] = {"attempt": 1, "outcome": "completed", "end_step": 140, "val_loss": 1.0, "clock": ManualClock()}
    return close_impact(db, folder, job=job, **{**told, **further})


def run_of(folder: CampaignFolder, losses: dict[int, float], job: int = 7) -> Path:
    run = folder.path / "runs" / f"{job:06d}-train"
    run.mkdir(parents=True)
    with MetricWriter(run / "metrics.jsonl") as metrics:
        for step, loss in losses.items():
            metrics.log("train/loss", loss, step)
            metrics.log("train/grad_norm", 1.0, step)
    return run


def test_item_47_a_trained_file_has_a_record_with_every_field(db: Database, folder: CampaignFolder) -> None:
    store_evaluation(db, evaluation(60, 4))
    store_evaluation(db, evaluation(100, 8))
    store_evaluation(db, evaluation(100, 1, level=2))
    run = run_of(folder, {step: 3.0 if step <= 110 else 2.0 if step <= 130 else 1.5 for step in range(101, 141)})
    begin(db, folder)
    assert [one["abandoned"] for one in open_attempts(folder)] == [False]
    store_evaluation(db, evaluation(140, 12))
    made = end(db, folder, run=run)
    assert made == {
        "schema_version": 1, "impact_id": f"{HERO}/{NAME}:7:1", "job": 7, "attempt": 1, "hero_id": HERO, "campaign_id": NAME,
        "filename": FILE, "skill": "bin", "level": 1, "start_step": 100, "end_step": 140, "steps_trained": 40, "total_steps": 40,
        "outcome": "completed", "complete": True, "loss_before": 3.0, "loss_after": 1.5, "loss_delta": -1.5, "accuracy_before": 0.4,
        "accuracy_after": 0.6, "accuracy_delta": pytest.approx(0.2), "accuracy_before_step": 100, "val_loss_before": 2.0,
        "val_loss_after": 1.0, "val_loss_delta": -1.0, "impact_score": pytest.approx(0.5 * 0.5 + 0.3 * 0.2 + 0.2 * 0.5),
        "score_terms": ["loss", "accuracy", "val_loss"], "classification": "positive", "examples_count": 200,
        "start_timestamp": made["start_timestamp"], "end_timestamp": made["end_timestamp"],
    }  # fmt: skip
    assert read_records(folder) == ([made], [])
    assert open_attempts(folder) == []


def test_what_nobody_measured_is_null_and_not_zero(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder, val_loss=float("nan"), skill=None, level=None, rows=None)
    made = end(db, folder, val_loss=None)
    assert made is not None
    unknown = ("loss", "accuracy", "val_loss")
    assert all(made[f"{name}_{part}"] is None for name in unknown for part in ("before", "after", "delta"))
    assert (made["impact_score"], made["classification"], made["examples_count"]) == (None, None, None)


def test_a_stopped_file_counts_the_steps_it_had_and_goes_on_as_a_new_attempt(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder)
    first = end(db, folder, outcome="stopped", end_step=110, val_loss=None)
    begin(db, folder, attempt=2, start_step=110, steps_left=30)
    second = end(db, folder, attempt=2)
    assert first is not None and second is not None
    assert (first["outcome"], first["complete"], first["steps_trained"], first["examples_count"]) == ("stopped", False, 10, 50)
    assert (second["complete"], second["start_step"], second["steps_trained"], second["examples_count"]) == (True, 110, 30, 150)


def test_of_a_failure_the_last_saved_step_counts(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder)
    enter(db, recorded(120, None))
    made = end(db, folder, outcome="failed", end_step=133, val_loss=None)
    assert made is not None
    assert (made["end_step"], made["steps_trained"], made["complete"]) == (120, 20, False)


def test_the_accuracy_before_is_of_the_newest_checkpoint_up_to_the_start(db: Database, folder: CampaignFolder) -> None:
    for step, correct in ((20, 2), (90, 10), (101, 20)):
        store_evaluation(db, evaluation(step, correct))
    begin(db, folder)
    made = end(db, folder)
    assert made is not None
    assert (made["accuracy_before"], made["accuracy_before_step"], made["accuracy_after"]) == (0.5, 90, None)


def test_a_refusal_before_the_first_step_leaves_no_record(db: Database, folder: CampaignFolder) -> None:
    assert end(db, folder, outcome="failed") is None
    assert read_records(folder) == ([], [])


def test_opening_twice_and_closing_twice_are_one_record(db: Database, folder: CampaignFolder) -> None:
    assert begin(db, folder) == begin(db, folder)
    assert end(db, folder) is not None
    assert end(db, folder) is None
    assert len(read_records(folder)[0]) == 1


def test_a_dead_workers_attempt_is_closed_by_the_next_with_the_steps_that_were_kept(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder, owner=died())
    assert [one["abandoned"] for one in open_attempts(folder)] == [True]
    begin(db, folder, attempt=2, start_step=115, steps_left=25)
    records, _ = read_records(folder)
    assert [(one["outcome"], one["complete"], one["start_step"], one["end_step"]) for one in records] == [("died", False, 100, 115)]
    assert records[0]["val_loss_after"] is None
    end(db, folder, attempt=2)
    assert [one["outcome"] for one in read_records(folder)[0]] == ["died", "completed"]


def test_the_next_file_closes_it_too(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder, owner=died())
    begin(db, folder, job=8, file="other.jsonl")
    (record,) = read_records(folder)[0]
    assert (record["job"], record["outcome"], record["steps_trained"]) == (7, "died", 0)
    assert [one["job"] for one in open_attempts(folder)] == [8]


def test_settling_leaves_a_living_workers_attempt_alone(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder)
    assert settle_abandoned(db, folder) == []
    assert len(open_attempts(folder)) == 1


def test_a_file_that_was_whole_before_its_worker_died_is_completed(db: Database, folder: CampaignFolder) -> None:
    """Killed after the last checkpoint: the ledger has it, with the loss on the file's held-out rows."""
    begin(db, folder, owner=died())
    enter(db, recorded(140, 1.25, training_file=FILE))
    (record,) = settle_abandoned(db, folder)
    assert (record["outcome"], record["complete"], record["end_step"], record["val_loss_after"]) == ("completed", True, 140, 1.25)
    assert settle_abandoned(db, folder) == []


def test_a_job_that_is_completed_makes_its_record_complete(db: Database, folder: CampaignFolder) -> None:
    job = jobs.enqueue(db, jobs.NewJob("train_file", {"file": FILE}, "normal"))
    jobs.claim(db, ME)
    begin(db, folder, job=job.id, owner=died(), total_steps=50)
    jobs.finish(db, job.id, ME, {})
    (record,) = settle_abandoned(db, folder)
    assert (record["outcome"], record["end_step"]) == ("completed", 100)


def test_an_attempt_that_finds_its_file_whole_completes_the_dead_one(db: Database, folder: CampaignFolder) -> None:
    """The engine answers at once, without a first step, so nothing was opened for this attempt."""
    begin(db, folder, owner=died())
    enter(db, recorded(140, 1.25, training_file=FILE))
    made = end(db, folder, attempt=2, val_loss=None)
    assert made is not None
    assert (made["attempt"], made["outcome"], made["end_step"], made["val_loss_after"]) == (1, "completed", 140, 1.25)


def test_an_attempt_that_is_refused_does_not_give_a_dead_one_its_own_end(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder, owner=died())
    made = end(db, folder, attempt=2, outcome="failed", end_step=0)
    assert made is not None
    assert (made["attempt"], made["outcome"], made["end_step"]) == (1, "died", 100)


def test_the_validation_loss_of_another_file_is_not_this_ones(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder)
    enter(db, recorded(140, 9.0, training_file="other.jsonl"))
    made = end(db, folder, val_loss=None)
    assert made is not None
    assert made["val_loss_after"] is None


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({}, (None, None)),
        ({101: 5.0}, (None, None)),
        ({101: 5.0, 102: 4.0}, (5.0, 4.0)),
        ({101: 5.0, 102: 4.0, 103: 3.0}, (5.0, 3.0)),
        ({99: 9.0, 100: 9.0, **{100 + step: float(step) for step in range(1, 31)}, 141: 9.0}, (5.5, 25.5)),
    ],
)
def test_the_loss_at_an_end_is_a_mean_and_the_ends_never_overlap(
    db: Database, folder: CampaignFolder, losses: dict[int, float], expected: tuple[float | None, float | None]
) -> None:
    begin(db, folder)
    made = end(db, folder, run=run_of(folder, losses))
    assert made is not None
    assert (made["loss_before"], made["loss_after"]) == expected


def test_a_damaged_open_document_hinders_no_training_and_is_named(db: Database, folder: CampaignFolder) -> None:
    begin(db, folder)
    (folder.status / "open_impacts" / "000007.json").write_text("{")
    begin(db, folder, job=8)
    assert end(db, folder, job=8) is not None
    with pytest.raises(impact.DamagedFileError, match=r"000007\.json"):
        open_attempts(folder)


def test_a_torn_line_is_passed_over_and_named(db: Database, folder: CampaignFolder) -> None:
    (folder.status / "data_file_impact.jsonl").write_text('{"filename": "a.jsonl", "impact_sc')
    begin(db, folder)
    end(db, folder)
    records, damage = read_records(folder)
    assert [one["filename"] for one in records] == [FILE]
    assert len(damage) == 1 and "torn" in damage[0]


def two_files(places: Places, folder: CampaignFolder) -> None:
    """A trainer opens and closes the records of two files."""
    with open_guild(places) as db:
        owner = current_identity()
        begin(db, folder, owner=owner)
        end(db, folder)
        begin(db, folder, job=8, owner=owner, start_step=140)
        end(db, folder, job=8, end_step=180)


@pytest.mark.slow
def test_killed_before_any_line_every_attempt_ends_as_one_record(tmp_path: Path) -> None:
    """A trainer dies before a line of the module, for each of them; then another one goes on with the next file."""
    places, counted = house(tmp_path)
    with open_guild(places):
        pass  # made once, for all the campaigns
    numbers = lines_of(lambda: two_files(places, counted), [impact])
    assert len(numbers) > 60
    for number in numbers:
        folder = new_campaign(places, f"campaign-{number + 1:03d}")
        killed_before(lambda folder=folder: two_files(places, folder), [impact], number)  # type: ignore[misc]
        known = {one["job"] for one in [*open_attempts(folder), *read_records(folder)[0]]}
        with open_guild(places) as db:
            begin(db, folder, job=9, start_step=180)
            end(db, folder, job=9, end_step=220)
        assert [one["job"] for one in read_records(folder)[0]] == sorted(known | {9}), f"killed before line {number}"
        assert open_attempts(folder) == [], f"killed before line {number}"


def test_a_kill_in_the_middle_of_an_attempt_is_settled_once_by_many_at_once(home: tuple[Places, CampaignFolder]) -> None:
    """Four processes settle the same dead attempt; one record comes of it."""
    places, folder = home
    with open_guild(places) as db:
        begin(db, folder, owner=died())
    script = (
        "import sys; from pathlib import Path; from guild.places import Places; from guild.records.database import open_guild;"
        "from guild.campaigns.campaign import read_campaign; from guild.analytics.impact import settle_abandoned\n"
        "with open_guild(Places(Path(sys.argv[1]))) as db: settle_abandoned(db, read_campaign(Path(sys.argv[2])))"
    )
    children = [subprocess.Popen([sys.executable, "-c", script, str(places.base), str(folder.path)]) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    assert [one["outcome"] for one in read_records(folder)[0]] == ["died"]


def test_a_killed_trainer_process_is_seen_as_dead(home: tuple[Places, CampaignFolder]) -> None:
    """A real process, killed with SIGKILL while its attempt is open."""
    places, folder = home
    script = (
        "import sys, time; from pathlib import Path; from guild.places import Places; from guild.records.database import open_guild;"
        "from guild.campaigns.campaign import read_campaign; from guild.analytics.impact import open_impact;"
        "from modelwright.identity import current_identity\n"
        "with open_guild(Places(Path(sys.argv[1]))) as db:\n"
        "    open_impact(db, read_campaign(Path(sys.argv[2])), job=7, file='a.jsonl', owner=current_identity(), attempt=1, start_step=0,\n"
        "                steps_left=5, total_steps=5)\n"
        "    print('open', flush=True); time.sleep(600)"
    )
    argv = [sys.executable, "-c", script, str(places.base), str(folder.path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        with open_guild(places) as db:
            assert settle_abandoned(db, folder) == []
            os.kill(child.pid, signal.SIGKILL)
            child.wait(30)
            assert [one["outcome"] for one in settle_abandoned(db, folder)] == ["died"]
    assert not list((folder.status / "open_impacts").glob("*.json"))
    assert read_json(folder.path / "campaign.json")["id"] == NAME
