"""The model that a daemon's campaign begins with, as whole processes: said, recorded, and never written to. (specs/guild.md 2.1.1, G1)"""

from __future__ import annotations

import shutil
from pathlib import Path

from guild.campaigns.pointer import require_active
from guild.naming import checkpoint_step
from guild.records.checkpoint_marks import checkpoint_folders
from guild.records.database import open_guild
from helpers.guild_house import daemon, is_completed, make_house, put
from helpers.guild_watchdog import told
from modelwright.files import read_json, sha256_file, write_json
from modelwright.tiny import tiny_model_path


def test_a_campaign_without_a_checkpoint_goes_on_from_current_model_at_its_own_step(tmp_path: Path) -> None:
    house = make_house(tmp_path / "a house")
    document = require_active(house).path / "campaign.json"
    write_json(document, {**read_json(document), "current_step": 184000})  # as the original leaves it
    shutil.copytree(tiny_model_path("modelwright/tiny-0.4m"), house.current_model)
    before = {path.name: sha256_file(path) for path in house.current_model.iterdir()}
    put(house, "small.jsonl", 40)
    with daemon(house, "--until-empty") as running:
        assert running.wait() == 0
    assert f"Its model: {house.current_model}, step 184,000, the model in current_model/." in running.said()
    assert is_completed(house, "small.jsonl")
    steps = [checkpoint_step(path.name) for path in checkpoint_folders(require_active(house).checkpoints)]
    assert steps and min(step or 0 for step in steps) > 184000
    assert {path.name: sha256_file(path) for path in house.current_model.iterdir()} == before
    with open_guild(house) as db:
        assert told(db, "daemon.started")[0].data["model"] == {
            "source": "current_model", "path": str(house.current_model), "step": 184000,
        }  # fmt: skip
    with daemon(house, "--until-empty") as again:
        assert again.wait() == 0
    assert "the newest checkpoint of the campaign" in again.said()
