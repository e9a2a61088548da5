"""`guild ledger`, `guild backups`, `guild validate` and `guild train-4b` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guild import backups, checkpoint_ledger, train_4b_full, validate
from guild.naming import checkpoint_step
from guild.places import Places
from guild.queue.inbox import process_inbox
from guild.records import ledger
from guild.records.checkpoint_record import CampaignId
from guild.records.data_sidecars import new_data_sidecar, write_data_sidecar
from guild.records.database import open_guild
from guild.records.evaluation_records import new_evaluation
from guild.records.evaluations import evaluations_of, record_evaluation
from guild.records.lineage_documents import lineage_document
from helpers.guild_house import make_house
from helpers.guild_queue import age
from helpers.guild_records import write_checkpoint
from helpers.guild_training import write_rows
from modelwright.errors import UsageError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Places, Path]:
    """A house, and the checkpoint that the recipe made of two steps with the tiny hero, moved into its campaign."""
    base = tmp_path_factory.mktemp("house")
    places = make_house(base)
    data, output = write_rows(base / "rows.jsonl"), base / "outputs"
    words = ["--hero", "tiny", "--data", str(data), "--output", str(output), "--max-steps", "2", "--device", "cpu"]
    assert train_4b_full.main([*words, "--base-dir", str(base)]) == 0
    made = next(path for path in output.iterdir() if checkpoint_step(path.name) == 2)
    target = places.campaigns / "tiny" / "campaign-001" / "checkpoints" / made.name
    made.rename(target)
    return places, target


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return dict(json.loads(capsys.readouterr().out))


def test_the_ledger_finds_adopts_and_shows_a_checkpoint(trained: tuple[Places, Path], capsys: pytest.CaptureFixture[str]) -> None:
    places, path = trained
    base = ["--base-dir", str(places.base)]
    capsys.readouterr()
    assert checkpoint_ledger.main(["scan", "--json", *base]) == 0
    assert told(capsys)["orphans"] == [{"path": str(path.resolve()), "step": 2, "reasons": [], "outranked": False}]
    assert checkpoint_ledger.main(["show", "2", *base]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
    assert checkpoint_ledger.main(["adopt", str(path), *base]) == 0
    capsys.readouterr()
    for words in (["show", "2"], ["latest"], ["latest", "--campaign", "tiny/campaign-001"]):
        assert checkpoint_ledger.main([*words, "--json", *base]) == 0
        assert told(capsys)["step"] == 2
    assert checkpoint_ledger.main(["list", *base]) == 0
    assert path.name in capsys.readouterr().out
    assert checkpoint_ledger.main(["summary", "--json", *base]) == 0
    assert told(capsys)["count"] == 1
    assert checkpoint_ledger.main(["rebuild", *base]) == 0
    assert "1 checkpoints are listed" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--campaign"):
        checkpoint_ledger.main(["list", "--campaign", "nope", *base])


def test_a_rebuild_reads_back_what_lies_beside_checkpoints_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = make_house(tmp_path)
    path = write_checkpoint(places.campaigns / "tiny" / "campaign-001" / "checkpoints", "checkpoint-7")
    (places.inbox / "bad.jsonl").write_text("{broken\n")
    write_data_sidecar(places.inbox / "bad.jsonl", new_data_sidecar("bin_api", "1.0.0", 1))
    age(places.inbox / "bad.jsonl", 60)
    campaign = CampaignId("tiny", "campaign-001")
    with open_guild(places) as db:
        ledger.record(db, places, path)
        made = new_evaluation(campaign, 7, "bin", 2, correct=18, total=20, timestamp="2026-01-01T00:00:00Z")
        record_evaluation(db, places, made)
        assert list(process_inbox(db, places).rejected) == ["bad.jsonl"]
        before = lineage_document(db)
    for file in [*tmp_path.glob("guild.db*"), *places.status.glob("*.json")]:
        file.unlink()
    capsys.readouterr()
    assert checkpoint_ledger.main(["rebuild", "--json", "--base-dir", str(tmp_path)]) == 0
    assert told(capsys) == {"schema_version": 1, "listed": 1, "evaluations": 1, "passives": 0, "verdicts": 1, "gone": [], "faults": []}
    with open_guild(places) as db:
        assert evaluations_of(db, campaign) and lineage_document(db) == before
        assert before["generators"]["bin_api@1.0.0"]["failed"] == 1
    for file in tmp_path.glob("guild.db*"):
        file.unlink()
    assert checkpoint_ledger.main(["adopt", str(path), "--base-dir", str(tmp_path)]) == 0
    with open_guild(places) as db:
        assert [one.correct for one in evaluations_of(db, campaign)] == [18]


def test_backups_are_made_checked_listed_and_restored(trained: tuple[Places, Path], capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--base-dir", str(trained[0].base)]
    capsys.readouterr()
    assert backups.main(["make", "--json", *base]) == 0
    name = told(capsys)["made"]
    assert backups.main(["list", "--json", *base]) == 0
    assert [one["name"] for one in told(capsys)["backups"]] == [name]  # type: ignore[index, attr-defined]
    assert backups.main(["check", *base]) == 0
    assert "sound" in capsys.readouterr().out
    assert backups.main(["restore", *base]) == 0
    assert "The former database is kept" in capsys.readouterr().out


def test_a_file_is_validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_rows(tmp_path / "good.jsonl")
    assert validate.main([str(good), "--schema", "chat_sft_v1", "--level", "deep"]) == 0
    assert "valid, 48 rows" in capsys.readouterr().out
    bad = tmp_path / "bad.jsonl"
    bad.write_text(good.read_text() + '{"messages": []}\n')
    assert validate.main([str(bad), "--schema", "chat_sft_v1", "--json"]) == 1
    report = told(capsys)
    assert report["valid"] is False and "line 49" in str(report["errors"])
    twice = tmp_path / "twice.jsonl"
    twice.write_text(good.read_text() * 2)
    assert validate.main([str(twice), "--level", "deep"]) == 0
    assert "warning: " in capsys.readouterr().out
    assert validate.main([str(twice), "--level", "deep", "--block", "duplicates=0.6"]) == 0
    assert validate.main([str(twice), "--level", "deep", "--block", "duplicates=0.1", "--block", "flow=0"]) == 1
    assert "stands in the file before" in capsys.readouterr().out
    for words in (["--max-length", "5"], ["--level", "deep", "--block", "duplicates"], ["--block", "duplicates=0"]):
        with pytest.raises(SystemExit) as ended:
            validate.main([str(good), *words])
        assert ended.value.code == 2
    with pytest.raises(UsageError, match="'duplicate'"):
        validate.main([str(good), "--level", "deep", "--block", "duplicate=0"])


def test_the_recipe_says_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = make_house(tmp_path / "house")
    data = write_rows(tmp_path / "rows.jsonl")
    words = ["--data", str(data), "--output", str(tmp_path / "o"), "--device", "cpu", "--base-dir", str(places.base)]
    assert train_4b_full.main(words) == 1  # the weights of 4 billion parameters are not on this machine
    assert "Qwen/Qwen3-4B" in capsys.readouterr().err
