from __future__ import annotations

import json
from pathlib import Path

import pytest

from guild.records import evaluations, ledger, lineage_documents, orphans, passives
from guild.records.database import open_guild
from guild.records.evaluation_records import new_evaluation
from guild.records.lineage import rebuild_lineage
from guild.records.original_tree import adopt_tree
from helpers.guild_records import DIO, digests, original_tree, write_checkpoint

OURS = ("guild.db", ".guild-records/")


@pytest.mark.parametrize("form", ["object", "list"])
def test_item_22_an_existing_tree_is_adopted_with_every_file_byte_identical(tmp_path: Path, form: str) -> None:
    places = original_tree(tmp_path, form)
    before = digests(tmp_path)
    with open_guild(places) as db:
        adopted = adopt_tree(db, places)
        assert (adopted.checkpoints, adopted.evaluations, adopted.passives, adopted.lineage, adopted.faults) == (5, 2, 1, 1, ())
        steps = {record.step: record for record in ledger.list_all(db)}
        assert list(steps) == [184001, 184000, 183000, 100000, 99999] and {record.campaign for record in steps.values()} == {DIO}
        assert steps[184000].train_loss == pytest.approx(1.7) and steps[184000].model_dump()["future_field"] == {"kept": True}
        assert steps[184001].train_loss == 1.5 and steps[99999].val_loss is None
        assert [record.step for record in ledger.list_by_skill(db, "sy")] == [184000, 183000, 100000, 99999]
        found = evaluations.evaluations_of(db, DIO)
        assert [(item.skill, item.level, item.correct, item.total) for item in found] == [("bin", 2, 1, 5), ("sy", 2, 3, 5)]
        assert found[1].interval_low == pytest.approx(0.2307, abs=1e-4)
        assert [item.key for item in passives.passives_of(db, DIO)] == ["184000:arithmetic:lite:1.0.0"]
        lineage = lineage_documents.lineage_document(db)
        assert lineage["total_validations"] == 12 and lineage["summary"]["worst_generator"]["id"] == "syllo_api@1.0.0"
        assert adopt_tree(db, places).evaluations == 2  # once more changes nothing
        assert len(evaluations.evaluations_of(db, history=True)) == 2 and lineage_documents.lineage_document(db) == lineage
    after = digests(tmp_path)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(OURS) for name in after if name not in before)


@pytest.mark.parametrize("form", ["object", "list"])
def test_the_first_change_begins_the_exports_and_loses_nothing_that_the_original_knew(tmp_path: Path, form: str) -> None:
    places = original_tree(tmp_path, form)
    before = digests(tmp_path)
    path = write_checkpoint(tmp_path / "campaigns" / DIO.hero_id / DIO.campaign_id / "checkpoints", "checkpoint-185000")
    with open_guild(places) as db:
        adopt_tree(db, places)
        ledger.record(db, places, path)
        evaluations.record_evaluation(
            db, places, new_evaluation(DIO, 184000, "bin", 2, correct=18, total=20, timestamp="2026-01-01T00:00:00Z")
        )
        known = {record.key: record.model_dump() for record in ledger.list_all(db)}
        counted = evaluations.evaluations_of(db, problems=True)
    exported = json.loads((places.status / "checkpoint_ledger.json").read_text())
    assert exported["checkpoints"] == known and len(known) == 6
    assert form == "list" or exported["operator"] == "me"
    after = digests(tmp_path)
    for name in ("status/checkpoint_ledger.json", "status/evaluation_ledger.json", "current_model/checkpoint-184000/.evals.json"):
        assert after[f"{name}.original"] == before[name]
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {
        "status/checkpoint_ledger.json",
        "status/evaluation_ledger.json",
        "current_model/checkpoint-184000/.evals.json",
        f"campaigns/{DIO.key}/status/checkpoint_ledger.json",  # an empty list, of which there is nothing to keep
    }
    for file in [*tmp_path.glob("guild.db*"), places.status / "checkpoint_ledger.json"]:
        file.unlink()
    with open_guild(places) as db:
        adopt_tree(db, places)
        assert orphans.rebuild(db, places).listed == 6
        assert {record.key: record.model_dump() for record in ledger.list_all(db)} == known
        assert evaluations.evaluations_of(db, problems=True) == counted


def test_damage_in_an_original_document_is_named_and_hides_nothing_else(tmp_path: Path) -> None:
    places = original_tree(tmp_path, "object")
    (places.status / "evaluation_ledger.json").write_text('{"evaluations": [{"skill": "sy", "level": 1, "correct": 9, "total": 5}]}')
    (places.status / "passives_ledger.json").write_text("{broken")
    with open_guild(places) as db:
        adopted = adopt_tree(db, places)
        assert adopted.checkpoints == 5 and adopted.evaluations == 1
        assert "9 of 5" in adopted.faults[0] and "passives_ledger.json" in adopted.faults[1] and len(adopted.faults) == 2


def test_sidecars_that_the_original_lineage_counted_are_not_counted_twice(tmp_path: Path) -> None:
    places = original_tree(tmp_path, "object")
    places.inbox.mkdir()
    sidecar = {"generator_id": "syllo_api", "generator_version": "1.0.0", "generated_at": "2025-11-27T10:00:00", "example_count": 5}
    sidecar |= {"validated_at": "2025-11-27T10:01:00", "validation_passed": True, "validator_versions": {"spec_validator": "1.0.0"}}
    (places.inbox / "a.jsonl.meta.json").write_text(json.dumps(sidecar))
    with open_guild(places) as db:
        assert rebuild_lineage(db, places) == []
        assert lineage_documents.lineage_document(db)["total_validations"] == 12
    for file in [*tmp_path.glob("guild.db*"), *places.status.glob("data_lineage.json*")]:
        file.unlink()
    with open_guild(places) as db:
        rebuild_lineage(db, places)
        assert lineage_documents.lineage_document(db)["total_validations"] == 1
