"""Which class is which skill: the built-in ones, those of installed packages, and those that a skill file names.

A package adds a skill by the entry-point group `modelwright.skills` (`id = module:Class`), an installation by a file
`configs/skills/<id>.yaml` with `class: module:Class` and perhaps `options`, the keyword arguments of the class. (specs/guild.md 2.3.3)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from guild.errors import UnknownSkillError
from guild.skills.contract import Skill
from guild.skills.names import ALIASES, canonical
from modelwright.errors import ConfigError, Fault, LoadError
from modelwright.files import read_yaml

BUILT_IN = {
    "bin": "guild.skills.binary.skill:BinarySkill",
    "sy": "guild.skills.syllables.skill:SyllableSkill",
}
"""Skill id → `module:Class`."""
GROUP = "modelwright.skills"
DEFAULT_PORTS = {"bin": 8090, "sy": 8080}
"""Ports of the skill servers where no host registry says otherwise. (specs/guild.md 1.3)"""
_PARTS = ("id", "name", "version", "description", "max_level", "generator_id", "level_info", "space", "generate", "evaluation", "judge")


def skill_targets(folder: Path | None = None) -> dict[str, str]:
    """Skill id → `module:Class` of every skill there is; files of `folder` (`<id>.yaml`) win over the built-in ones, these over
    packages. Raises ConfigError for a file that cannot be used."""
    found = {canonical(point.name): point.value for point in entry_points(group=GROUP)}
    found.update(BUILT_IN)
    for path in sorted(folder.glob("*.yaml")) if folder is not None and folder.is_dir() else ():
        document = read_skill_file(path)
        if "class" in document:
            found[canonical(str(document["id"]))] = document["class"]
    return found


def load_skill(name: str, *, folder: Path | None = None, options: Mapping[str, Any] | None = None) -> Skill:
    """The skill of that id or alias.

    folder: where an installation keeps its skill files. options: keyword arguments for the class; those of the skill's own file when
    None. Raises UnknownSkillError; LoadError when its class cannot be imported or is no skill; ConfigError for options it refuses.
    """
    skill, targets = canonical(name), skill_targets(folder)
    if skill not in targets:
        raise UnknownSkillError(name, (*targets, *(alias for alias, target in ALIASES.items() if target in targets)))
    if options is None:
        path = folder / f"{skill}.yaml" if folder is not None else None
        options = read_skill_file(path).get("options") or {} if path is not None and path.is_file() else {}
    return make_skill(targets[skill], options, skill)


def make_skill(target: str, options: Mapping[str, Any], name: str) -> Skill:
    """The skill of a class named `module:Class`. Raises LoadError, ConfigError."""
    module_name, _, attribute = target.partition(":")
    try:
        made = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise LoadError(
            f"The class {target!r} of the skill {name!r} cannot be loaded ({error}); check the name, and that it is installed."
        ) from error
    try:
        skill = made(**options)
    except TypeError as error:
        raise ConfigError([Fault(f"options of the skill {name}", str(error), f"the keyword arguments of {target}")]) from error
    lacking = [part for part in _PARTS if not hasattr(skill, part)]
    if lacking:
        raise LoadError(f"{target!r} is no skill: it lacks {', '.join(lacking)} (see guild.skills.contract.Skill).")
    return skill  # type: ignore[no-any-return]


def read_skill_file(path: Path) -> dict[str, Any]:
    """A skill file, with its id and, where it has them, a well-formed `class`, `options` and `api.port`. Raises ConfigError with every
    fault, and what `read_yaml` raises."""
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError([Fault(str(path), type(document).__name__, "a mapping with the fields of a skill")])
    faults = []
    if not isinstance(document.get("id"), str) or not document["id"].strip():
        faults.append(Fault(f"{path} id", repr(document.get("id")), "the id of the skill, a text"))
    target = document.get("class")
    if target is not None and (not isinstance(target, str) or target.count(":") != 1 or not all(target.split(":"))):
        faults.append(Fault(f"{path} class", repr(target), "module:Class"))
    options = document.get("options")
    if options is not None and (not isinstance(options, dict) or not all(isinstance(key, str) for key in options)):
        faults.append(Fault(f"{path} options", repr(options)[:60], "keyword arguments by name"))
    faults += _masking_faults(path, document.get("masking"))
    api = document.get("api")
    port = api.get("port") if isinstance(api, dict) else None
    if (api is not None and not isinstance(api, dict)) or (port is not None and not is_port(port)):
        faults.append(Fault(f"{path} api.port", repr(port if isinstance(api, dict) else api), "a port from 0 to 65535"))
    if faults:
        raise ConfigError(faults)
    return document


def _masking_faults(path: Path, masking: Any) -> list[Fault]:
    if masking is None:
        return []
    values = [masking.get("lowest"), masking.get("highest")] if isinstance(masking, dict) and len(masking) == 2 else []
    shares = [float(value) for value in values if isinstance(value, int | float) and 0 <= value <= 1]
    allowed = "{lowest: L, highest: H}, shares from 0 to 1 of a batch that may go untrained, L below H"
    sound = len(shares) == 2 and shares[0] < shares[1]
    return [] if sound else [Fault(f"{path} masking", repr(masking)[:60], allowed)]


def is_port(value: Any) -> bool:
    """Whether a value is a TCP port; 0 stands for a free one."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535
