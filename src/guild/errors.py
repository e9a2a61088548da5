"""Errors of the guild, each a sentence; every unknown name is an error that lists the known ones, and nothing falls back.

(specs/guild.md 10.1, 2: a silent fallback trained for weeks on the wrong settings.)
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from modelwright.errors import ModelwrightError, UsageError


class UnknownNameError(UsageError):
    """A name that nothing here has. `kind`: what was looked for; `name`: what was asked; `known`: what there is."""

    kind = "name"
    exit_code = 1

    def __init__(self, name: str, known: Iterable[str], *, where: str = "") -> None:
        self.name, self.known = name, tuple(known)
        near = get_close_matches(name, self.known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        place = f" in {where}" if where else ""
        super().__init__(f"{self.kind}: found {name!r}; allowed{place}: {', '.join(self.known) or 'none is defined'}.{hint}")


class UnknownHeroError(UnknownNameError):
    """No model profile of that id."""

    kind = "hero"


class UnknownCampaignError(UnknownNameError):
    """No campaign of that id under the hero."""

    kind = "campaign"


class UnknownSkillError(UnknownNameError):
    """Neither the id nor the alias of a skill."""

    kind = "skill"


class UnknownProfileError(UnknownNameError):
    """No data profile of that name."""

    kind = "profile"


class UnknownOptimizerError(UnknownNameError):
    """No optimizer type of that name."""

    kind = "optimizer"


class UnknownHostError(UnknownNameError):
    """No host of that id in the registry."""

    kind = "host"


class UnknownServiceError(UnknownNameError):
    """No host of the registry lists that service."""

    kind = "service"


class UnknownCheckpointError(UnknownNameError):
    """No checkpoint of that step in the ledger of the campaign."""

    kind = "checkpoint"


class UnknownSchemaError(UnknownNameError):
    """No training-data schema of that id."""

    kind = "schema"


class RefusedError(ModelwrightError):
    """An operation that the present state does not allow, with what to do first."""
