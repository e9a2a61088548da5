"""The schedule: strategies, presets, and every fault of the file at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from guild.curriculum.schedule import Candidate, Preset, ScheduleSettings, enabled_skills, order, read_schedule
from guild.errors import RefusedError
from guild.places import Places
from guild.templates import FOLDER
from modelwright.errors import ConfigError, MissingFileError
from modelwright.files import make_folder

KNOWN = ("bin", "sy")
SETTINGS = ScheduleSettings()


def preset(strategy: str, weights: tuple[float, ...] = (1, 1), **more: Any) -> Preset:
    skills = {name: {"weight": weight} for name, weight in zip(("bin", "sy", "third"), weights, strict=False)}
    return Preset.model_validate({"strategy": strategy, "skills": skills, **more})


def play(chosen: Preset, rounds: int, mastered: dict[str, int] | None = None, last: int = 10) -> list[str]:
    """Which skill each of so many files is for."""
    files: Counter[str] = Counter()
    got = []
    for _ in range(rounds):
        candidates = [Candidate(name, (mastered or {}).get(name, 0), last, files[name]) for name in enabled_skills(chosen)]
        got.append(order(chosen, SETTINGS, candidates)[0])
        files[got[-1]] += 1
    return got


def written(tmp_path: Path, content: Any) -> Places:
    places = Places(tmp_path)
    make_folder(places.schedule.parent)
    places.schedule.write_text(yaml.safe_dump(content))
    return places


def test_the_shipped_schedule_has_the_presets_and_settings_of_the_spec(tmp_path: Path) -> None:
    places = written(tmp_path, yaml.safe_load((FOLDER / "schedule.yaml").read_text()))
    schedule = read_schedule(places, KNOWN)
    names = {"balanced", "bin_focus", "bin_heavy", "bin_only", "catch_up", "sy_focus", "sy_heavy", "sy_only"}
    assert set(schedule.presets) == names
    assert schedule.settings == ScheduleSettings(advancement_evals=3, batch_size=100, catch_up_threshold=3)


def test_equal_takes_turns() -> None:
    assert play(preset("equal", (1, 1, 1)), 6) == ["bin", "sy", "third"] * 2


def test_weighted_keeps_the_shares() -> None:
    got = play(preset("weighted", (3, 1)), 40)
    assert Counter(got) == {"bin": 30, "sy": 10}
    assert Counter(got[:4]) == {"bin": 3, "sy": 1}


def test_focus_stays_with_its_skill_until_its_last_level_then_takes_the_others_in_turn() -> None:
    chosen = preset("focus", (1, 1, 1), focus="binary")
    assert play(chosen, 3, {"bin": 8}) == ["bin"] * 3
    assert play(chosen, 4, {"bin": 9}) == ["sy", "third"] * 2
    alone = Preset.model_validate({"strategy": "focus", "focus": "bin", "skills": {"bin": {}}})
    assert play(alone, 2, {"bin": 9}) == ["bin"] * 2


def test_lowest_first_takes_the_lowest_and_beyond_the_threshold_it_alone() -> None:
    chosen = preset("lowest_first")
    near = [Candidate("bin", 2, 10, 0), Candidate("sy", 0, 10, 5)]
    assert order(chosen, SETTINGS, near) == ("sy", "bin")
    far = [Candidate("bin", 3, 10, 0), Candidate("sy", 0, 10, 5)]
    assert order(chosen, SETTINGS, far) == ("sy",)
    assert play(chosen, 4, {"bin": 1, "sy": 1}) == ["bin", "sy"] * 2


def test_a_campaign_narrows_the_skills_and_leaves_at_least_one() -> None:
    assert enabled_skills(preset("equal"), ("syllo",)) == ("sy",)
    with pytest.raises(RefusedError, match="the campaign's skills are third"):
        enabled_skills(preset("equal"), ("third",))


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    content = {
        "active": "nope",
        "presets": {
            "a": {"strategy": "focus", "focus": "sy", "skills": {"bin": {}, "binary": {}, "bim": {}}},
            "b": {"strategy": "weighted", "skills": {"bin": {"weight": 0}}},
        },
    }
    with pytest.raises(ConfigError) as caught:
        read_schedule(written(tmp_path, content), KNOWN)
    assert {fault.path for fault in caught.value.faults} == {
        "schedule.yaml active", "schedule.yaml presets.a.skills.bim", "schedule.yaml presets.a.skills", "schedule.yaml presets.a.focus",
        "schedule.yaml presets.b.skills",
    }  # fmt: skip


def test_an_unknown_strategy_and_wrong_settings_are_named(tmp_path: Path) -> None:
    content = {"active": "a", "settings": {"advancement_evals": 1}, "presets": {"a": {"strategy": "random", "skills": {"bin": {}}}}}
    with pytest.raises(ConfigError) as caught:
        read_schedule(written(tmp_path, content), KNOWN)
    assert {fault.path for fault in caught.value.faults} == {"settings.advancement_evals", "presets.a.strategy"}


def test_no_schedule_is_an_error_and_none_is_built_in(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="guild init"):
        read_schedule(Places(tmp_path), KNOWN)
