"""Quests as prompt templates: what is asked, how hard it is, who makes and who judges it. (specs/guild.md 2.3.5)

The other meaning of quest, a training file, is a job of kind `train_file`.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from guild.errors import UnknownNameError
from guild.progression.results import BASE_XP
from guild.skills.contract import Skill
from modelwright.config import Layer, resolve
from modelwright.errors import ConfigError, Fault
from modelwright.files import read_yaml

HARDEST = 10
Name = Annotated[str, Field(min_length=1)]


class Tier(IntEnum):
    """Difficulty in five steps."""

    BRONZE = 1
    SILVER = 2
    GOLD = 3
    PLATINUM = 4
    DRAGON = 5


class UnknownTemplateError(UnknownNameError):
    """No quest template of that id."""

    kind = "quest template"


class QuestTemplate(BaseModel):
    """A kind of problem. skills: canonical ids. regions: fields of work, for display. difficulty_level: 1 to 10. generator_id makes the
    problems from params, evaluator_id judges. base_xp: experience of a right answer before its multipliers (see `worth`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name
    name: Name
    description: str = ""
    skills: tuple[Name, ...] = Field(min_length=1)
    regions: tuple[str, ...] = ()
    difficulty_level: int = Field(ge=1, le=HARDEST)
    generator_id: Name
    evaluator_id: Name
    params: dict[str, Any] = Field(default_factory=dict)
    base_xp: float = Field(default=BASE_XP, ge=0, allow_inf_nan=False)
    tags: tuple[str, ...] = ()
    enabled: bool = True

    @property
    def difficulty(self) -> Tier:
        """The tier of its level."""
        return tier_of(self.difficulty_level)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**self.model_dump(mode="json"), "difficulty": self.difficulty.name.lower()}


def tier_of(level: int) -> Tier:
    """bronze up to 2, silver up to 4, gold up to 6, platinum up to 8, dragon above. Raises ValueError outside 1 to 10."""
    if not 1 <= level <= HARDEST:
        raise ValueError(f"a difficulty level: found {level}; allowed: 1 to {HARDEST}")
    return Tier((level + 1) // 2)


def difficulty_of(level: int) -> int:
    """A skill's level on the scale of 1 to 10: itself up to 10, and 10 for all above."""
    return min(level, HARDEST)


def skill_templates(skill: Skill, base_xp: float = BASE_XP) -> list[QuestTemplate]:
    """One template for every level of a skill. base_xp: `BASE_XP` times the skill's `xp_multiplier`."""
    return [
        QuestTemplate(
            id=f"{skill.id}_L{level}",
            name=f"{skill.name}, level {level}",
            description=skill.description,
            skills=(skill.id,),
            difficulty_level=difficulty_of(level),
            generator_id=skill.generator_id,
            evaluator_id=f"{skill.id}@{skill.version}",
            params={"level": level},
            base_xp=base_xp,
            tags=(skill.id,),
        )
        for level in range(1, skill.max_level + 1)
    ]


def read_templates(path: Path) -> dict[str, QuestTemplate]:
    """The templates of a YAML file (`templates:` a list), by id, disabled ones too. Raises ConfigError with every fault of all of them."""
    document = read_yaml(path)
    entries = document.get("templates") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ConfigError([Fault(f"{path} templates", type(entries).__name__, "a list of quest templates")])
    faults: list[Fault] = []
    found: dict[str, QuestTemplate] = {}
    for number, entry in enumerate(entries):
        where = f"{path} templates[{number}]"
        try:
            template = resolve(QuestTemplate, [Layer(where, entry if isinstance(entry, dict) else {})]).value
        except ConfigError as error:
            faults += [Fault(f"{where}.{fault.path}", fault.found, fault.allowed, fault.todo) for fault in error.faults]
            continue
        if template.id in found:
            faults.append(Fault(f"{where}.id", repr(template.id), "an id that no other template has"))
        found[template.id] = template
    if faults:
        raise ConfigError(faults)
    return found


def get_template(templates: dict[str, QuestTemplate], id: str) -> QuestTemplate:
    """Raises UnknownTemplateError."""
    if id not in templates:
        raise UnknownTemplateError(id, templates)
    return templates[id]
