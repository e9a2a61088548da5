"""What a right answer of an evaluation is worth: the `base_xp` of the quest template that asked it. (specs/guild.md 2.3.5, 4.3)

The specification gives templates a `base_xp` and results a table, and no rule that joins them. The rule here: `base_xp` is what a `hit` of
the template earns, and the other results earn in the proportions of the table; the multipliers follow, that of the difficulty by the
template's `difficulty_level`. An evaluation of a skill at a level belongs to

1. the first enabled template of `configs/quests.yaml` that names the skill and has the level as `params.level`; else
2. the first enabled one there that names the skill and no level; else
3. the skill's own template of that level, whose `base_xp` is 10 times the `xp_multiplier` of the skill's file.

Experience is computed from the records each time, so a change of these files values past answers anew too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import isfinite
from typing import Any

from guild.places import Places
from guild.progression.results import BASE_XP
from guild.progression.templates import QuestTemplate, difficulty_of, read_templates
from guild.skills.names import canonical
from guild.skills.registry import read_skill_file
from modelwright.errors import ConfigError, Fault

NAME = "quests.yaml"


@dataclass(frozen=True)
class Worth:
    """templates: enabled ones of the installation, in the order of their file. multipliers: canonical skill id → `xp_multiplier`."""

    templates: tuple[QuestTemplate, ...] = ()
    multipliers: Mapping[str, Fraction] = field(default_factory=dict)

    def of(self, skill: str, level: int) -> tuple[Fraction, int]:
        """(`base_xp`, difficulty from 1 to 10) of the problems of a skill at a level, as `results.experience` takes them."""
        own = [one for one in self.templates if canonical(skill) in map(canonical, one.skills)]
        chosen = [one for one in own if one.params.get("level") == level] or [one for one in own if one.params.get("level") is None]
        if chosen:
            return Fraction(str(chosen[0].base_xp)), chosen[0].difficulty_level
        return BASE_XP * self.multipliers.get(canonical(skill), Fraction(1)), difficulty_of(level)


def read_worth(places: Places) -> Worth:
    """The templates and multipliers of an installation; no skill is loaded. Raises ConfigError with every fault of a file, and what
    `read_yaml` raises."""
    path = places.schedule.with_name(NAME)
    templates = read_templates(path).values() if path.is_file() else ()
    files = sorted(places.skills.glob("*.yaml")) if places.skills.is_dir() else []
    found = [(file, read_skill_file(file)) for file in files]
    multipliers = {canonical(str(document["id"])): _multiplier(str(file), document) for file, document in found}
    return Worth(tuple(one for one in templates if one.enabled), multipliers)


def _multiplier(where: str, document: Mapping[str, Any]) -> Fraction:
    told = document.get("xp_multiplier", 1)
    if isinstance(told, bool) or not isinstance(told, int | float) or not isfinite(told) or told < 0:
        raise ConfigError([Fault(f"{where} xp_multiplier", repr(told), "a number of at least 0")])
    return Fraction(str(told))
