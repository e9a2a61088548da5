"""Heroes: the shipped profiles, every fault of a profile at once, and the memory estimate."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from guild.campaigns.heroes import HeroFilesError, get_hero, list_heroes, read_heroes, vram_estimate_gb
from guild.errors import UnknownHeroError
from guild.places import Places
from guild.templates import FOLDER
from helpers.guild_campaigns import new_house
from modelwright.errors import ConfigError, DamagedFileError
from modelwright.files import read_json
from modelwright.tiny import tiny_model_path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return new_house(tmp_path)


@pytest.mark.parametrize(
    ("id", "figures"),
    [
        ("dio-qwen3-0.6b", (4e-4, 1, 16, 2048, "adamw", False, "cosine", 100, 10000, 40)),
        ("titan-qwen3-4b", (2e-5, 1, 32, 512, "paged_adamw_8bit", True, "cosine", 10, 1000, 10)),
    ],
)
def test_the_shipped_heroes_have_the_figures_of_the_specification(places: Places, id: str, figures: tuple[object, ...]) -> None:
    how = get_hero(places, id).training_defaults
    assert figures == (
        how.learning_rate, how.batch_size, how.gradient_accumulation, how.max_length, how.optimizer, how.liger_kernel.enabled,
        how.lr_scheduler, how.warmup_steps, how.save_steps, how.save_total_limit,
    )  # fmt: skip


def test_the_tiny_hero_is_the_packaged_model(places: Places) -> None:
    hero = get_hero(places, "tiny")
    config = read_json(tiny_model_path(hero.model.hf_name) / "config.json")
    assert config["architectures"] == [hero.model.architecture] and config["vocab_size"] == hero.model.vocab_size
    assert config["max_position_embeddings"] == hero.model.context_length >= hero.training_defaults.max_length
    assert hero.training_defaults.profile == "none" and hero.training_defaults.optimizer == "adamw"


def test_item_12_an_unknown_hero_is_a_typed_error_with_the_known_ids(places: Places) -> None:
    with pytest.raises(UnknownHeroError, match="Did you mean 'titan-qwen3-4b'") as unknown:
        get_hero(places, "titan-qwen-4b")
    assert unknown.value.known == ("dio-qwen3-0.6b", "tiny", "titan-qwen3-4b")


def test_nothing_is_known_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UnknownHeroError, match="none is defined"):
        get_hero(Places.of(tmp_path), "tiny")
    assert list_heroes(Places.of(tmp_path)) == ()


def test_every_fault_of_a_profile_is_named_at_once(places: Places) -> None:
    content = yaml.safe_load((FOLDER / "heroes" / "tiny.yaml").read_text())
    content["training_defaults"] |= {"batch_size": 0, "optimizer": "adamv", "max_lenght": 5, "learning_rate": "quick"}
    content["qlora"]["r"] = 2000
    content["chat"].pop("end_token")
    content["nmae"] = "x"
    (places.heroes / "tiny.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as refused:
        get_hero(places, "tiny")
    faults = {fault.path: fault for fault in refused.value.faults}
    assert set(faults) == {
        "training_defaults.batch_size", "training_defaults.optimizer", "training_defaults.max_lenght", "training_defaults.learning_rate",
        "qlora.r", "chat.end_token", "nmae",
    }  # fmt: skip
    assert "max_length" in faults["training_defaults.max_lenght"].todo and "name" in faults["nmae"].todo
    assert "at least 1 and at most 128" in faults["training_defaults.batch_size"].allowed
    assert "galore_8bit" in faults["training_defaults.optimizer"].allowed


def test_a_broken_profile_does_not_hide_the_others(places: Places) -> None:
    (places.heroes / "broken.yaml").write_text("- 1\n")
    assert get_hero(places, "tiny").name == "TINY"
    with pytest.raises(DamagedFileError):
        get_hero(places, "broken")
    with pytest.raises(HeroFilesError, match=r"broken\.yaml"):
        list_heroes(places)
    assert len(read_heroes(places).heroes) == 3


def test_an_id_belongs_to_one_file_and_is_no_reserved_name(places: Places) -> None:
    text = (places.heroes / "tiny.yaml").read_text()
    (places.heroes / "zz.yaml").write_text(text)
    (places.heroes / "zzz.yaml").write_text(text.replace("id: tiny", "id: archive"))
    found = read_heroes(places)
    assert len(found.heroes) == 3
    assert {path.name: "no other file" in str(error) for path, error in found.faults.items()} == {"zz.yaml": True, "zzz.yaml": False}
    (places.heroes / "aa.yaml").write_text(text)  # a copy in front of the one that bears the id's name
    (places.heroes / "zz.yaml").unlink()
    found = read_heroes(places)
    fault = str(found.faults[places.heroes / "aa.yaml"])
    assert "'tiny' in aa.yaml" in fault and "tiny.yaml has this one" in fault and "Change it in aa.yaml" in fault
    assert len(found.heroes) == 3 and places.heroes / "tiny.yaml" not in found.faults


def test_the_memory_estimate_is_the_formula_of_the_specification(places: Places) -> None:
    titan = get_hero(places, "titan-qwen3-4b")
    assert vram_estimate_gb(titan) == pytest.approx(8.0 + 8.0 + 7.4 * 1 * 0.35)
    assert vram_estimate_gb(titan) == pytest.approx(18.6, abs=0.05)  # the peak that the recipe was seen to take
    assert vram_estimate_gb(titan, batch_size=3, gradient_checkpointing=False) == pytest.approx(16.0 + 7.4 * 3)
