"""Quests as prompt templates, and their tiers. (specs/guild.md 2.3.5)"""

from __future__ import annotations

from pathlib import Path

import pytest

from guild.progression.templates import Tier, UnknownTemplateError, get_template, read_templates, skill_templates, tier_of
from guild.skills.registry import load_skill
from modelwright.errors import ConfigError

GOOD = "{id: a, name: A, skills: [bin], difficulty_level: 4, generator_id: bin_api, evaluator_id: bin}"


def test_tiers_are_two_levels_each() -> None:
    assert [tier_of(level).name for level in range(1, 11)] == [
        "BRONZE", "BRONZE", "SILVER", "SILVER", "GOLD", "GOLD", "PLATINUM", "PLATINUM", "DRAGON", "DRAGON"
    ]  # fmt: skip
    assert [tier.value for tier in Tier] == [1, 2, 3, 4, 5]
    for level in (0, 11):
        with pytest.raises(ValueError, match="1 to 10"):
            tier_of(level)


@pytest.mark.parametrize("name", ["bin", "sy"])
def test_every_level_of_a_skill_is_a_template(name: str) -> None:
    skill = load_skill(name)
    found = skill_templates(skill)
    assert [one.params["level"] for one in found] == list(range(1, skill.max_level + 1))
    assert [one.difficulty_level for one in found[:10]] == list(range(1, 11)) and found[-1].difficulty is Tier.DRAGON
    assert all(one.generator_id == skill.generator_id and one.skills == (skill.id,) and one.enabled for one in found)
    assert {one.base_xp for one in found} == {10} and {one.base_xp for one in skill_templates(skill, 12)} == {12}
    assert found[0].as_dict()["difficulty"] == "bronze" and len({one.id for one in found}) == len(found)


def test_templates_are_read_from_a_file_with_every_fault_at_once(tmp_path: Path) -> None:
    path = tmp_path / "quests.yaml"
    path.write_text(f"templates:\n  - {GOOD}\n  - {GOOD.replace('id: a', 'id: b')}\n")
    found = read_templates(path)
    assert list(found) == ["a", "b"] and found["a"].difficulty is Tier.SILVER and found["a"].base_xp == 10
    assert get_template(found, "a") is found["a"]
    with pytest.raises(UnknownTemplateError, match="allowed: a, b"):
        get_template(found, "c")
    path.write_text(f"templates:\n  - {GOOD}\n  - {GOOD}\n  - {GOOD.replace('4', '11').replace('skills', 'skill')}\n")
    with pytest.raises(ConfigError) as caught:
        read_templates(path)
    places = [fault.path for fault in caught.value.faults]
    assert len(places) == 4 and any(place.endswith("templates[1].id") for place in places)
    path.write_text("templates: 5\n")
    with pytest.raises(ConfigError, match="a list of quest templates"):
        read_templates(path)
