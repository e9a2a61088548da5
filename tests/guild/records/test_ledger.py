from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from guild.errors import RefusedError
from guild.places import Places
from guild.records import ledger
from guild.records.checkpoint_marks import rename_to_canonical
from guild.records.checkpoint_record import CampaignId, CheckpointFacts
from guild.records.checkpoint_sidecars import read_sidecar
from guild.records.database import open_guild
from guild.records.evaluation_queue import due_after_save, in_order
from guild.records.ledger_summary import get_summary
from helpers.guild_records import in_processes, write_campaign, write_checkpoint
from modelwright.clock import ManualClock
from modelwright.errors import UsageError

DIO = CampaignId("dio-qwen3-0.6b", "campaign-001")
TITAN = CampaignId("titan-qwen3-4b", "campaign-001")
FIELDS = {
    "step", "timestamp", "path", "canonical_name", "train_loss", "val_loss", "learning_rate", "epoch", "accuracy", "perplexity",
    "created_by", "training_file", "skill_name", "skill_level", "total_examples_trained", "size_bytes", "has_optimizer", "ledger_version",
}  # fmt: skip


@pytest.fixture
def places(tmp_path: Path) -> Places:
    write_campaign(tmp_path)
    write_campaign(tmp_path, TITAN.hero_id, TITAN.campaign_id, "2025-12-01T00:00:00Z")
    return Places(tmp_path)


def checkpoints(places: Places, campaign: CampaignId = DIO) -> Path:
    return places.campaigns / campaign.hero_id / campaign.campaign_id / "checkpoints"


def document(places: Places) -> dict[str, object]:
    return dict(json.loads((places.status / "checkpoint_ledger.json").read_text()))


def test_item_20_a_save_makes_canonical_name_sidecar_entry_and_evaluations_of_both_priorities(places: Places) -> None:
    moment = datetime(2025, 11, 27, 14, 30, tzinfo=UTC)
    plain = write_checkpoint(checkpoints(places), "checkpoint-5000")
    path = rename_to_canonical(plain, 5000, moment)
    facts = CheckpointFacts(1.5, 1.6, 1e-4, 0.5, 0.8, 4.9, "train_bin.jsonl", "binary", 3, 80000, extra={"prompt_date": "2025-11-27"})
    with open_guild(places) as db:
        ledger.record(db, places, path, facts=facts, clock=ManualClock(moment))
        found = ledger.get(db, 5000, DIO)
    assert found is not None and path.name == "checkpoint-5000-20251127-1430" == found.canonical_name
    sidecar = json.loads((path / ".ledger.json").read_text())
    assert FIELDS | {"hero_id", "campaign_id", "schema_version"} <= set(sidecar)
    assert sidecar["timestamp"] == "2025-11-27T14:30:00Z" and sidecar["created_by"] == "training_daemon"
    assert sidecar["ledger_version"] == "1.0.0" and sidecar["has_optimizer"] is True and sidecar["prompt_date"] == "2025-11-27"
    assert sidecar["size_bytes"] == sum(file.stat().st_size for file in path.iterdir() if file.name != ".ledger.json")
    exported = document(places)
    assert exported["checkpoint_count"] == 1 and exported["version"] == "1.0.0" and exported["schema_version"] == 1
    assert exported["checkpoints"] == {f"{DIO.key}/5000": sidecar} == {found.key: found.model_dump()}
    own = json.loads((checkpoints(places).parent / "status" / "checkpoint_ledger.json").read_text())
    assert own["checkpoints"] == exported["checkpoints"]
    due = in_order(due_after_save(5000, 4000, {"bin": 3, "syllo": 1}))
    assert [(entry.skill, entry.level, entry.eval_type, entry.priority) for entry in due] == [
        ("bin", 3, "quick", 10), ("sy", 1, "quick", 10), ("bin", None, "full", 6), ("sy", None, "full", 6),
    ]  # fmt: skip
    assert [entry.eval_type for entry in due_after_save(4999, 4000, {"bin": 3})] == ["quick"]
    assert [entry.eval_type for entry in due_after_save(5200, 4800, {"bin": 3})] == ["quick", "full"]


