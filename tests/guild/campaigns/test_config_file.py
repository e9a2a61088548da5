"""`config.json`: every range with its field named, and edits under the guardrails G3 and G4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guild.campaigns.activation import activate
from guild.campaigns.config_file import edit_config_file, installation_config, read_config_file
from guild.campaigns.store import create_campaign
from guild.errors import RefusedError
from guild.places import Places
from helpers.guild_campaigns import model_checkpoint, new_house, toy_daemon
from modelwright.errors import ConfigError, DamagedFileError

FULL_AUTO = {"enabled": True, "host": "trainer.lan", "port": 8090, "count": 100, "priority": "low"}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


def write(places: Places, **content: Any) -> None:
    places.config_file.write_text(json.dumps(content))


def paths(places: Places) -> set[str]:
    with pytest.raises(ConfigError) as refused:
        read_config_file(places)
    return {fault.path for fault in refused.value.faults}


def test_no_file_is_all_defaults(places: Places) -> None:
    assert read_config_file(places) == {}
    config = installation_config(places)
    assert (config.poll_interval, config.snapshot_time, config.auto_generate.enabled) == (60.0, "02:00", False)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"max_length": 127}, "max_length"),
        ({"max_length": 32769}, "max_length"),
        ({"learning_rate": 9e-7}, "learning_rate"),
        ({"learning_rate": 0.011}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 129}, "batch_size"),
        ({"gradient_accumulation": 0}, "gradient_accumulation"),
        ({"gradient_accumulation": 129}, "gradient_accumulation"),
        ({"lora_r": -1}, "lora_r"),
        ({"lora_r": 1025}, "lora_r"),
        ({"snapshot_time": "24:00"}, "snapshot_time"),
        ({"snapshot_time": "2:30"}, "snapshot_time"),
        ({"model_path": "models/nowhere"}, "model_path"),
        ({"profile": {"name": "nothing"}}, "profile.name"),
        ({"poll_intervall": 5}, "poll_intervall"),
        *(({"auto_generate": {**FULL_AUTO, gone: None}}, "auto_generate") for gone in ("count", "priority")),
        ({"watchdog": {"step_limit_s": 0}}, "watchdog.step_limit_s"),
        ({"watchdog": {"restarts": 0}}, "watchdog.restarts"),
    ],
)  # fmt: skip
def test_item_10_each_range_is_enforced_with_the_field_named(places: Places, content: dict[str, Any], field: str) -> None:
    write(places, model_name="m", **content)
    assert paths(places) == {field}


def test_item_10_the_model_name_must_be_there_and_all_faults_come_at_once(places: Places) -> None:
    write(places, max_length=1, model_path="models/nowhere", snapshot_time="noon")
    assert paths(places) == {"model_name", "max_length", "model_path", "snapshot_time"}


def test_a_complete_file_passes_and_remarks_are_left_alone(places: Places) -> None:
    (places.models / "m").mkdir()
    write(places, model_name="m", model_path="models/m", auto_generate=FULL_AUTO, snapshot_time="23:59", _comment="mine")
    assert "_comment" not in read_config_file(places)
    assert installation_config(places).auto_generate.count == 100
    places.config_file.write_text("{")
    with pytest.raises(DamagedFileError):
        read_config_file(places)


def test_a_skill_has_its_own_address_so_host_and_port_may_be_absent(places: Places) -> None:
    write(places, model_name="m", auto_generate={"enabled": True, "count": 5, "priority": "low"})
    section = installation_config(places).auto_generate
    assert (section.enabled, section.host, section.port) == (True, None, None)


def test_the_first_setting_of_a_house_begins_the_file(places: Places) -> None:
    with pytest.raises(ConfigError, match=r"model_name: found none.*give model_name=ID") as refused:
        edit_config_file(places, {"poll_interval": 30})
    assert len(refused.value.faults) == 1 and not places.config_file.exists()
    assert edit_config_file(places, {"poll_interval": 30, "model_name": "tiny"}) == ["poll_interval", "model_name"]
    places.config_file.unlink()
    folder = create_campaign(places, "tiny", "First")
    activate(places, *folder.key)
    model_checkpoint(folder.checkpoints, 10)  # model_name is locked from here on, which the beginning of the file is no change of
    assert edit_config_file(places, {"poll_interval": 30}) == ["poll_interval"]
    assert json.loads(places.config_file.read_text())["model_name"] == "tiny"


def test_edits_keep_everything_else(places: Places) -> None:
    write(places, model_name="m", _comment="mine", auto_generate={"enabled": False, "count": 5})
    assert edit_config_file(places, {"poll_interval": 30, "auto_generate": {"count": 7}}) == ["poll_interval", "auto_generate"]
    content = json.loads(places.config_file.read_text())
    assert content["_comment"] == "mine" and content["auto_generate"] == {"enabled": False, "count": 7} and content["schema_version"] == 1
    assert edit_config_file(places, {"poll_interval": 30}) == []
    before = places.config_file.read_bytes()
    with pytest.raises(ConfigError, match="poll_interval"):
        edit_config_file(places, {"poll_interval": -1})
    assert places.config_file.read_bytes() == before


def test_g3_locked_fields_once_there_are_checkpoints(places: Places) -> None:
    write(places, model_name="m", max_length=512)
    assert edit_config_file(places, {"model_name": "n", "max_length": 1024}) == ["model_name", "max_length"]
    model_checkpoint(create_campaign(places, "tiny", "x").checkpoints, 5)
    before = places.config_file.read_bytes()
    for unlock in ({}, {"unlock": True}, {"unlock": True, "reason": " "}, {"reason": "because"}):
        with pytest.raises(RefusedError, match=r"max_length: locked.*--unlock"):
            edit_config_file(places, {"max_length": 2048}, **unlock)  # type: ignore[arg-type]
    assert places.config_file.read_bytes() == before
    assert edit_config_file(places, {"max_length": 1024, "poll_interval": 5}) == ["poll_interval"]  # the same value is no change
    assert edit_config_file(places, {"max_length": 2048}, unlock=True, reason="new base") == ["max_length"]
    entry = json.loads((places.logs / "config_changes.jsonl").read_text())
    assert (entry["what"], entry["before"], entry["after"], entry["reason"]) == ("config.json: max_length", 1024, 2048, "new base")


def test_g3_counts_the_checkpoints_of_the_old_model_folder(places: Places) -> None:
    write(places, model_name="m")
    model_checkpoint(places.current_model, 184000)
    with pytest.raises(RefusedError, match="model_name: locked"):
        edit_config_file(places, {"model_name": "n"})


def test_g4_no_edit_while_training_runs(places: Places) -> None:
    write(places, model_name="m")
    with toy_daemon(places), pytest.raises(RefusedError, match="Pause it first"):
        edit_config_file(places, {"poll_interval": 5})
    assert edit_config_file(places, {"poll_interval": 5}) == ["poll_interval"]
