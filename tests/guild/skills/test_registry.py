"""Which class is which skill, and how a user adds one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from guild.errors import UnknownSkillError
from guild.skills.binary.skill import BinarySkill
from guild.skills.registry import BUILT_IN, load_skill, read_skill_file, skill_targets
from modelwright.errors import ConfigError, LoadError

OWN = """
from guild.skills.contract import Sample, Verdict

class Mine:
    id, name, version, description, max_level, generator_id = "mine", "Mine", "1", "One word.", 1, "mine"

    def __init__(self, word="yes"):
        self.word = word

    def level_info(self, level):
        return {"level": level}

    def space(self, level):
        return 1

    def generate(self, level, count, seed):
        return [Sample(str(at), "Say it.", self.word) for at in range(count)]

    def evaluation(self, level, count=20, seed=0):
        return []

    def judge(self, sample, reply):
        return Verdict(reply == self.word, 0.0)

class Half:
    id = "half"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_skill_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_skill_module", raising=False)
    folder = tmp_path / "skills"
    folder.mkdir()
    return folder


def test_the_aliases_of_a_built_in_skill_load_it() -> None:
    for name in ("bin", "binary", " BIN "):
        assert isinstance(load_skill(name), BinarySkill)
    assert skill_targets().keys() >= BUILT_IN.keys() == {"bin", "sy"}


def test_item_12_an_unknown_skill_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UnknownSkillError, match=r"'bim'.*bin.*sy.*binary.*Did you mean 'bin'"):
        load_skill("bim")


def test_a_skill_file_names_a_class_and_its_options(own: Path) -> None:
    (own / "mine.yaml").write_text("id: mine\nclass: own_skill_module:Mine\noptions: {word: no}\n".replace("no}", '"no"}'))
    assert load_skill("mine", folder=own).generate(1, 1, 0)[0].assistant_response == "no"
    assert load_skill("Mine", folder=own, options={"word": "so"}).generate(1, 1, 0)[0].assistant_response == "so"
    with pytest.raises(UnknownSkillError):
        load_skill("mine")


def test_the_file_of_a_built_in_skill_sets_its_options(own: Path) -> None:
    (own / "bin.yaml").write_text("id: bin\noptions:\n  forms: [brief]\n  tasks: []\n  auxiliary_share: 0\n")
    skill = load_skill("bin", folder=own)
    assert isinstance(skill, BinarySkill) and skill.settings.forms == ("brief",)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("id: mine\nclass: no_such_module:Mine\n", LoadError, "no_such_module"),
        ("id: mine\nclass: own_skill_module:Other\n", LoadError, "Other"),
        ("id: mine\nclass: own_skill_module:Half\n", LoadError, "it lacks name"),
        ("id: mine\nclass: own_skill_module:Mine\noptions: {colour: red}\n", ConfigError, "colour"),
        ("id: mine\nclass: own_skill_module\n", ConfigError, "module:Class"),
    ],
)
def test_a_skill_that_cannot_be_loaded_says_why(own: Path, text: str, error: type[Exception], words: str) -> None:
    (own / "mine.yaml").write_text(text)
    with pytest.raises(error, match=words):
        load_skill("mine", folder=own)


def test_a_skill_file_names_all_its_faults(own: Path) -> None:
    path = own / "bad.yaml"
    path.write_text("id: ''\nclass: 3\noptions: [a]\napi: {port: 70000}\n")
    with pytest.raises(ConfigError) as caught:
        read_skill_file(path)
    assert [fault.path.rpartition(" ")[2] for fault in caught.value.faults] == ["id", "class", "options", "api.port"]


def test_the_shipped_file_of_bin_is_usable() -> None:
    path = Path(__file__).parents[3] / "configs" / "guild" / "skills" / "bin.yaml"
    document = read_skill_file(path)
    assert (document["id"], document["max_level"], document["xp_multiplier"], document["api"]["port"]) == ("bin", 30, 1.2, 8090)
    fields = [
        "name",
        "version",
        "description",
        "category",
        "display",
        "level_progression",
        "eval",
        "metrics",
        "primary_metric",
        "accuracy_thresholds",
        "rpg_name",
    ]
    assert set(fields) <= document.keys()
    assert document["max_level"] == BinarySkill.max_level and document["version"] == BinarySkill.version
    BinarySkill(**(document["options"] or {}))


def test_limits_of_masks_in_a_skill_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("id: own\nclass: a:B\nmasking: {lowest: 0.3, highest: 0.97}\n")
    assert read_skill_file(path)["masking"] == {"lowest": 0.3, "highest": 0.97}
    for wrong in ("{lowest: 0.9, highest: 0.3}", "{lowest: 0.3}", "7", "{lowest: a, highest: 1}"):
        path.write_text(f"id: own\nclass: a:B\nmasking: {wrong}\n")
        with pytest.raises(ConfigError, match="masking"):
            read_skill_file(path)
