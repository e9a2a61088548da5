"""Ancestors of a campaign, and children by a new base, hero or length."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guild.campaigns.activation import activate
from guild.campaigns.campaign import CampaignFolder, update_campaign
from guild.campaigns.checkpoints import find_checkpoint
from guild.campaigns.config_lock import ensure_lock
from guild.campaigns.effective_config import build_effective
from guild.campaigns.lineage import lineage, open_child
from guild.campaigns.store import archive_campaign, create_campaign, find_campaign, list_campaigns
from guild.errors import RefusedError
from guild.places import Places
from helpers.guild_campaigns import model_checkpoint, new_house
from modelwright.errors import ConfigError, UsageError


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


def chain_of_three(places: Places) -> list[CampaignFolder]:
    folders = [create_campaign(places, "tiny", "one")]
    for name, step in (("two", 100), ("three", 250)):
        start = find_checkpoint(places, model_checkpoint(folders[-1].checkpoints, step))
        folders.append(create_campaign(places, "tiny", name, checkpoint=start))
    return folders


def test_item_23_the_chain_has_the_root_first_and_follows_the_archive(places: Places) -> None:
    folders = chain_of_three(places)
    archive_campaign(places, *folders[0].key)
    chain = lineage(places, folders[2])
    assert [(link.campaign_id, link.step) for link in chain] == [("campaign-001", 100), ("campaign-002", 250), ("campaign-003", None)]
    assert chain[0].folder is not None and chain[0].folder.archived
    shutil.rmtree(places.archive / "tiny")
    assert [link.folder is None for link in lineage(places, folders[2])] == [True, False, False]


def test_a_circle_of_parents_is_an_error(places: Places) -> None:
    folders = chain_of_three(places)
    update_campaign(folders[0].path, {"parent_campaign": {"hero_id": "tiny", "campaign_id": "campaign-003"}})
    with pytest.raises(RefusedError, match="circle"):
        lineage(places, folders[2])


def test_a_stretched_model_opens_a_child_and_the_parent_keeps_its_lock(places: Places) -> None:
    parent = create_campaign(places, "tiny", "short", config_overrides={"seed": 3, "learning_rate": 1e-4}, skills=["bin"])
    ensure_lock(places, parent, build_effective(places, parent).value)
    activate(places, *parent.key)
    merged = model_checkpoint(places.base / "stretched", 400)
    child = open_child(places, parent, "long", merged, max_length=1024, context_length=2048, overrides={"learning_rate": 5e-5})
    value = build_effective(places, child).value
    assert (value.max_length, value.context_length, value.seed, value.learning_rate) == (1024, 2048, 3, 5e-5)
    assert (value.starting_checkpoint, value.current_step, value.skills_focus) == (str(merged), 400, ("bin",))
    link = child.campaign.parent_campaign
    assert link is not None and (link.campaign_id, link.step) == (parent.campaign.id, 400)
    milestone = find_campaign(places, *parent.key).campaign.milestones[-1]
    assert milestone.step == 400 and milestone.metrics == {"child_hero_id": "tiny", "child_campaign_id": "campaign-002"}
    assert [link.campaign_id for link in lineage(places, child)] == ["campaign-001", "campaign-002"]
    assert json.loads(parent.lock_file.read_text())["locked"]["max_context_length"] == 256


def test_a_child_of_another_hero_does_not_inherit_settings_made_for_the_first(places: Places) -> None:
    parent = create_campaign(places, "tiny", "x", config_overrides={"learning_rate": 1e-3})
    start = model_checkpoint(places.base / "grown", 10, architectures=["Qwen3ForCausalLM"], vocab_size=151936)
    child = open_child(places, parent, "grown", start, hero_id="dio-qwen3-0.6b")
    assert child.campaign.hero_id == "dio-qwen3-0.6b" and child.campaign.config_overrides == {}
    assert build_effective(places, child).value.learning_rate == 4e-4


def test_a_child_that_changes_nothing_locked_or_cannot_be_trained_is_not_made(places: Places) -> None:
    parent = create_campaign(places, "tiny", "x")
    start = model_checkpoint(parent.checkpoints, 5)
    with pytest.raises(UsageError, match="train on in the parent"):
        open_child(places, parent, "same", start)
    with pytest.raises(ConfigError, match="context_length"):
        open_child(places, parent, "too long", start, max_length=1024)
    assert len(list_campaigns(places).campaigns) == 1
    assert not find_campaign(places, *parent.key).campaign.milestones
