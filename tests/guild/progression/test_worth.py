"""What an answer is worth: quest templates of the installation, else the skill's multiplier. (specs/guild.md 2.3.5, 4.3)"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from guild.init import initialise
from guild.places import Places
from guild.progression.worth import read_worth
from modelwright.errors import ConfigError

QUESTS = """\
templates:
  - {id: resting, name: A, skills: [bin], difficulty_level: 9, generator_id: g, evaluator_id: e, base_xp: 99, enabled: false}
  - {id: any, name: B, skills: [sort, binary], difficulty_level: 4, generator_id: g, evaluator_id: e, base_xp: 20}
  - {id: three, name: C, skills: [bin], difficulty_level: 5, generator_id: g, evaluator_id: e, base_xp: 2.5, params: {level: 3}}
  - {id: three_too, name: D, skills: [bin], difficulty_level: 6, generator_id: g, evaluator_id: e, base_xp: 50, params: {level: 3}}
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    initialise(Places(tmp_path))
    return Places(tmp_path)


def test_a_skills_own_templates_are_worth_ten_times_its_multiplier(places: Places) -> None:
    worth = read_worth(places)
    assert worth.of("bin", 3) == (12, 3) and worth.of("binary", 30) == (12, 10)
    assert worth.of("sy", 1) == (10, 1)
    assert worth.of("juggling", 2) == (10, 2)  # no file of its own


def test_templates_of_the_installation_go_before_and_a_named_level_before_any(places: Places) -> None:
    places.schedule.with_name("quests.yaml").write_text(QUESTS)
    worth = read_worth(places)
    assert worth.of("bin", 3) == (Fraction("2.5"), 5)  # the first of two
    assert worth.of("bin", 4) == (20, 4) == worth.of("sort", 1)
    assert worth.of("sy", 1) == (10, 1)


def test_a_skill_file_without_a_multiplier_counts_once_and_a_wrong_one_is_told(places: Places) -> None:
    path = places.skills / "bin.yaml"
    text = path.read_text()
    path.write_text(text.replace("xp_multiplier: 1.2\n", ""))
    assert read_worth(places).of("bin", 1) == (10, 1)
    path.write_text(text.replace("xp_multiplier: 1.2", "xp_multiplier: 0"))
    assert read_worth(places).of("bin", 1) == (0, 1)
    for wrong in ("-1", "much", ".nan", "true"):
        path.write_text(text.replace("xp_multiplier: 1.2", f"xp_multiplier: {wrong}"))
        with pytest.raises(ConfigError, match=r"bin\.yaml xp_multiplier: found .*; allowed: a number of at least 0"):
            read_worth(places)


def test_faults_of_the_quest_file_are_told(places: Places) -> None:
    places.schedule.with_name("quests.yaml").write_text(QUESTS.replace("base_xp: 20", "base_xp: -1"))
    with pytest.raises(ConfigError, match="base_xp"):
        read_worth(places)


def test_a_house_without_skill_files_has_the_tables_worth(tmp_path: Path) -> None:
    assert read_worth(Places(tmp_path)).of("bin", 1) == (10, 1)
