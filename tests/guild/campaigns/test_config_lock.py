"""A campaign's lock: set by the first training, a mismatch refuses, and its removal is logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.config_lock import LockMismatchError, check_lock, create_lock, ensure_lock, read_lock, remove_lock
from guild.campaigns.effective_config import build_effective, start_config
from guild.campaigns.overrides import set_overrides
from guild.campaigns.store import create_campaign, record_progress
from guild.errors import RefusedError
from guild.places import Places
from helpers.guild_campaigns import model_checkpoint, new_house, toy_daemon
from modelwright.errors import ConfigError, DamagedFileError


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


def locked_campaign(places: Places, **overrides: Any) -> CampaignFolder:
    folder = create_campaign(places, "tiny", "x", config_overrides=overrides)
    ensure_lock(places, folder, build_effective(places, folder).value)
    return record_progress(places, folder, current_step=1, total_examples=8)


def test_the_first_training_sets_the_lock_and_later_ones_keep_it(places: Places) -> None:
    folder = locked_campaign(places)
    before = folder.lock_file.read_bytes()
    assert json.loads(before)["locked"] == {
        "base_model": "modelwright/tiny-0.4m", "model_architecture": "LlamaForCausalLM", "max_context_length": 256, "vocab_size": 1024,
        "model_version": "1",
    }  # fmt: skip
    ensure_lock(places, folder, build_effective(places, folder, sets=["learning_rate=1e-5"]).value)
    assert folder.lock_file.read_bytes() == before


def test_item_10_every_locked_field_that_differs_is_named_and_nothing_starts(places: Places) -> None:
    folder = locked_campaign(places)
    with pytest.raises(LockMismatchError) as refused:
        start_config(places, folder, sets=["max_length=128", "base_model=modelwright/tiny-1.5m", "vocab_size=7"])
    assert [fault.path for fault in refused.value.faults] == ["base_model", "max_context_length", "vocab_size"]
    assert "campaign of its own" in str(refused.value) and refused.value.exit_code == 1
    with pytest.raises(LockMismatchError):
        ensure_lock(places, folder, build_effective(places, folder, sets=["max_length=128"]).value)


def test_the_lock_is_the_campaigns_own(places: Places) -> None:
    locked_campaign(places)
    other = create_campaign(places, "tiny", "y", config_overrides={"max_length": 128})
    assert start_config(places, other).value.max_length == 128
    locked = read_lock(other)
    assert locked is not None and locked["max_context_length"] == 128


def test_a_lock_set_by_a_training_binds_from_the_first_step_on(places: Places) -> None:
    folder = create_campaign(places, "tiny", "x")
    start_config(places, folder)
    start_config(places, set_overrides(places, folder, {"max_length": 128}))  # nothing was trained, so nothing is lost
    locked = read_lock(folder)
    assert locked is not None and locked["max_context_length"] == 128
    model_checkpoint(folder.checkpoints, 5)
    with pytest.raises(LockMismatchError):
        set_overrides(places, folder, {"max_length": 256})
    by_hand = create_campaign(places, "tiny", "y")
    create_lock(places, by_hand, build_effective(places, by_hand).value)
    with pytest.raises(LockMismatchError):
        start_config(places, by_hand, sets=["max_length=128"])


def test_an_older_lock_with_another_spelling_of_the_model_agrees(places: Places) -> None:
    folder = create_campaign(places, "tiny", "x")
    folder.lock_file.write_text(json.dumps({"locked": {"base_model": "models/Tiny_0.4M/", "vocab_size": 1024}}))
    assert check_lock(folder, build_effective(places, folder).value)
    folder.lock_file.write_text("{}")
    with pytest.raises(DamagedFileError, match="no object `locked`"):
        start_config(places, folder)


def test_making_and_removing_by_hand(places: Places) -> None:
    folder = create_campaign(places, "tiny", "x")
    config = build_effective(places, folder).value
    with pytest.raises(RefusedError, match="no lock"):
        remove_lock(places, folder, "why not")
    create_lock(places, folder, config)
    with pytest.raises(RefusedError, match="already"):
        create_lock(places, folder, config)
    with pytest.raises(RefusedError, match="reason"):
        remove_lock(places, folder, " ")
    remove_lock(places, folder, "new tokenizer")
    assert read_lock(folder) is None
    entry = json.loads((places.logs / "config_changes.jsonl").read_text())
    assert entry["what"] == "tiny/campaign-001: lock" and entry["reason"] == "new tokenizer" and entry["before"]["vocab_size"] == 1024


def test_overrides_are_checked_before_they_are_written(places: Places) -> None:
    folder = locked_campaign(places, seed=1)
    done = set_overrides(places, folder, {"learning_rate": 1e-5, "optimizer_settings": {"muon": {"hidden_lr": 0.01}}})
    assert done.campaign.config_overrides == {"seed": 1, "learning_rate": 1e-5, "optimizer_settings": {"muon": {"hidden_lr": 0.01}}}
    before = (folder.path / "campaign.json").read_bytes()
    with pytest.raises(LockMismatchError):
        set_overrides(places, folder, {"max_length": 128})
    with pytest.raises(ConfigError, match="batch_size"):
        set_overrides(places, folder, {"batch_size": 0})
    with toy_daemon(places), pytest.raises(RefusedError, match="Training runs"):  # G4
        set_overrides(places, folder, {"seed": 2})
    assert (folder.path / "campaign.json").read_bytes() == before
    assert set_overrides(places, folder, {"seed": None}).campaign.config_overrides.get("seed") is None