def test_item_21_get_latest_compares_steps_as_numbers_and_takes_both_kinds_of_names(places: Places) -> None:
    with open_guild(places) as db:
        assert ledger.get_latest(db) is None
        for name in ("checkpoint-99999", "checkpoint-100000-20251127-1430", "checkpoint-9000"):
            ledger.record(db, places, write_checkpoint(checkpoints(places), name))
        latest = ledger.get_latest(db)
        assert latest is not None and latest.step == 100000
        assert [found.step for found in ledger.list_all(db)] == [100000, 99999, 9000]
        plain = ledger.get(db, 99999)
        assert plain is not None and plain.canonical_name == "checkpoint-99999"


def test_two_campaigns_with_the_same_step_are_kept_apart(places: Places) -> None:
    with open_guild(places) as db:
        for campaign in (DIO, TITAN):
            ledger.record(db, places, write_checkpoint(checkpoints(places, campaign), "checkpoint-500"))
        assert [found.campaign for found in ledger.list_all(db)] == [DIO, TITAN] and len(ledger.list_all(db, DIO)) == 1
        with pytest.raises(UsageError, match="Name the campaign"):
            ledger.get(db, 500)
        found = ledger.get(db, 500, TITAN)
        assert found is not None and TITAN.hero_id in found.path
    assert list(document(places)["checkpoints"]) == [f"{DIO.key}/500", f"{TITAN.key}/500"]  # type: ignore[call-overload]


def test_the_best_is_chosen_by_a_named_metric_with_ties_to_the_later_step(places: Places) -> None:
    facts = {100: (2.0, 1.0, 0.5), 200: (1.0, 1.5, 0.75), 300: (3.0, 1.0, 0.75), 400: (math.nan, math.inf, None)}
    with open_guild(places) as db:
        assert ledger.get_best(db) is None
        for step, (train, val, accuracy) in facts.items():
            path = write_checkpoint(checkpoints(places), f"checkpoint-{step}")
            ledger.record(db, places, path, facts=CheckpointFacts(train_loss=train, val_loss=val, accuracy=accuracy))

        def best(metric: str, lower: bool | None = None) -> int:
            found = ledger.get_best(db, metric, lower)
            assert found is not None
            return found.step

        assert [best("val_loss"), best("train_loss"), best("accuracy"), best("accuracy", True)] == [300, 200, 300, 100]
        assert ledger.get_best(db, "perplexity") is None
        unknown = ledger.get(db, 400)
        assert unknown is not None and unknown.train_loss is None and unknown.val_loss is None
        with pytest.raises(ledger.UnknownMetricError, match="val_loss"):
            ledger.get_best(db, "val_los")


def test_the_summary_has_the_fields_of_the_contract(places: Places) -> None:
    empty = {"count": 0, "latest_step": None, "oldest_step": None, "best_loss": None, "worst_loss": None, "best_val_loss": None}
    with open_guild(places) as db:
        assert get_summary(db) == {**empty, "total_size_gb": 0.0, "skills_trained": []}
        for step, skill, loss in ((100, "syllo", 2.0), (20, "binary", 3.0), (3, None, 1.0)):
            path = write_checkpoint(checkpoints(places), f"checkpoint-{step}")
            ledger.record(db, places, path, facts=CheckpointFacts(train_loss=loss, skill_name=skill))
        db.execute("UPDATE checkpoints SET size_bytes = 2500000000 WHERE step = 20")
        summary = get_summary(db, DIO)
        assert get_summary(db, TITAN)["count"] == 0
        for name in ("bin", "binary"):
            assert [found.step for found in ledger.list_by_skill(db, name)] == [20]
    assert (summary["count"], summary["latest_step"], summary["oldest_step"]) == (3, 100, 3)
    assert (summary["best_loss"], summary["worst_loss"], summary["skills_trained"]) == (1.0, 3.0, ["bin", "sy"])
    assert summary["total_size_gb"] == 2.5


