"""Which checkpoint is deployed: a declared metric, never the training loss. (specs/guild.md 8.3, 10.1 no. 10)"""

from __future__ import annotations

from pathlib import Path

import pytest

from guild.places import Places
from guild.records import ledger
from guild.records.checkpoint_record import CampaignId, CheckpointFacts
from guild.records.database import open_guild
from guild.records.evaluation_records import new_evaluation
from guild.records.evaluations import store_evaluation
from guild.records.ledger_summary import DeployChoice, best_to_deploy
from helpers.guild_records import write_campaign, write_checkpoint
from modelwright.database import Database

DIO = CampaignId("dio-qwen3-0.6b", "campaign-001")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    write_campaign(tmp_path)
    return Places(tmp_path)


def save(db: Database, places: Places, step: int, train: float, val: float | None = None) -> Path:
    path = write_checkpoint(places.campaigns / DIO.hero_id / DIO.campaign_id / "checkpoints", f"checkpoint-{step}")
    ledger.record(db, places, path, facts=CheckpointFacts(train_loss=train, val_loss=val))
    return path


def judged(db: Database, step: int, skill: str, level: int, correct: int, total: int = 20) -> None:
    store_evaluation(db, new_evaluation(DIO, step, skill, level, correct=correct, total=total, timestamp="2026-01-01T00:00:00Z"))


def chosen(choice: DeployChoice) -> tuple[int | None, str]:
    return (choice.record.step if choice.record else None), choice.metric


def test_accuracy_at_the_training_level_decides_then_validation_loss_and_never_the_training_loss(places: Places) -> None:
    with open_guild(places) as db:
        save(db, places, 100, train=0.1)
        choice = best_to_deploy(db, DIO, {"bin": 3})
        assert chosen(choice) == (None, "") and "nothing is deployed" in choice.reason
        save(db, places, 200, train=3.0, val=1.0)
        save(db, places, 300, train=2.0, val=1.0)
        save(db, places, 400, train=1.0, val=1.5)
        choice = best_to_deploy(db, DIO, {"bin": 3})
        assert chosen(choice) == (300, "val_loss") and choice.score == 1.0
        judged(db, 100, "bin", 2, 20)  # another level
        judged(db, 200, "bin", 3, 5, 5)  # too few problems
        assert chosen(best_to_deploy(db, DIO, {"binary": 3})) == (300, "val_loss")
        judged(db, 200, "bin", 3, 18)
        judged(db, 400, "bin", 3, 12)
        choice = best_to_deploy(db, DIO, {"binary": 3})
        assert chosen(choice) == (200, "evaluation_accuracy") and choice.score == 0.9
        assert "90.0%" in choice.reason and "bin level 3" in choice.reason
        judged(db, 400, "bin", 3, 18, 20)
        assert chosen(best_to_deploy(db, DIO, {"bin": 3})) == (400, "evaluation_accuracy")


def test_with_two_skills_the_mean_counts_over_checkpoints_that_have_both(places: Places) -> None:
    with open_guild(places) as db:
        for step in (100, 200, 300):
            save(db, places, step, train=1.0, val=step / 100)
        for step, skill, correct in ((100, "bin", 20), (200, "bin", 10), (200, "sy", 10), (300, "bin", 8), (300, "sy", 14)):
            judged(db, step, skill, 1, correct)
        choice = best_to_deploy(db, DIO, {"bin": 1, "syllo": 1})
        assert chosen(choice) == (300, "evaluation_accuracy") and choice.score == pytest.approx(0.55)
        assert chosen(best_to_deploy(db, DIO, {"bin": 1, "never_measured": 4})) == (100, "evaluation_accuracy")
        assert chosen(best_to_deploy(db, DIO, {"bin": 9})) == (100, "val_loss")


def test_a_checkpoint_that_is_no_longer_whole_is_not_deployed(places: Places) -> None:
    with open_guild(places) as db:
        path = save(db, places, 100, train=1.0, val=0.5)
        save(db, places, 200, train=1.0, val=0.9)
        judged(db, 100, "bin", 1, 20)
        (path / "model.safetensors").write_bytes(b"cut")
        assert chosen(best_to_deploy(db, DIO, {"bin": 1})) == (200, "val_loss")
