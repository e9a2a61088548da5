"""Data profiles by name. (specs/guild.md 2.2.1)"""

from __future__ import annotations

from guild.errors import UnknownProfileError
from guild.training.profiles.base import DataProfile
from guild.training.profiles.emoji_think import EmojiThink
from guild.training.profiles.none import NoProfile
from guild.training.profiles.regime3 import Regime3

BUILT_IN: tuple[DataProfile, ...] = (EmojiThink(), Regime3(), NoProfile())


def profile_names() -> tuple[str, ...]:
    """The names that `get_profile` knows."""
    return tuple(profile.name for profile in BUILT_IN)


def get_profile(name: str) -> DataProfile:
    """The profile of a name. Raises UnknownProfileError; there is no default and no fallback."""
    for profile in BUILT_IN:
        if profile.name == name:
            return profile
    raise UnknownProfileError(name, profile_names())
