"""An existing layout is read as it is: nothing is written, and its unknown fields stay. (acceptance 22, the campaigns' part)"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from guild.campaigns.activation import readable_status_file, status_file
from guild.campaigns.cli import main
from guild.campaigns.effective_config import build_effective
from guild.campaigns.lineage import lineage
from guild.campaigns.pointer import require_active
from guild.campaigns.store import create_campaign, find_campaign, list_campaigns
from guild.places import Places
from guild.templates import FOLDER


def snapshot(base: Path) -> dict[str, object]:
    """Every path with its bytes, its link's target, and its time of change."""
    found: dict[str, object] = {}
    for path in sorted(base.rglob("*")):
        state = path.lstat()
        content: object = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        found[str(path.relative_to(base))] = (content, state.st_mtime_ns, state.st_mode)
    return found


@pytest.fixture
def original(tmp_path: Path) -> Places:
    """A tree as the original system leaves it: naive local times, no schema versions, links under `status/`, extra fields."""
    places = Places.of(tmp_path)
    home = places.campaigns / "dio-qwen3-0.6b" / "campaign-001"
    for name in ("checkpoints", "status", "logs"):
        (home / name).mkdir(parents=True)
    document = {
        "id": "campaign-001", "hero_id": "dio-qwen3-0.6b", "name": "The First", "description": "",
        "created_at": "2025-11-20T10:00:00.123456",
        "status": "active", "starting_checkpoint": None, "starting_step": 0, "current_step": 184000, "total_examples": 2900000,
        "skills_focus": ["binary", "syllo"], "config_overrides": {"learning_rate": 1e-4}, "parent_campaign": None, "archived_at": None,
        "milestones": [{"step": 1000, "note": "first", "date": "2025-11-20T11:00:00", "metrics": {"loss": 2.1}, "by": "hand"}],
        "saga": {"chapter": 3},
    }  # fmt: skip
    (home / "campaign.json").write_text(json.dumps(document))
    (home / "status" / "training_status.json").write_text('{"status": "idle", "loss": NaN}')
    (places.current_model / "checkpoint-184000").mkdir(parents=True)
    places.status.mkdir()
    (places.status / "training_status.json").symlink_to("../campaigns/dio-qwen3-0.6b/campaign-001/status/training_status.json")
    (places.status / "checkpoint_ledger.json").write_text('{"version": "1.0.0", "checkpoints": {}}')
    places.control.mkdir()
    pointer = {"hero_id": "dio-qwen3-0.6b", "campaign_id": "campaign-001", "campaign_path": "campaigns/dio-qwen3-0.6b/campaign-001"}
    places.active_campaign.write_text(json.dumps({**pointer, "activated_at": "2025-11-20T10:00:00"}))
    places.state.write_text('{"status": "idle", "last_update": "2025-11-27T09:00:00", "reason": "Recovered from crash"}')
    (places.campaigns / "active").symlink_to("dio-qwen3-0.6b/campaign-001")
    config = {"_comment": "old", "model_name": "qwen3_0.6b", "base_model": "qwen3", "max_length": 4096, "profile": {"name": "emoji_think"}}
    places.config_file.write_text(json.dumps({**config, "auto_generate": {"enabled": False}, "snapshot_time": "03:00"}))
    shutil.copytree(FOLDER / "heroes", places.heroes)
    places.hosts.parent.mkdir()
    host = {"host": "trainer.lan", "role": "trainer", "devices": {"trainer": "cuda:0"}, "services": {}}
    places.hosts.write_text(json.dumps({"version": 3, "local_host": "4090", "default_trainer": "4090", "hosts": {"4090": host}}))
    return places


def test_item_22_adopting_writes_nothing(original: Places, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(original.base)
    active = require_active(original)
    assert active.campaign.current_step == 184000 and active.campaign.skills_focus == ("binary", "syllo")
    assert len(list_campaigns(original).campaigns) == 1
    effective = build_effective(original)
    assert effective.value.learning_rate == 1e-4 and effective.origins["learning_rate"] == "campaign"
    assert effective.value.current_step == 184000
    assert status_file(original, "training_status").parent == active.status
    assert readable_status_file(original, "checkpoint_ledger") == original.status / "checkpoint_ledger.json"
    assert len(lineage(original, active)) == 1
    for arguments in (["list"], ["active"], ["info", *active.key], ["lineage", *active.key], ["heroes"], ["list", "--json"]):
        assert main(["--base-dir", str(original.base), *arguments]) == 0
    assert "184,000" in capsys.readouterr().out
    assert snapshot(original.base) == before


def test_item_22_a_first_change_keeps_what_it_does_not_know_and_leaves_the_rest_alone(original: Places) -> None:
    from guild.campaigns.activation import activate
    from guild.campaigns.store import record_progress

    before = snapshot(original.base)
    old = require_active(original)
    record_progress(original, old, current_step=184016, total_examples=2900256)
    document = json.loads((old.path / "campaign.json").read_text())
    assert document["saga"] == {"chapter": 3} and document["milestones"][0]["by"] == "hand" and document["current_step"] == 184016
    made = create_campaign(original, "dio-qwen3-0.6b", "second")
    assert made.campaign.id == "campaign-002"
    activate(original, *made.key)
    assert find_campaign(original, *old.key).campaign.status == "paused"
    ours = ("campaigns/active", "campaigns/dio-qwen3-0.6b/campaign-001/campaign.json", "control/active_campaign.json")
    after = snapshot(original.base)
    contents = {name: value[0] for name, value in after.items() if isinstance(value, tuple)}
    for name, value in before.items():
        assert isinstance(value, tuple)
        assert name in ours or contents[name] == value[0], name
