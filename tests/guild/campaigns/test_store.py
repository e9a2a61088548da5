"""Campaigns: made whole, numbered once and for ever, archived by one move; under kills and under two processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guild.campaigns.activation import activate
from guild.campaigns.campaign import STATUS_FILES, read_campaign, update_campaign
from guild.campaigns.checkpoints import checkpoints_of, find_checkpoint, locate
from guild.campaigns.pointer import active_campaign
from guild.campaigns.store import add_milestone, archive_campaign, create_campaign, find_campaign, list_campaigns, record_progress
from guild.errors import RefusedError, UnknownCampaignError, UnknownHeroError, UnknownSkillError
from guild.places import Places
from helpers.guild_campaigns import model_checkpoint, new_house
from modelwright.errors import ConfigError, DamagedFileError, UsageError


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


def test_a_new_campaign_is_complete(places: Places) -> None:
    made = create_campaign(places, "tiny", " First ", skills=["binary", "sy", "bin"], description="why", config_overrides={"seed": 1})
    assert made.path == places.campaigns / "tiny" / "campaign-001"
    assert read_campaign(made.path) == made
    campaign = made.campaign
    assert (campaign.name, campaign.status, campaign.current_step, campaign.starting_checkpoint) == ("First", "paused", 0, None)
    assert campaign.skills_focus == ("bin", "sy") and campaign.config_overrides == {"seed": 1} and campaign.created_at.endswith("Z")
    assert all(folder.is_dir() for folder in (made.checkpoints, made.status, made.logs))
    documents = {path.stem: json.loads(path.read_text()) for path in made.status.iterdir()}
    assert set(documents) == set(STATUS_FILES)
    assert documents["checkpoint_ledger"]["checkpoints"] == {}  # an object, never a list
    assert all(document["schema_version"] == 1 for document in documents.values())


def test_item_23_ids_only_ever_grow(places: Places) -> None:
    made = [create_campaign(places, "tiny", f"run {n}").campaign.id for n in range(3)]
    assert made == ["campaign-001", "campaign-002", "campaign-003"]
    archive_campaign(places, "tiny", "campaign-003")
    assert create_campaign(places, "tiny", "next").campaign.id == "campaign-004"
    archive_campaign(places, "tiny", "campaign-004")
    shutil.rmtree(places.archive / "tiny")  # the archive was moved to another disk
    assert create_campaign(places, "tiny", "later").campaign.id == "campaign-005"
    assert create_campaign(places, "dio-qwen3-0.6b", "other").campaign.id == "campaign-001"


def test_ids_of_an_adopted_layout_without_a_counter_are_respected(places: Places) -> None:
    for folder in ("campaign-007", "campaign-1200"):
        (places.campaigns / "tiny" / folder).mkdir(parents=True)
    (places.archive / "tiny" / "campaign-1300-archived").mkdir(parents=True)
    assert create_campaign(places, "tiny", "x").campaign.id == "campaign-1301"


def test_a_damaged_counter_is_named_and_nothing_is_made(places: Places) -> None:
    create_campaign(places, "tiny", "x")
    (places.campaigns / "tiny" / ".campaign_ids.json").write_text('{"last": "two"}')
    with pytest.raises(DamagedFileError, match="greatest campaign number"):
        create_campaign(places, "tiny", "y")
    assert len(list_campaigns(places).campaigns) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda places: create_campaign(places, "tinny", "x"), UnknownHeroError),
        (lambda places: create_campaign(places, "tiny", " "), UsageError),
        (lambda places: create_campaign(places, "tiny", "x", skills=["chess"]), UnknownSkillError),
        (lambda places: find_campaign(places, "nobody", "campaign-001"), UnknownHeroError),
        (lambda places: find_campaign(places, "tiny", "campaign-009"), UnknownCampaignError),
        (lambda places: find_campaign(places, "tiny", "../tiny"), UnknownCampaignError),
        (lambda places: archive_campaign(places, "tiny", "campaign-009"), UnknownCampaignError),
    ],
)
def test_what_does_not_exist_is_a_typed_error(places: Places, call: Callable[[Places], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(places)
    assert not list_campaigns(places).campaigns


def test_item_23_archiving_moves_the_campaign_and_refuses_the_active_one(places: Places) -> None:
    first, second = create_campaign(places, "tiny", "a"), create_campaign(places, "tiny", "b")
    activate(places, *first.key)
    with pytest.raises(RefusedError, match="active"):
        archive_campaign(places, *first.key)
    done = archive_campaign(places, *second.key)
    assert done.path == places.archive / "tiny" / "campaign-002-archived" and not second.path.exists()
    assert done.campaign.status == "archived" and done.campaign.archived_at
    assert [folder.key for folder in list_campaigns(places).campaigns] == [first.key]
    assert [folder.key for folder in list_campaigns(places, archived=True).campaigns] == [second.key]
    assert find_campaign(places, *second.key).archived
    with pytest.raises(RefusedError, match="archived already"):
        archive_campaign(places, *second.key)


def test_unknown_fields_survive_every_change(places: Places) -> None:
    made = create_campaign(places, "tiny", "a")
    update_campaign(made.path, {"mood": {"bright": True}})
    add_milestone(places, made, 5, "half", {"loss": 1.5})
    record_progress(places, made, current_step=7, total_examples=70)
    activate(places, *made.key)
    content = json.loads((made.path / "campaign.json").read_text())
    assert content["mood"] == {"bright": True} and content["current_step"] == 7 and content["total_examples"] == 70
    assert [(item["step"], item["note"], item["metrics"]) for item in content["milestones"]] == [(5, "half", {"loss": 1.5})]


def test_a_broken_campaign_is_named_and_does_not_hide_the_others(places: Places) -> None:
    for name in "abc":
        create_campaign(places, "tiny", name)
    (places.campaigns / "tiny" / "campaign-001" / "campaign.json").write_text("{")
    update_campaign(places.campaigns / "tiny" / "campaign-002", {"id": "campaign-009"})
    found = list_campaigns(places)
    assert [folder.campaign.name for folder in found.campaigns] == ["c"]
    kinds = {path.name: type(error) for path, error in found.faults.items()}
    assert kinds == {"campaign-001": DamagedFileError, "campaign-002": ConfigError}


# --- starting from a checkpoint


def test_a_checkpoint_gives_step_and_parent(places: Places) -> None:
    parent = create_campaign(places, "tiny", "parent")
    path = model_checkpoint(parent.checkpoints, 99999)
    canonical = path.rename(path.with_name("checkpoint-100000-20260101-1200"))
    child = create_campaign(places, "tiny", "child", checkpoint=find_checkpoint(places, canonical)).campaign
    assert child.starting_step == child.current_step == 100000
    assert child.starting_checkpoint == "campaigns/tiny/campaign-001/checkpoints/checkpoint-100000-20260101-1200"
    link = child.parent_campaign
    assert link is not None and (link.hero_id, link.campaign_id, link.step) == ("tiny", "campaign-001", 100000)
    assert link.checkpoint == child.starting_checkpoint

    activate(places, "tiny", "campaign-002")
    archive_campaign(places, *parent.key)  # the stored path still leads to it
    archived = places.archive / "tiny" / "campaign-001-archived" / "checkpoints" / canonical.name
    assert locate(places, child.starting_checkpoint) == archived
    again = find_checkpoint(places, archived)
    assert again.parent is not None and again.parent.campaign_id == "campaign-001"


def test_a_checkpoint_named_through_the_active_link_belongs_to_its_campaign(places: Places) -> None:
    first = create_campaign(places, "tiny", "a")
    activate(places, *first.key)
    model_checkpoint(first.checkpoints, 5)
    found = find_checkpoint(places, "campaigns/active/checkpoints/checkpoint-5")
    assert found.stored == "campaigns/tiny/campaign-001/checkpoints/checkpoint-5"


def test_a_checkpoint_of_the_old_model_folder_has_no_parent(places: Places) -> None:
    path = model_checkpoint(places.current_model, 184000)
    found = find_checkpoint(places, path)
    assert (found.step, found.stored, found.parent) == (184000, "current_model/checkpoint-184000", None)


def test_checkpoints_that_cannot_be_used_are_refused(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no folder"):
        find_checkpoint(places, tmp_path / "checkpoint-5")
    (tmp_path / "work" / "checkpoint-5").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert find_checkpoint(places, "checkpoint-5").path == tmp_path / "work" / "checkpoint-5"  # typed there
    assert locate(places, "checkpoint-5") is None  # stored: the working directory has no say
    (tmp_path / "final").mkdir()
    with pytest.raises(UsageError, match="checkpoint-<step>"):
        find_checkpoint(places, tmp_path / "final")
    other = model_checkpoint(tmp_path / "o", 5, architectures=["Qwen3ForCausalLM"], vocab_size=151936)
    with pytest.raises(RefusedError, match=r"architecture: found Qwen3ForCausalLM.*vocabulary: found 151936"):
        create_campaign(places, "tiny", "x", checkpoint=find_checkpoint(places, other))
    assert not list_campaigns(places).campaigns


def test_checkpoints_of_a_campaign_are_compared_as_numbers(places: Places) -> None:
    made = create_campaign(places, "tiny", "a")
    for folder, step in ((made.checkpoints, 99999), (made.checkpoints, 100000), (made.path / "runs" / "r1" / "checkpoints", 100001)):
        model_checkpoint(folder, step)
    (made.checkpoints / "checkpoint-7.tmp").mkdir()
    assert [step for step, _ in checkpoints_of(made)] == [99999, 100000, 100001]


# --- two processes, and kills


def _create_many(base: str, count: int, answers: multiprocessing.Queue[list[str]]) -> None:
    places = Places.of(base)
    answers.put([create_campaign(places, "tiny", f"n{n}").campaign.id for n in range(count)])


def test_two_processes_never_share_an_id(places: Places) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[list[str]] = context.Queue()
    children = [context.Process(target=_create_many, args=(str(places.base), 10, answers)) for _ in range(3)]
    for child in children:
        child.start()
    ids = [id for _ in children for id in answers.get(timeout=120)]
    for child in children:
        child.join()
    assert len(ids) == len(set(ids)) == 30
    assert sorted(ids) == sorted(folder.campaign.id for folder in list_campaigns(places).campaigns)


def _killed_at(point: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child that dies by SIGKILL at its n-th rename, link or new folder. Whether it died."""
    child = os.fork()
    if child == 0:
        left = [point]

        def count(event: str, _: tuple[object, ...]) -> None:
            if event in ("os.rename", "os.symlink", "os.mkdir", "os.remove"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_write_leaves_old_or_new_and_no_id_is_used_twice(places: Places) -> None:
    """The point of the kill moves over every rename, link and folder of make + activate + archive until the work passes."""
    activate(places, *create_campaign(places, "tiny", "base").key)
    point, seen, deaths = 1, {"campaign-001"}, 0

    def work() -> None:
        before = active_campaign(places)
        made = create_campaign(places, "tiny", f"p{point}")
        activate(places, *made.key)
        assert before is not None
        archive_campaign(places, *before.key)

    while _killed_at(point, work):
        deaths += 1
        found = list_campaigns(places)
        assert not found.faults, found.faults
        everywhere = [folder.campaign.id for folder in (*found.campaigns, *list_campaigns(places, archived=True).campaigns)]
        assert len(everywhere) == len(set(everywhere))
        active = active_campaign(places)
        assert active is not None and active.campaign.id in everywhere  # the old one or the new one, never none
        made = create_campaign(places, "tiny", "after the kill")
        assert made.campaign.id not in seen | set(everywhere)
        seen |= {made.campaign.id, *everywhere}
        point += 1
    assert deaths > 15
    assert active_campaign(places) is not None
    assert not list(places.campaigns.rglob(".new*"))