def test_a_save_that_was_cut_off_is_refused_and_nothing_is_written(places: Places) -> None:
    path = write_checkpoint(checkpoints(places), "checkpoint-500")
    (path / "model.safetensors").write_bytes(b"")
    (path / "config.json").unlink()
    with open_guild(places) as db:
        with pytest.raises(RefusedError) as refused:
            ledger.record(db, places, path)
        assert len(str(refused.value).splitlines()) == 2 and ledger.list_all(db) == []
    assert not (path / ".ledger.json").exists() and not places.status.exists()


def test_a_campaign_that_contradicts_the_place_is_refused(places: Places) -> None:
    path = write_checkpoint(checkpoints(places), "checkpoint-500")
    with open_guild(places) as db, pytest.raises(UsageError, match=TITAN.key):
        ledger.record(db, places, path, campaign=TITAN)
    loose = write_checkpoint(places.current_model, "checkpoint-500")
    with open_guild(places) as db:
        assert ledger.record(db, places, loose, campaign=TITAN).campaign == TITAN


def test_recording_again_keeps_fields_that_others_added_to_sidecar_and_export(places: Places) -> None:
    path = write_checkpoint(checkpoints(places), "checkpoint-500")
    with open_guild(places) as db:
        ledger.record(db, places, path)
        for file in (path / ".ledger.json", places.status / "checkpoint_ledger.json"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "note": "from elsewhere"}))
        ledger.record(db, places, path, facts=CheckpointFacts(train_loss=1.0))
    assert json.loads((path / ".ledger.json").read_text())["note"] == "from elsewhere" == document(places)["note"]
    sidecar = read_sidecar(path)
    assert sidecar is not None and sidecar.train_loss == 1.0


def test_deleted_checkpoints_leave_the_ledger_and_standing_ones_do_not(places: Places) -> None:
    import shutil

    paths = [write_checkpoint(checkpoints(places), f"checkpoint-{step}") for step in (1, 2)]
    with open_guild(places) as db:
        for path in paths:
            ledger.record(db, places, path)
        with pytest.raises(RefusedError, match="still stands"):
            ledger.forget(db, places, paths)
        shutil.rmtree(paths[0])
        ledger.forget(db, places, paths[:1])
        assert [found.step for found in ledger.list_all(db)] == [2]
    assert document(places)["checkpoint_count"] == 1


def test_of_two_folders_of_one_step_the_later_record_is_listed(places: Places) -> None:
    clock = ManualClock()
    names = ("checkpoint-500-20251127-1430", "checkpoint-500-20251127-1200")
    with open_guild(places) as db:
        for name in names:
            ledger.record(db, places, write_checkpoint(checkpoints(places), name), clock=clock)
            clock.advance(60)
        found = ledger.get(db, 500)
    assert found is not None and found.canonical_name == names[1]


def test_processes_that_record_at_once_lose_nothing(places: Places) -> None:
    paths = [write_checkpoint(checkpoints(places, campaign), f"checkpoint-{step}") for campaign in (DIO, TITAN) for step in range(1, 9)]
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def work(mine: list[Path], number: int) -> None:
        with open_guild(places) as db:
            for path in mine:
                ledger.record(db, places, path, clock=ManualClock(start + timedelta(seconds=number)))

    in_processes([lambda number=number: work(paths[number::4], number) for number in range(4)])  # type: ignore[misc]
    with open_guild(places) as db:
        found = {record.key: record.model_dump() for record in ledger.list_all(db)}
    assert len(found) == 16 and document(places)["checkpoints"] == found
    for path in paths:
        sidecar = read_sidecar(path)
        assert sidecar is not None and found[sidecar.key] == sidecar.model_dump()
