"""One canonical id for each skill; every alias is resolved where a name comes in. (specs/guild.md 2.3.3, 10.1 no. 8)"""

from __future__ import annotations

from guild.errors import UnknownSkillError

ALIASES = {"binary": "bin", "syllo": "sy", "syllable": "sy", "syllables": "sy"}


def canonical(name: str) -> str:
    """The id for a name or an alias, in lower case; names of no built-in skill pass, since users add skills."""
    plain = name.strip().lower()
    return ALIASES.get(plain, plain)


def resolve(name: str, known: tuple[str, ...]) -> str:
    """The canonical id of a skill among `known` ids. Raises UnknownSkillError."""
    skill = canonical(name)
    if skill not in known:
        raise UnknownSkillError(name, (*known, *(alias for alias, target in ALIASES.items() if target in known)))
    return skill
