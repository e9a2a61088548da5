"""The reports by name, over a store with real records. (specs/guild.md 2.7, 2.9)"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guild.analytics.documents import document
from guild.analytics.impact import close_impact, open_impact
from guild.analytics.overview import overview, worst
from guild.analytics.reports import REPORTS, UnknownReportError, document_path, due_reports, run_report
from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.pointer import NoActiveCampaignError
from guild.init import initialise
from guild.places import Places
from guild.records import ledger
from guild.records.database import open_guild
from guild.records.evaluations import store_evaluation
from guild.records.passives import store_passive
from helpers.guild_analytics import HERO, NAME, enter, evaluation, house, layered, passive, recorded, save_weights
from modelwright.clock import ManualClock, stamp
from modelwright.database import Database
from modelwright.errors import UsageError
from modelwright.files import read_json, write_json
from modelwright.identity import current_identity


@pytest.fixture
def home(tmp_path: Path) -> tuple[Places, CampaignFolder]:
    initialise(Places(tmp_path))
    return house(tmp_path)


@pytest.fixture
def places(home: tuple[Places, CampaignFolder]) -> Places:
    return home[0]


@pytest.fixture
def folder(home: tuple[Places, CampaignFolder]) -> CampaignFolder:
    return home[1]


@pytest.fixture
def db(places: Places) -> Iterator[Database]:
    with open_guild(places) as opened:
        yield opened


def written(places: Places, folder: CampaignFolder, name: str) -> Any:
    return read_json(document_path(places, name, folder))


def checkpoint(db: Database, places: Places, folder: CampaignFolder, step: int, tensors: dict[str, Any]) -> Path:
    """A checkpoint in the ledger, with real weights."""
    path = save_weights(folder.checkpoints / f"checkpoint-{step}", tensors)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    ledger.record(db, places, path)
    return path


@pytest.mark.parametrize("name", list(REPORTS))
def test_every_report_of_an_empty_campaign_says_no_data(places: Places, folder: CampaignFolder, name: str) -> None:
    made = run_report(places, name)
    assert made["status"] == "no data"
    stored = written(places, folder, name)
    assert (stored["schema_version"], stored["status"], stored["report"]) == (1, "no data", name)
    assert stored["generated_at"].endswith("Z")


PLUGIN_FIELDS = {
    "curriculum_optimization": ["skills"],
    "adversarial_mining": ["latest_summary"],
    "regression_monitoring": ["latest_summary", "total_regressions"],
    "confidence_calibration": ["ece", "num_bins", "overconfident", "bins"],
    "automated_testing": ["total_tests", "passed", "failed", "pass_rate", "accuracy_by_difficulty", "recent_avg_pass_rate"],
    "self_correction": ["errors_captured", "patterns_found", "corrections_generated", "top_error_patterns", "total_corrections"],
    "skill_metrics": [
        "available_versions", "skill_categories", "base_model", "trained_model", "versions", "skills", "summary", "syllo_10level",
    ],
    "training_analytics": ["layer_drift", "parameter_stability", "data_file_impact"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), PLUGIN_FIELDS.items())
def test_a_plugins_fields_are_there_with_and_without_data(places: Places, db: Database, name: str, fields: list[str]) -> None:
    assert set(fields) <= set(run_report(places, name, db=db))
    fill(db, places)
    made = run_report(places, name, db=db)
    assert set(fields) <= set(made)
    if name not in ("skill_metrics", "training_analytics"):
        assert made["status"] != "no data"


def fill(db: Database, places: Places) -> None:
    """Evaluations with problems and confidences, passives, a ledger, a curriculum, a sparring session."""
    told = [
        {
            "prompt": f"p{number}",
            "expected": "e",
            "reply": "r",
            "correct": number % 2 == 0,
            "confidence": 0.75,
            "loss": math.nan,
            "reason": "",
        }
        for number in range(20)
    ]
    for step in (100, 200, 300):
        store_evaluation(db, evaluation(step, 10, problems=told))
        store_passive(db, passive(step, 3))
    enter(db, recorded(100, 1.0, "bin", 1), recorded(200, 1.2, "bin", 1), recorded(300, 1.1, "bin", 1))
    status = places.campaigns / HERO / NAME / "status"
    write_json(status / "curriculum_state.json", {"schema_version": 1, "skills": {"bin": {"current_level": 0}}})
    write_json(places.status / "sparring.json", {"last_session": {"timestamp": "1", "training_examples": 12}, "history": []})


def test_a_filled_campaign_is_reported_as_it_is(places: Places, db: Database) -> None:
    fill(db, places)
    curriculum = run_report(places, "curriculum_optimization", db=db)["skills"]["bin"]
    assert (curriculum["level"], curriculum["training_level"], curriculum["accuracy"], curriculum["trend"]) == (0, 1, 0.5, "steady")
    assert run_report(places, "confidence_calibration", db=db)["ece"] == pytest.approx(0.25)
    assert run_report(places, "regression_monitoring", db=db)["total_regressions"] == 1
    assert run_report(places, "self_correction", db=db)["total_corrections"] == 12
    hard = run_report(places, "hard_examples", {"limit": 3}, db=db)
    assert (hard["hard"], len(hard["examples"]), hard["examples"][0]["times_wrong"]) == (10, 3, 3)
    assert hard["examples"][0]["avg_loss"] is None  # NaN is not known
    assert run_report(places, "adversarial_mining", db=db)["latest_summary"]["total_examples"] == 10
    assert run_report(places, "automated_testing", db=db)["total_tests"] == 25
    assert run_report(places, "skill_radar", db=db)["axes"][0]["value"] == 0.5
    everything = run_report(places, "overview", db=db)
    assert everything["reports"]["regression_monitoring"]["status"] == "healthy"
    assert everything["reports"]["layer_drift"] == {"status": "no data", "generated_at": None, "age_seconds": None}


def test_item_47_a_report_flags_exploding_and_vanishing_weights_of_the_newest_checkpoint(
    places: Places, folder: CampaignFolder, db: Database
) -> None:
    base = save_weights(places.base / "base", layered(4))
    checkpoint(db, places, folder, 100, layered(4, scale={3: 1.5}))
    drift = run_report(places, "layer-drift", {"base": str(base)}, db=db)
    assert (drift["step"], drift["pattern"], drift["layers"][4]["drift"]) == (100, "top_heavy", pytest.approx(0.5, abs=1e-6))
    assert run_report(places, "parameter_stability", db=db)["status"] == "healthy"
    broken = layered(4, scale={0: 1e-6, 2: 500.0})
    broken["model.norm.weight"][0] = np.nan
    checkpoint(db, places, folder, 200, broken)
    later = ManualClock()
    later.jump(10 * 365 * 86400)
    stable = run_report(places, "parameter_stability", db=db, clock=later)
    kinds = {(alert["parameter"], alert["kind"]) for alert in stable["alerts"]}
    assert ("model.layers.2.mlp.up_proj.weight", "exploding") in kinds
    assert ("model.layers.2.mlp.up_proj.weight", "spike") in kinds
    assert ("model.layers.0.mlp.up_proj.weight", "vanishing") in kinds
    assert ("model.norm.weight", "not_finite") in kinds
    assert stable["status"] == "critical"
    run_report(places, "layer_drift", {"base": str(base)}, db=db)
    assert [entry["step"] for entry in written(places, folder, "layer_drift")["history"]] == [100, 200]
    whole = run_report(places, "training_analytics", db=db)
    assert whole["status"] == "critical"
    assert whole["parameter_stability"]["counts"]["exploding"] >= 1
    assert whole["data_file_impact"] is None


def test_weights_that_were_measured_are_not_read_again(places: Places, folder: CampaignFolder, db: Database) -> None:
    base = save_weights(places.base / "base", layered(2))
    path = checkpoint(db, places, folder, 100, layered(2))
    clock = ManualClock()
    first = {name: run_report(places, name, options, db=db, clock=clock) for name, options in weights_reports(base)}
    (path / "model.safetensors").rename(path / "gone")
    clock.advance(3600)
    for name, options in weights_reports(base):
        assert run_report(places, name, options, db=db, clock=clock) == first[name]  # no whole checkpoint: what stands stays
    (path / "gone").rename(path / "model.safetensors")
    for name, options in weights_reports(base):
        assert run_report(places, name, options, db=db, clock=clock)["generated_at"] == first[name]["generated_at"]
        assert run_report(places, name, {**options, "force": True}, db=db, clock=clock)["generated_at"] == stamp(clock.now())


def weights_reports(base: Path) -> list[tuple[str, dict[str, Any]]]:
    return [("layer_drift", {"base": str(base)}), ("parameter_stability", {})]


def test_the_base_model_is_the_campaigns(tmp_path: Path) -> None:
    """A real campaign of the tiny hero, whose base model is in the package."""
    from helpers.guild_house import make_house
    from modelwright.tiny import tiny_model_path

    places = make_house(tmp_path)
    base = tiny_model_path("modelwright/tiny-0.4m")
    made = run_report(places, "layer_drift", {"checkpoint": str(base), "step": 0})
    assert (made["base_model"], made["overall"], made["hero_id"]) == (str(base), 0.0, "tiny")


def test_item_47_a_trained_file_shows_in_the_summary_with_the_evaluation_that_follows(
    places: Places, folder: CampaignFolder, db: Database
) -> None:
    store_evaluation(db, evaluation(0, 4))
    open_impact(
        db, folder, job=1, file="a.jsonl", owner=current_identity(), attempt=1, start_step=0, steps_left=10, total_steps=10, rows=50,
        val_loss=2.0, skill="bin", level=1,
    )  # fmt: skip
    close_impact(db, folder, job=1, attempt=1, outcome="completed", end_step=10, val_loss=1.0)
    before = run_report(places, "data_file_impact", db=db)
    assert (before["files"], before["recent"][0]["score_terms"]) == (1, ["val_loss"])
    store_evaluation(db, evaluation(10, 14))
    after = run_report(places, "data_file_impact", db=db)
    assert after["recent"][0]["accuracy_delta"] == pytest.approx(0.5)
    assert after["recent"][0]["impact_score"] == pytest.approx((0.3 * 0.5 + 0.2 * 0.5) / 0.5)
    assert document_path(places, "data_file_impact", folder).name == "data_file_summary.json"
    turns = run_report(places, "cycles", db=db)
    assert turns["cycles"][0]["evaluations"] == [{"step": 10, "skill": "bin", "level": 1, "accuracy": 0.7, "problems": 20}]


def test_base_against_trained_is_the_comparison_of_the_baselines(places: Places) -> None:
    def baseline(tag: str, correct: int) -> None:
        entry = {"skill": "syllo_10level", "category": "trained", "total": 20, "correct": correct, "accuracy": correct / 20}
        told = {"tag": tag, "timestamp": "2026-01-01T00:00:00Z", "samples_per_skill": 20, "skills": {"syllo_10level": entry}}
        write_json(places.baselines / f"baseline_{tag}.json", told)

    places.baselines.mkdir(parents=True, exist_ok=True)
    baseline("base_tiny", 4)
    baseline("trained_100", 14)
    made = run_report(places, "skill_metrics")
    assert made["status"] == "ok"
    assert made["skills"]["syllo_10level"]["improvement"] == pytest.approx(0.5)
    assert made["syllo_10level"]["syllo_10level"]["trained"] == 0.7
    assert read_json(places.status / "skill_metrics.json")["base_model"] == "base_tiny"


def test_wrong_names_and_options_are_told(places: Places, tmp_path: Path) -> None:
    with pytest.raises(UnknownReportError, match=r"report: found 'drift'; allowed: layer_drift, .* Did you mean"):
        run_report(places, "drift")
    with pytest.raises(UsageError, match="cycles: found the option 'limit'; allowed: none"):
        run_report(places, "cycles", {"limit": 3})
    with pytest.raises(UsageError, match=r"limit: found 0; allowed: 1 to 10000"):
        run_report(places, "hard_examples", {"limit": 0})
    with pytest.raises(UsageError, match="campaign: found 'nobody'; allowed: hero/campaign"):
        run_report(places, "cycles", campaign="nobody")
    empty = Places(tmp_path / "empty")
    empty.base.mkdir()
    with pytest.raises(NoActiveCampaignError):
        run_report(empty, "cycles")


def test_a_field_that_another_program_added_stays(places: Places, folder: CampaignFolder) -> None:
    run_report(places, "cycles")
    path = document_path(places, "cycles", folder)
    write_json(path, {**read_json(path), "mine": 1})
    run_report(places, "cycles")
    assert read_json(path)["mine"] == 1


def test_reports_are_due_when_their_documents_are_old(places: Places) -> None:
    clock = ManualClock()
    assert due_reports(places, clock=clock) == list(REPORTS)
    for name in REPORTS:
        run_report(places, name, clock=clock)
    assert due_reports(places, clock=clock) == []
    clock.advance(300)
    assert "automated_testing" not in due_reports(places, clock=clock)
    assert "cycles" in due_reports(places, clock=clock)
    clock.advance(300)
    assert due_reports(places, clock=clock) == list(REPORTS)


def test_numbers_that_json_cannot_hold_become_null_wherever_they_stand() -> None:
    made = document("ok", ManualClock(), a=math.nan, b=[1.0, -math.inf, {"c": math.inf}], d=(True, None, 2))
    assert {name: made[name] for name in "abd"} == {"a": None, "b": [1.0, None, {"c": None}], "d": [True, None, 2]}


def test_unknown_is_worse_than_healthy_and_better_than_a_warning() -> None:
    assert worst(["ok", "healthy", "no data"]) == "no data"
    assert worst(["no data", "warning", "critical"]) == "critical"
    assert worst([]) == worst(["what?"]) == "no data"
    made = overview({"a": {"status": "healthy", "generated_at": "no time"}, "b": None}, ManualClock().now())
    assert (made["status"], made["counts"]) == ("healthy", {"healthy": 1, "no data": 1})
