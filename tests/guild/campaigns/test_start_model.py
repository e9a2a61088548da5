"""Which model a campaign begins with: its own, what it was opened from, the house's, its hero's. (specs/guild.md 2.1.1, 10.1 no. 1, G1)"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.checkpoints import find_checkpoint
from guild.campaigns.effective_config import build_effective
from guild.campaigns.heroes import get_hero
from guild.campaigns.start_model import StartModel, start_model
from guild.campaigns.store import create_campaign, find_campaign
from guild.places import Places
from helpers.guild_campaigns import new_house
from modelwright.tiny import tiny_model_path

TINY = "modelwright/tiny-0.4m"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


@pytest.fixture
def first(places: Places) -> CampaignFolder:
    return create_campaign(places, "tiny", "First")


def model(folder: Path, *, step: int | None = None, resumable: bool = False, owner: CampaignFolder | None = None) -> Path:
    """A real whole model in a folder; a step in its trainer's state, the optimizer's file, and whose it is, on request."""
    shutil.copytree(tiny_model_path(TINY), folder)
    if step is not None:
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if resumable:
        (folder / "optimizer.pt").write_bytes(b"x")
    if owner is not None:
        hero, campaign = owner.key
        record = {"step": step, "timestamp": "2026-01-01T00:00:00Z", "path": str(folder), "canonical_name": folder.name}
        (folder / ".ledger.json").write_text(json.dumps({**record, "hero_id": hero, "campaign_id": campaign}))
    return folder


def start_of(places: Places, folder: CampaignFolder) -> StartModel:
    return start_model(places, folder, get_hero(places, folder.key[0]))


def test_with_nothing_in_the_house_it_is_the_base_model(places: Places, first: CampaignFolder) -> None:
    start = start_of(places, first)
    assert (start.source, start.path, start.passed_over) == ("base", None, ()) and "base model" in start.sentence
    assert build_effective(places, first).value.starting_checkpoint is None


def test_the_order_is_own_then_opened_from_then_current_model_then_snapshot(places: Places, first: CampaignFolder) -> None:
    snapshot = model(places.snapshots / "2026-01-02", step=30)
    model(places.snapshots / "2026-01-01", step=20)
    (places.snapshots / "2026-01-03").mkdir()  # a day whose snapshot failed
    assert (start_of(places, first).source, start_of(places, first).path, start_of(places, first).step) == ("snapshot", snapshot, 30)
    root = model(places.current_model)
    assert (start_of(places, first).source, start_of(places, first).path) == ("current_model", root)
    model(places.current_model / "checkpoint-99", step=99)
    newest = model(places.current_model / "checkpoint-100-20260101-1200", step=100)
    assert (start_of(places, first).path, start_of(places, first).step) == (newest, 100)
    assert build_effective(places, first).value.starting_checkpoint == str(newest)

    child = create_campaign(places, "tiny", "Child", checkpoint=find_checkpoint(places, places.current_model / "checkpoint-99"))
    assert (start_of(places, child).source, start_of(places, child).step) == ("opened from", 99)

    own = model(first.checkpoints / "checkpoint-7", step=7, resumable=True)
    start = start_of(places, first)
    assert (start.source, start.path, start.step) == ("campaign", own, 7) and "newest checkpoint of the campaign" in start.sentence
    assert build_effective(places, first).value.starting_checkpoint is None


def test_trap_1_current_model_serves_the_campaign_it_belongs_to_alone(places: Places, first: CampaignFolder) -> None:
    second = create_campaign(places, "tiny", "Second")
    model(places.current_model)
    model(places.snapshots / "2026-01-02", step=30)
    assert start_of(places, first).source == "current_model" and start_of(places, second).source == "base"
    theirs = model(places.current_model / "checkpoint-50", step=50, owner=second)
    assert start_of(places, second).path == theirs and start_of(places, first).path == places.current_model
    kept = model(places.snapshots / "2026-01-03", step=60, owner=second)
    shutil.rmtree(places.current_model)
    assert start_of(places, second).path == kept and start_of(places, first).path == places.snapshots / "2026-01-02"


def test_a_model_that_does_not_fit_or_is_not_whole_is_passed_over_with_a_sentence(places: Places, first: CampaignFolder) -> None:
    cut = model(places.current_model / "checkpoint-9", step=9)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    root = model(places.snapshots / "2026-01-02")
    config = json.loads((root / "config.json").read_text())
    (root / "config.json").write_text(json.dumps({**config, "vocab_size": 7, "architectures": ["Qwen3ForCausalLM"]}))
    start = start_of(places, first)
    assert start.source == "base" and len(start.passed_over) == 2
    assert "cut off" in start.passed_over[0] and "does not fit hero tiny" in start.passed_over[1]


def test_a_model_without_a_step_is_where_the_campaign_is(places: Places, first: CampaignFolder) -> None:
    document = first.path / "campaign.json"
    document.write_text(json.dumps({**json.loads(document.read_text()), "current_step": 184000}))
    model(places.current_model)
    assert start_of(places, find_campaign(places, *first.key)).step == 184000
