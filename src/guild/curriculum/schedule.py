"""`configs/schedule.yaml`: which skill the next data comes from. (specs/guild.md 2.4)

A preset is a strategy over skills; one is active. Every fault of the file is named at once; there is no built-in schedule to fall back on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from guild.errors import RefusedError
from guild.places import Places
from guild.skills.names import canonical
from modelwright.config import Layer, resolve
from modelwright.errors import ConfigError, DamagedFileError, Fault, MissingFileError
from modelwright.files import read_yaml

Strategy = Literal["equal", "focus", "weighted", "lowest_first"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
_STRICT = ConfigDict(frozen=True, extra="forbid")


class ScheduledSkill(BaseModel):
    """One skill of a preset. weight: its share under `weighted`."""

    model_config = _STRICT

    enabled: bool = True
    weight: Annotated[float, Field(ge=0)] = 1.0


class Preset(BaseModel):
    """A strategy over skills. focus: the skill of the strategy `focus`."""

    model_config = _STRICT

    description: str = ""
    strategy: Strategy
    focus: str = ""
    skills: dict[str, ScheduledSkill] = Field(min_length=1)


class ScheduleSettings(BaseModel):
    """advancement_evals: evaluations on different checkpoints that a level needs. batch_size: rows of a file where neither the request
    nor `auto_generate.count` says how many. catch_up_threshold: levels a skill lags behind until `lowest_first` tries no other."""

    model_config = _STRICT

    advancement_evals: Annotated[int, Field(ge=3, le=100)] = 3
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 100
    catch_up_threshold: Annotated[int, Field(ge=1)] = 3


class Schedule(BaseModel):
    """What the file holds."""

    model_config = _STRICT

    schema_version: int = 1
    active: str
    settings: ScheduleSettings = ScheduleSettings()
    presets: dict[str, Preset] = Field(min_length=1)

    @property
    def preset(self) -> Preset:
        """The active one."""
        return self.presets[self.active]


@dataclass(frozen=True)
class Candidate:
    """A skill as the schedule sees it. mastered, max_level: its levels. files: generated for it under the preset so far."""

    skill: str
    mastered: int
    max_level: int
    files: int

    @property
    def at_last_level(self) -> bool:
        """Its training level is the last one."""
        return self.mastered + 1 >= self.max_level


def read_schedule(places: Places, known: Sequence[str]) -> Schedule:
    """The schedule of an installation. known: ids of the skills there are.

    Raises MissingFileError when there is none; ConfigError with every fault: wrong fields, an unknown preset, strategy or skill, a preset
    that asks for nothing.
    """
    schedule, faults = _read(places)
    for name, preset in schedule.presets.items():
        faults += _faults(f"presets.{name}", preset, known)
    if faults:
        raise ConfigError([Fault(f"{places.schedule.name} {one.path}", one.found, one.allowed, one.todo) for one in faults])
    return schedule


def read_settings(places: Places) -> ScheduleSettings:
    """The settings alone; the defaults where there is no schedule, which only generation needs. Raises ConfigError."""
    try:
        schedule, _ = _read(places)
    except MissingFileError:
        return ScheduleSettings()
    return schedule.settings


def enabled_skills(preset: Preset, focus: Sequence[str] = ()) -> tuple[str, ...]:
    """Skills that a preset asks for, in its order. focus: those of the campaign; none: all. Raises RefusedError when that leaves none."""
    chosen = tuple(canonical(name) for name, skill in preset.skills.items() if skill.enabled and _weight(preset, skill) > 0)
    wanted = tuple(skill for skill in chosen if not focus or skill in {canonical(name) for name in focus})
    if not wanted:
        raise RefusedError(
            f"schedule: the active preset asks for {', '.join(chosen)}, and the campaign's skills are {', '.join(focus)}; allowed: one in "
            "common. Choose another preset in configs/schedule.yaml, or another campaign."
        )
    return wanted


def order(preset: Preset, settings: ScheduleSettings, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Skills in the order in which they are tried: the first whose API answers gets the next file. Deterministic; candidates are those
    of `enabled_skills`, in its order."""
    turns = sorted(candidates, key=lambda one: one.files)  # stable: the preset's order among equals
    if preset.strategy == "weighted":
        weights = {canonical(name): skill.weight for name, skill in preset.skills.items()}
        turns = sorted(candidates, key=lambda one: (one.files + 1) / weights[one.skill])
    elif preset.strategy == "focus":
        focus = canonical(preset.focus)
        mine = [one for one in turns if one.skill == focus]
        others = [one for one in turns if one.skill != focus]
        turns = mine if mine and not mine[0].at_last_level else others or mine
    elif preset.strategy == "lowest_first":
        turns = sorted(turns, key=lambda one: one.mastered)
        furthest = max(one.mastered for one in candidates)
        if furthest - turns[0].mastered >= settings.catch_up_threshold:
            turns = turns[:1]
    return tuple(one.skill for one in turns)


def _read(places: Places) -> tuple[Schedule, list[Fault]]:
    path = places.schedule
    if not path.is_file():
        raise MissingFileError(f"There is no schedule at {path}; none is built in. Write one by `guild init`.", path)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"found a {type(content).__name__}", "a mapping with active, settings and presets")
    schedule = resolve(Schedule, [Layer(path.name, content)]).value
    if schedule.active in schedule.presets:
        return schedule, []
    unknown = Fault("active", repr(schedule.active), ", ".join(schedule.presets))
    return schedule.model_copy(update={"active": next(iter(schedule.presets))}), [unknown]


def _faults(where: str, preset: Preset, known: Sequence[str]) -> list[Fault]:
    faults = [
        Fault(f"{where}.skills.{name}", "an unknown skill", ", ".join(known)) for name in preset.skills if canonical(name) not in known
    ]
    names = [canonical(name) for name in preset.skills]
    if len(set(names)) != len(names):
        faults.append(Fault(f"{where}.skills", "a skill under two names", "each skill once"))
    asked = [canonical(name) for name, skill in preset.skills.items() if skill.enabled and _weight(preset, skill) > 0]
    if not asked:
        faults.append(Fault(f"{where}.skills", "none that is enabled with a weight above 0", "at least one"))
    if preset.strategy == "focus" and canonical(preset.focus) not in asked:
        faults.append(Fault(f"{where}.focus", repr(preset.focus), ", ".join(asked) or "an enabled skill"))
    return faults


def _weight(preset: Preset, skill: ScheduledSkill) -> float:
    return skill.weight if preset.strategy == "weighted" else 1.0
