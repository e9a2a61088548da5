"""What is set about each skill: its last level, its thresholds, where its problems come from. (specs/guild.md 4.3, 6.3)

From `configs/skills/<id>.yaml` where there is one, else from the skill's class; what a skill does not say for itself comes from
`schedule.yaml` (evaluations) and `config.json` (target accuracy).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guild.curriculum.rule import MIN_EVALS, THRESHOLD, Rule
from guild.errors import UnknownSkillError
from guild.places import Places
from guild.skills.names import ALIASES, canonical
from guild.skills.registry import make_skill, read_skill_file, skill_targets
from modelwright.errors import ConfigError, Fault

LOCAL = "local"
"""`api.url` of a skill that is used in this process, without a server."""


@dataclass(frozen=True)
class SkillSettings:
    """One skill. rule: what its levels ask. target: `module:Class`, "" for a skill that only its server knows. url: `api.url` of its file,
    "" without. options: of its class. quality: what its file says of the quality checks, None without."""

    id: str
    name: str
    rule: Rule
    target: str = ""
    url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    quality: Any = None

    @property
    def max_level(self) -> int:
        return self.rule.max_level


def known_skills(places: Places) -> tuple[str, ...]:
    """Ids of the skills of an installation: built in, of packages, and with a file. Raises ConfigError for a file that cannot be used."""
    return _known(places, skill_targets(places.skills))


def skill_settings(places: Places, name: str, *, min_evals: int = MIN_EVALS, target_accuracy: float = THRESHOLD) -> SkillSettings:
    """The settings of a skill by id or alias. min_evals, target_accuracy: where its file does not say.

    Raises UnknownSkillError; ConfigError with every fault of its file; LoadError when its class cannot be loaded.
    """
    skill, targets = canonical(name), skill_targets(places.skills)
    known = _known(places, targets)
    if skill not in known:
        raise UnknownSkillError(name, (*known, *(alias for alias, target in ALIASES.items() if target in known)))
    path = places.skills / f"{skill}.yaml"
    document = read_skill_file(path) if path.is_file() else {}
    target = targets.get(skill, "")
    options = document.get("options") or {}
    faults: list[Fault] = []
    where = str(path)
    own = make_skill(target, options, skill) if target else None
    last = _number(faults, where, document, "max_level", own.max_level if own else None, 1, own.max_level if own else 10**6)
    progression = _mapping(faults, where, document, "level_progression")
    accuracy = _mapping(faults, where, document, "accuracy_thresholds")
    evals = _number(faults, f"{where} level_progression", progression, "min_evals", min_evals, MIN_EVALS, 100)
    shares = {key: _share(faults, f"{where} accuracy_thresholds.{key}", value) for key, value in accuracy.items()}
    common = _share(faults, f"{where} level_progression.threshold", progression.get("threshold", shares.get("default", target_accuracy)))
    levels = {_level(faults, where, key): share for key, share in shares.items() if key != "default"}
    if faults:
        raise ConfigError(faults)
    rule = Rule(last, common, tuple(sorted(levels.items())), evals)
    url = (document.get("api") or {}).get("url") or ""
    title = document.get("name") or (own.name if own else skill)
    return SkillSettings(skill, str(title), rule, target, str(url), options, document.get("quality"))


def _known(places: Places, targets: Mapping[str, str]) -> tuple[str, ...]:
    files = {canonical(path.stem) for path in places.skills.glob("*.yaml")} if places.skills.is_dir() else set()
    return tuple(sorted(files | set(targets)))


def _mapping(faults: list[Fault], where: str, document: Mapping[str, Any], key: str) -> dict[Any, Any]:
    value = document.get(key) or {}
    if isinstance(value, dict):
        return value
    faults.append(Fault(f"{where} {key}", repr(value)[:60], "a mapping"))
    return {}


def _number(faults: list[Fault], where: str, document: Mapping[str, Any], key: str, default: int | None, least: int, most: int) -> int:
    value = document.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        faults.append(Fault(f"{where} {key}", "nothing" if value is None else repr(value)[:60], f"a whole number from {least} to {most}"))
        return least
    return value


def _share(faults: list[Fault], where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        faults.append(Fault(where, repr(value)[:60], "a share above 0 and at most 1"))
        return THRESHOLD
    return float(value)


def _level(faults: list[Fault], where: str, key: Any) -> int:
    if str(key).isdecimal() and int(key) >= 1:
        return int(key)
    faults.append(Fault(f"{where} accuracy_thresholds", repr(key)[:60], "levels, and default"))
    return 0
