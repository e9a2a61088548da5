"""The only literal address in the guild's code: what a server binds to when nobody said otherwise. (specs/guild.md 2.1.10, 10.3)

Everything that *looks for* a service asks the registry (`guild.hosts.registry`). Default ports stand in `templates/hosts.json`.
"""

from __future__ import annotations

LOOPBACK = "127.0.0.1"
"""This machine alone can reach it."""


def skill_service(skill: str) -> str:
    """The registry's name for the server of a skill, by its canonical id: `skill_bin`."""
    return f"skill_{skill}"
