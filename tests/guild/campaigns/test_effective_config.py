"""The effective configuration: layers, origins, ranges, typed errors, and that every field reaches what is written beside a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guild.campaigns.activation import activate
from guild.campaigns.campaign import CampaignFolder, update_campaign
from guild.campaigns.checkpoints import find_checkpoint
from guild.campaigns.config_schema import EffectiveConfig
from guild.campaigns.effective_config import build_effective, config_digest, model_faults, read_effective, start_config, write_effective
from guild.campaigns.heroes import OPTIMIZERS
from guild.campaigns.layers import deep_merge, flat
from guild.campaigns.pointer import NoActiveCampaignError
from guild.campaigns.store import create_campaign
from guild.errors import UnknownOptimizerError, UnknownProfileError
from guild.places import Places
from guild.training.optimizers.settings import optimizer_settings
from helpers.guild_campaigns import model_checkpoint, new_house
from modelwright.errors import ConfigError, DamagedFileError, MissingFileError

TITAN, TINY = "titan-qwen3-4b", "tiny"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


def campaign(places: Places, hero: str = TINY, **overrides: Any) -> CampaignFolder:
    return create_campaign(places, hero, "try", config_overrides=overrides)


def write_config(places: Places, **content: Any) -> None:
    places.config_file.write_text(json.dumps({"model_name": "m", **content}))


def faults_of(places: Places, folder: CampaignFolder, *sets: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as refused:
        build_effective(places, folder, sets=sets)
    return {fault.path: fault.sentence() for fault in refused.value.faults}


def test_item_11_hero_below_campaign_below_command_line(places: Places) -> None:
    folder = campaign(places, TITAN, learning_rate=1e-5, warmup_steps=20)
    found = build_effective(places, folder, sets=["warmup_steps=30"])
    value, origins = found.value, found.origins
    assert (value.optimizer, origins["optimizer"]) == ("paged_adamw_8bit", "hero")
    assert (value.learning_rate, origins["learning_rate"]) == (1e-5, "campaign")
    assert (value.warmup_steps, origins["warmup_steps"]) == (30, "command line")
    assert (value.max_grad_norm, origins["max_grad_norm"]) == (1.0, "default")
    assert (value.device, origins["device"]) == ("cpu", "machine")
    assert value.liger_kernel.enabled and value.gradient_checkpointing and value.gradient_accumulation == 32 and value.max_length == 512
    assert value.optimizer_section["type"] == "paged_adamw_8bit"


def test_config_json_fills_only_what_hero_and_campaign_leave_open(places: Places) -> None:
    write_config(places, learning_rate=9e-4, batch_size=64, eval_steps=77, profile={"name": "regime3"}, hyperparams={"max_grad_norm": 0.5})
    dio = build_effective(places, campaign(places, "dio-qwen3-0.6b"))
    assert (dio.value.learning_rate, dio.value.batch_size) == (4e-4, 1)  # the hero's, not those of another model
    for field, value in (("eval_steps", 77), ("profile", "regime3"), ("max_grad_norm", 0.5)):
        assert (getattr(dio.value, field), dio.origins[field]) == (value, "config.json")
    tiny = build_effective(places, campaign(places, TINY, eval_steps=5))
    assert (tiny.value.profile, tiny.origins["profile"]) == ("none", "hero") and tiny.value.eval_steps == 5


def test_sections_of_heroes_and_of_config_json_may_stand_in_overrides(places: Places) -> None:
    folder = campaign(
        places,
        TINY,
        training_defaults={"batch_size": 2, "liger_kernel": {"enabled": True}},
        optimizer={"type": "muon", "muon": {"hidden_lr": 0.01}, "adamw": {"lr": 3e-4}},
        profile={"name": "emoji_think"},
        qlora={"r": 8},
        lora_alpha=4,
    )
    found = build_effective(places, folder)
    value = found.value
    assert (value.batch_size, value.optimizer, value.learning_rate, value.profile) == (2, "muon", 3e-4, "emoji_think")
    assert value.optimizer_settings.muon.hidden_lr == 0.01 and value.optimizer_settings.muon.aux_lr == 3e-4
    assert found.origins["optimizer_settings.muon.hidden_lr"] == "campaign"
    assert found.origins["optimizer_settings.muon.aux_lr"] == "default"
    assert value.liger_kernel.enabled and not value.liger_kernel.fused_rope  # merged key by key with the hero's
    assert (value.qlora_r, value.qlora_alpha) == (8, 4)


def test_item_10_values_outside_their_ranges_are_refused_all_at_once(places: Places) -> None:
    folder = campaign(places, TINY, max_length=64, learning_rate=0.5, batch_size=0, qlora_r=2000)
    found = faults_of(places, folder, "gradient_accumulation=129", "precision=fp8")
    assert set(found) == {"max_length", "learning_rate", "batch_size", "qlora_r", "gradient_accumulation", "precision"}
    assert "found 64 (from campaign)" in found["max_length"] and "at least 128 and at most 32768" in found["max_length"]
    assert "at least 1e-06 and at most 0.01" in found["learning_rate"]
    assert "from command line" in found["gradient_accumulation"]


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("max_length", 128, 32768),
        ("learning_rate", 1e-6, 1e-2),
        ("batch_size", 1, 128),
        ("gradient_accumulation", 1, 128),
        ("qlora_r", 0, 1024),
    ],
)
def test_item_10_both_ends_of_each_range_are_allowed_and_the_next_values_are_not(
    places: Places, field: str, low: float, high: float
) -> None:
    folder = campaign(places, TINY, context_length=40000)
    for value in (low, high):
        assert getattr(build_effective(places, folder, sets=[f"{field}={value}"]).value, field) == value
    small = 1 if isinstance(low, int) else low / 2
    for value in (low - small, high + small):
        assert set(faults_of(places, folder, f"{field}={value}")) == {field}


def test_unknown_names_are_refused_with_the_nearest(places: Places) -> None:
    folder = campaign(places, TINY, leraning_rate=1e-4, optimizer_settings={"muon": {"momentun": 0.9}})
    found = faults_of(places, folder, "warmup=5")
    assert "did you mean learning_rate?" in found["leraning_rate"]
    assert "optimizer_settings.muon.momentum" in found["optimizer_settings.muon.momentun"]
    assert "from command line" in found["warmup"]


def test_item_12_an_unknown_optimizer_or_profile_is_a_typed_error(places: Places) -> None:
    with pytest.raises(UnknownOptimizerError, match="Did you mean 'adamw'"):
        build_effective(places, campaign(places, TINY, optimizer="adamv"))
    with pytest.raises(UnknownProfileError, match="found 'emoji_thin'; allowed: regime3, emoji_think, none"):
        build_effective(places, campaign(places, TINY), sets=["profile=emoji_thin"])
    assert set(faults_of(places, campaign(places, TINY, optimizer="adamv", seed=-1))) == {"optimizer", "seed"}


def test_the_second_name_of_the_8_bit_adamw_is_one_optimizer(places: Places) -> None:
    folder = campaign(places, TINY)
    names = {build_effective(places, folder, sets=[f"optimizer={name}"]).value.optimizer for name in ("adamw_8bit", "adamw_bnb_8bit")}
    assert names == {"adamw_8bit"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_item_11_the_factory_takes_the_section_of_every_optimizer_as_it_is(places: Places, name: str) -> None:
    sets = [f"optimizer={name}", "optimizer_settings.adamw.weight_decay=0.2", "optimizer_settings.muon.momentum=0.8"]
    value = build_effective(places, campaign(places, TINY), sets=sets).value
    taken = optimizer_settings(value.optimizer_section, value.learning_rate)
    assert (taken.type, taken.adamw.lr, taken.adamw.weight_decay, taken.muon.momentum) == (value.optimizer, 1e-3, 0.2, 0.8)
    assert (taken.muon.hidden_lr, taken.muon.aux_lr, taken.galore.rank) == (0.02, 3e-4, 128)


def test_what_the_campaign_decides_cannot_be_set(places: Places) -> None:
    folder = campaign(places, TINY, current_step=5, hero_id="dio-qwen3-0.6b")
    found = faults_of(places, folder, "output_dir=/tmp/x")
    assert set(found) == {"current_step", "hero_id", "output_dir"}


def test_settings_that_do_not_fit_together_are_refused(places: Places) -> None:
    assert "context_length (512)" in next(iter(faults_of(places, campaign(places, TINY, max_length=1024)).values()))
    assert "qlora_enabled" in next(iter(faults_of(places, campaign(places, TINY, load_in_4bit=True)).values()))
    assert build_effective(places, campaign(places, TINY, load_in_4bit=True, qlora_enabled=True)).value.load_in_4bit


def test_identity_comes_from_the_campaign(places: Places) -> None:
    start = find_checkpoint(places, model_checkpoint(places.current_model, 500))
    folder = create_campaign(places, TINY, "go on", checkpoint=start, skills=["bin"])
    value = build_effective(places, folder).value
    assert (value.hero_id, value.campaign_id, value.campaign_name) == (TINY, "campaign-001", "go on")
    assert value.output_dir == str(folder.checkpoints) and value.starting_checkpoint == str(start.path) and value.current_step == 500
    assert value.skills_focus == ("bin",) and value.model_path == value.base_model == "modelwright/tiny-0.4m"
    start.path.rename(start.path.with_name("gone"))
    assert "which is not there" in faults_of(places, folder)["starting_checkpoint"]


def test_a_model_folder_of_the_house_is_used_instead_of_the_hub(places: Places) -> None:
    folder = campaign(places, "dio-qwen3-0.6b")
    assert build_effective(places, folder).value.model_path == "Qwen/Qwen3-0.6B"
    local = places.models / "Qwen3-0.6B"
    local.mkdir()
    (local / "config.json").write_text("{}")
    found = build_effective(places, folder)
    assert found.value.model_path == str(local) and found.value.base_model == "Qwen/Qwen3-0.6B" and found.origins["model_path"] == "hero"
    other = build_effective(places, campaign(places, "dio-qwen3-0.6b", base_model="me/other"))
    assert other.value.model_path == "me/other" and other.origins["model_path"] == "campaign"  # never the old base's weights
    write_config(places, model_path=str(places.models), base_model="something")
    assert build_effective(places, folder).value.model_path == str(local)


def test_the_active_campaign_is_the_default_and_none_is_an_error(places: Places) -> None:
    with pytest.raises(NoActiveCampaignError):
        build_effective(places)
    activate(places, *campaign(places, TINY, seed=9).key)
    assert build_effective(places).value.seed == 9


def test_without_a_registry_there_is_no_device_and_no_guess(places: Places) -> None:
    folder = campaign(places)
    places.hosts.unlink()
    with pytest.raises(MissingFileError, match="guild init"):
        build_effective(places, folder)


def test_this_machine_stands_above_the_campaign(places: Places) -> None:
    content = json.loads(places.hosts.read_text())
    content["hosts"]["local"]["config_overrides"] = {"batch_size": 3, "precision": "bf16"}
    places.hosts.write_text(json.dumps(content))
    found = build_effective(places, campaign(places, TINY, batch_size=2), sets=["precision=fp32"])
    assert (found.value.batch_size, found.origins["batch_size"]) == (3, "machine") and found.value.precision == "fp32"


def test_every_field_is_written_beside_the_run_with_its_origin(places: Places, tmp_path: Path) -> None:
    found = build_effective(places, campaign(places, TITAN))
    run = tmp_path / "run"
    run.mkdir()
    write_effective(run, found)
    content = json.loads((run / "effective_config.json").read_text())
    assert set(content["config"]) == set(EffectiveConfig.model_fields)
    wanted = """hero_id campaign_id campaign_name model_path model_family model_size_b precision load_in_4bit batch_size
        gradient_accumulation max_length optimizer learning_rate warmup_steps lr_scheduler gradient_checkpointing liger_kernel save_steps
        save_total_limit output_dir qlora_r chat_template skills_focus starting_checkpoint current_step"""  # specs/guild.md 2.1.5
    assert set(wanted.split()) <= set(content["config"])
    assert {path.split(".")[0] for path in content["origins"]} == set(EffectiveConfig.model_fields)
    assert read_effective(run) == found
    content["config"]["learning_rate"] = 3e-5
    (run / "effective_config.json").write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match="digest"):
        read_effective(run)


def test_the_digest_names_what_is_trained_and_not_where(places: Places) -> None:
    folder = campaign(places)
    digest = config_digest(build_effective(places, folder))
    assert config_digest(build_effective(places, folder, sets=["device=cuda:0"])) == digest
    further = update_campaign(folder.path, {"current_step": 99})
    assert config_digest(build_effective(places, further)) == digest
    assert config_digest(build_effective(places, folder, sets=["seed=1"])) != digest


def test_item_10_a_start_is_refused_without_the_model(places: Places) -> None:
    folder = campaign(places)
    assert start_config(places, folder).value.model_path == "modelwright/tiny-0.4m"
    missing = build_effective(places, folder, sets=["model_path=modelwright/tiny-9m"])
    assert [fault.path for fault in model_faults(missing)] == ["model_path"]
    with pytest.raises(ConfigError, match="model_path"):
        start_config(places, folder, sets=["model_path=/no/such/folder"])


_TREES = st.recursive(
    st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
_MAPPINGS = st.dictionaries(st.sampled_from("abc"), _TREES, max_size=3)


@given(_MAPPINGS, _MAPPINGS, _MAPPINGS)
def test_merging_is_associative_and_leaves_its_arguments_alone(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    copies = json.dumps([a, b, c])
    merged = deep_merge(a, b)
    assert json.dumps([a, b, c]) == copies
    assert deep_merge(merged, merged) == merged and deep_merge(a, {}) == a
    for key, value in b.items():
        assert merged[key] == value or isinstance(value, dict)
    merged.clear()
    assert json.dumps([a, b, c]) == copies


def test_flat_opens_the_sections_and_fields_beside_them_win() -> None:
    assert flat({"hyperparams": {"seed": 1, "eval_steps": 2}, "seed": 3}) == {"seed": 3, "eval_steps": 2}
    assert flat({"profile": "none", "optimizer": "muon"}) == {"profile": "none", "optimizer": "muon"}
    assert flat({"qlora": {"enabled": True}}) == {"qlora_enabled": True}
