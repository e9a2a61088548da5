"""Activation: pointers that agree, running training paused and resumed, and status files that follow the active campaign."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from guild.campaigns.activation import activate, readable_status_file, refuse_while_training, status_file, training_state
from guild.campaigns.campaign import STATUS_FILES, read_campaign
from guild.campaigns.pointer import NoActiveCampaignError, active_campaign, active_key, require_active
from guild.campaigns.store import archive_campaign, create_campaign
from guild.control.daemon import daemon_liveness
from guild.control.signals import active as signals
from guild.control.signals import give
from guild.control.state import read_state, write_state
from guild.control.status import ORPHAN, get_status, may_resume
from guild.errors import RefusedError
from guild.places import Places
from guild.records import jobs
from guild.records.database import open_guild
from guild.training_controller import main as control
from helpers.guild_campaigns import eventually, new_house, toy_daemon
from helpers.guild_jobs import data_file, died
from modelwright.errors import DamagedFileError, UsageError
from modelwright.files import write_json
from modelwright.identity import current_identity


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


def two(places: Places) -> tuple[tuple[str, str], tuple[str, str]]:
    return create_campaign(places, "tiny", "a").key, create_campaign(places, "tiny", "b").key


def test_activation_writes_both_pointers(places: Places) -> None:
    first, second = two(places)
    with pytest.raises(NoActiveCampaignError):
        require_active(places)
    assert activate(places, *first).changed
    written = json.loads(places.active_campaign.read_text())
    assert {key: written[key] for key in ("hero_id", "campaign_id", "campaign_path")} == {
        "hero_id": "tiny", "campaign_id": "campaign-001", "campaign_path": "campaigns/tiny/campaign-001",
    }  # fmt: skip
    assert written["activated_at"].endswith("Z") and written["schema_version"] == 1
    assert os.readlink(places.campaigns / "active") == "tiny/campaign-001"
    assert not activate(places, *first).changed  # again changes nothing
    assert json.loads(places.active_campaign.read_text()) == written
    activate(places, *second)
    assert require_active(places).key == second
    states = [read_campaign(places.campaigns / "tiny" / id).campaign.status for id in ("campaign-001", "campaign-002")]
    assert states == ["paused", "active"]


def test_the_link_decides_and_the_document_stands_in_for_it(places: Places) -> None:
    first, _ = two(places)
    activate(places, *first)
    content = json.loads(places.active_campaign.read_text())
    write_json(places.active_campaign, {**content, "campaign_id": "campaign-002", "note": "kept"})  # a kill before the link
    key = active_key(places)
    assert key is not None and key.key == first and not key.agree
    activate(places, *first)
    key = active_key(places)
    assert key is not None and key.key == first and key.agree
    assert json.loads(places.active_campaign.read_text())["note"] == "kept"
    (places.campaigns / "active").unlink()
    assert require_active(places).key == first
    (places.campaigns / "active").symlink_to("tiny/campaign-077")  # leads nowhere
    assert require_active(places).key == first


def test_a_selected_campaign_that_is_gone_is_an_error_not_another_campaign(places: Places) -> None:
    first, _ = two(places)
    activate(places, *first)
    (places.campaigns / "tiny" / "campaign-001").rename(places.base / "elsewhere")
    with pytest.raises(RefusedError, match="is not at"):
        active_campaign(places)
    places.active_campaign.write_text('{"hero_id": "../x", "campaign_id": "campaign-001"}')
    with pytest.raises(DamagedFileError, match="names no campaign"):
        active_campaign(places)


def test_an_archived_campaign_is_not_activated(places: Places) -> None:
    first, second = two(places)
    activate(places, *first)
    archive_campaign(places, *second)
    with pytest.raises(RefusedError, match="archived"):
        activate(places, *second)


def test_status_names_mean_the_active_campaigns_files_and_are_no_links(places: Places) -> None:
    first, second = two(places)
    assert status_file(places, "checkpoint_ledger") == places.status / "checkpoint_ledger.json"
    for key in (first, second):
        activate(places, *key)
        for name in STATUS_FILES:
            path = status_file(places, f"{name}.json")
            assert path == places.campaigns / key[0] / key[1] / "status" / f"{name}.json" and path.is_file()
    assert not any(path.is_symlink() for path in places.status.rglob("*"))
    with pytest.raises(UsageError, match="evaluation_ledger"):
        status_file(places, "baselines")


def test_an_adopted_global_status_file_is_read_until_the_campaign_has_its_own(places: Places) -> None:
    first, _ = two(places)
    activate(places, *first)
    own = status_file(places, "checkpoint_ledger")
    own.unlink()
    assert readable_status_file(places, "checkpoint_ledger") is None
    write_json(places.status / "checkpoint_ledger.json", {"checkpoints": {}})
    write_json(places.curriculum_state, {"skills": {}})
    assert readable_status_file(places, "checkpoint_ledger") == places.status / "checkpoint_ledger.json"
    status_file(places, "curriculum_state").unlink()
    assert readable_status_file(places, "curriculum_state.json") == places.curriculum_state
    write_json(own, {"checkpoints": {}})
    assert readable_status_file(places, "checkpoint_ledger") == own


# --- with training


def step_of(path: Path) -> int:
    return int(json.loads(path.read_text())["current_step"])


def test_item_24_switching_pauses_training_and_later_writes_stay_with_the_new_campaign(places: Places) -> None:
    first, second = two(places)
    activate(places, *first)
    old = status_file(places, "training_status")
    with toy_daemon(places):
        eventually(lambda: step_of(old) > 3, "a few steps in the first campaign")
        done = activate(places, *second)
        assert done.paused and done.changed
        new = status_file(places, "training_status")
        assert new != old and new.parent.parent.name == "campaign-002"
        eventually(lambda: training_state(places) == "training", "training to go on")
        frozen = old.read_bytes()
        begun = step_of(new)
        eventually(lambda: step_of(new) > begun + 3, "steps in the second campaign")
        assert old.read_bytes() == frozen
        assert not any(signals(places).values())


def test_training_that_was_paused_before_stays_paused(places: Places) -> None:
    first, second = two(places)
    activate(places, *first)
    with toy_daemon(places):
        give(places, "pause", "lunch")
        eventually(lambda: read_state(places).status == "paused", "the pause")
        assert not activate(places, *second).paused
        assert read_state(places).status == "paused" and not signals(places)["resume"]


def test_item_24_training_that_does_not_pause_refuses_the_switch_and_takes_the_request_back(places: Places) -> None:
    first, second = two(places)
    activate(places, *first)
    with toy_daemon(places, obeys=False):
        with pytest.raises(RefusedError, match=r"did not pause within 0\.5 seconds"):
            activate(places, *second, wait_s=0.5)
        assert require_active(places).key == first
        assert not any(signals(places).values())


def test_a_state_left_by_a_dead_daemon_does_not_hold_up_a_switch(places: Places) -> None:
    first, second = two(places)
    activate(places, *first)
    with toy_daemon(places):
        pass
    assert read_state(places).status == "training" and training_state(places) == "idle"
    assert activate(places, *second, wait_s=0).changed
    write_state(places, "training")
    refuse_while_training(places, "this")


def test_settings_change_only_while_training_rests(places: Places) -> None:
    activate(places, *two(places)[0])
    with toy_daemon(places), pytest.raises(RefusedError, match="Pause it first"):
        refuse_while_training(places, "this")


# --- with a trainer that outlived its daemon


def test_a_trainer_that_outlived_its_daemon_still_trains(places: Places) -> None:
    """The daemon was killed, its trainer goes on: what is refused or paused for a daemon is refused or paused for it too. (G4, G5)"""
    first, second = two(places)
    activate(places, *first)
    with toy_daemon(places, trainer=True) as trainer:
        assert daemon_liveness(places) == "dead" and training_state(places) == "training"
        with pytest.raises(RefusedError, match="Pause it first"):
            refuse_while_training(places, "this")
        assert (get_status(places)["stale"], get_status(places)["notes"]) == (False, [ORPHAN])
        done = activate(places, *second)
        assert done.paused and done.changed
        eventually(lambda: training_state(places) == "training", "the trainer to go on")
        give(places, "pause", "lunch")
        eventually(lambda: training_state(places) == "paused", "the pause")
        assert may_resume(places)
        assert control(["--base-dir", str(places.base), "resume", "--wait", "30"]) == 0
        assert training_state(places) == "training"
        trainer.kill()
        trainer.wait()
        assert training_state(places) == "idle" and not may_resume(places) and get_status(places)["stale"]
        refuse_while_training(places, "this")


def test_a_campaign_in_which_a_file_is_held_is_not_archived(places: Places) -> None:
    first, second = two(places)
    activate(places, *second)
    with open_guild(places) as db:
        job = jobs.enqueue(db, data_file("a"))
        for owner, refused in ((current_identity(), True), (died(), False)):
            held = jobs.claim(db, owner, kinds=("train_file",))
            assert held is not None and held.id == job.id
            jobs.heartbeat(db, job.id, owner, campaign="/".join(first))
            if refused:
                with pytest.raises(RefusedError, match=r"a\.jsonl is being trained in it"):
                    archive_campaign(places, *first)
                assert (places.campaigns / "tiny" / first[1]).is_dir()
                jobs.release(db, job.id, owner)
        assert archive_campaign(places, *first).archived
