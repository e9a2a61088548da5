"""`guild init`: everything a base directory needs, for this machine, and nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guild.campaigns.heroes import list_heroes
from guild.hosts.registry import load_registry
from guild.init import find_devices, initialise, main
from guild.places import PRIORITIES, Places
from guild.templates import FOLDER
from modelwright.files import read_yaml
from modelwright.hardware import inventory


def tree(base: Path) -> dict[str, bytes]:
    return {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_it_writes_a_whole_house_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for name in ("config/hosts.json", "config/storage.json", "configs/schedule.yaml", "configs/heroes/tiny.yaml", "queue/high"):
        assert f"made  {name}" in text
    places = Places.of(tmp_path)
    assert all(places.level(priority).is_dir() for priority in PRIORITIES)
    registry = load_registry(places)
    assert registry.get_service_url("vault") == "http://127.0.0.1:8767"
    assert registry.get_service_url("skill_bin").endswith(":8090") and registry.get_service_url("skill_sy").endswith(":8080")
    assert registry.get_service_url("inference").endswith(":8765") and "branch" not in registry.services
    assert registry.get_host_base_dir("local") == str(tmp_path)
    shipped = {path.name for path in (FOLDER / "skills").glob("*.yaml")}
    assert "bin.yaml" in shipped and {path.name for path in places.skills.iterdir()} == shipped
    assert {hero.id for hero in list_heroes(places)} == {"dio-qwen3-0.6b", "titan-qwen3-4b", "tiny"}


def test_default_ports_are_those_of_the_table_and_none_is_shared(tmp_path: Path) -> None:
    initialise(Places.of(tmp_path), devices={})
    services = load_registry(Places.of(tmp_path)).get_local_host().services
    ports = {name: service.port for name, service in services.items() if service.port is not None}
    expected = {"tavern": 8888, "vault": 8767, "warden": 8760, "inference": 8765, "scheduler": 8766, "monitoring": 8081}
    assert ports == expected | {"skill_sy": 8080, "skill_bin": 8090, "ledger": 8767}  # the ledger is a part of the vault


def test_the_second_time_it_keeps_every_byte_and_adds_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = Places.of(tmp_path)
    initialise(places)
    (places.heroes / "tiny.yaml").write_text("mine: true\n")
    places.schedule.unlink()
    before = tree(tmp_path)
    assert main(["--base-dir", str(tmp_path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["made"] == ["configs/schedule.yaml"]
    assert {"config/hosts.json", "config/storage.json", "configs/heroes/tiny.yaml"} <= set(report["kept"])
    after = tree(tmp_path)
    assert after.pop("configs/schedule.yaml") and after == {name: data for name, data in before.items() if name in after}
    assert (places.heroes / "tiny.yaml").read_text() == "mine: true\n"


def test_devices_are_those_of_this_machine() -> None:
    devices, notice = find_devices()
    count = inventory().gpu_count
    if count == 0:
        assert devices == {"trainer": "cpu", "inference": "cpu"} and not notice
    elif count is not None:
        assert devices == {"trainer": "cuda:0", "inference": "cuda:1" if count > 1 else "cuda:0"}
    else:
        assert notice and devices["trainer"] == "cpu"


@pytest.mark.parametrize(("role", "lacks"), [("trainer", "inference"), ("inference", "vault")])
def test_one_of_two_machines(tmp_path: Path, role: str, lacks: str) -> None:
    initialise(Places.of(tmp_path), role=role, host_id="forge", address="forge.lan", devices={})
    registry = load_registry(Places.of(tmp_path))
    assert registry.local_id == "forge" and registry.get_host("forge").host == "forge.lan"
    assert lacks not in registry.services and ("branch" in registry.services) == (role == "inference")


def test_an_older_registry_is_kept_and_its_gaps_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = Places.of(tmp_path)
    places.hosts.parent.mkdir(parents=True)
    old = {"version": 3, "local_host": "a", "default_trainer": "a", "hosts": {"a": {"host": "a.lan", "role": "trainer"}}}
    places.hosts.write_text(json.dumps(old))
    assert main(["--base-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "lists no service ledger" in text and "hosts.a.devices.trainer" in text
    assert json.loads(places.hosts.read_text()) == old
    places.hosts.write_text("{}")
    assert main(["--base-dir", str(tmp_path)]) == 2
    assert "local_host: found nothing" in capsys.readouterr().err


def test_storage_and_schedule_hold_what_the_specification_names(tmp_path: Path) -> None:
    places = Places.of(tmp_path)
    initialise(places, devices={})
    storage = json.loads(places.storage.read_text())
    kept = {name: (folder["retention_days"], folder["max_size_gb"]) for name, folder in storage["folders"].items()}
    assert kept == {
        "checkpoints": (30, 3000), "models": (None, 2000), "backups": (90, 500), "logs": (180, 100),
        "training_data": (None, 2000), "snapshots": (14, 2000), "exports": (None, 500),
    }  # fmt: skip
    assert storage["sync_schedule"] == {**dict.fromkeys(kept, "daily"), "checkpoints": "on_save", "models": "on_deploy"}
    schedule = read_yaml(places.schedule)
    named = "balanced bin_focus bin_heavy bin_only catch_up sy_focus sy_heavy sy_only"
    assert sorted(schedule["presets"]) == named.split() and schedule["active"] in schedule["presets"]
    assert {preset["strategy"] for preset in schedule["presets"].values()} == {"equal", "focus", "weighted", "lowest_first"}
    assert schedule["settings"] == {"advancement_evals": 3, "batch_size": 100, "catch_up_threshold": 3}
