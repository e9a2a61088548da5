"""What a configuration of the skill may choose, checked with all faults at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from guild.skills.binary.auxiliary import TASKS
from guild.skills.binary.forms import FORMS
from guild.skills.binary.operations import OPERATIONS
from modelwright.errors import ConfigError, Fault

SMALL_OPERATIONS = ("increment", "decrement", "multiply_by_2", "divide_by_2")
"""One operand each: what a model of less than a million parameters learns in minutes."""


class Settings(NamedTuple):
    """forms: the forms asked. operations: their names. tasks: the auxiliary tasks asked. auxiliary_share: share of problems that are
    auxiliary, 0 to 1. symbol_share: share of prompts with a key from level 8, 0 to 1. hint_share: share of signed prompts that name the
    signs. chains: whether calls are nested."""

    forms: tuple[str, ...] = FORMS
    operations: tuple[str, ...] = tuple(OPERATIONS)
    tasks: tuple[str, ...] = TASKS
    auxiliary_share: float = 0.15
    symbol_share: float = 0.75
    hint_share: float = 0.5
    chains: bool = True


SMALL = Settings(("brief",), SMALL_OPERATIONS, (), 0.0, 0.0, 0.0, False)
"""Brief form and few operations, no keys and no chains, for tiny models."""


def checked(settings: Settings) -> Settings:
    """The settings with lists as tuples. Raises ConfigError with every fault."""
    faults: list[Fault] = []
    lists = {}
    for field, allowed, least in (("forms", FORMS, 0), ("operations", tuple(OPERATIONS), 1), ("tasks", TASKS, 0)):
        lists[field] = _names(field, getattr(settings, field), allowed, least, faults)
    for field in ("auxiliary_share", "symbol_share", "hint_share"):
        value = getattr(settings, field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            faults.append(Fault(field, repr(value), "a share from 0 to 1"))
    if not isinstance(settings.chains, bool):
        faults.append(Fault("chains", repr(settings.chains), "true or false"))
    if not faults:
        if not lists["forms"] and not (lists["tasks"] and settings.auxiliary_share > 0):
            faults.append(Fault("forms", "none", f"one or more of {', '.join(FORMS)}, or auxiliary tasks with a share"))
        if settings.auxiliary_share > 0 and not lists["tasks"]:
            faults.append(
                Fault("auxiliary_share", repr(settings.auxiliary_share), "0 when there are no tasks", "name tasks, or set it to 0")
            )
    if faults:
        raise ConfigError(faults)
    return settings._replace(forms=lists["forms"], operations=lists["operations"], tasks=lists["tasks"])


def _names(field: str, value: Any, allowed: Sequence[str], least: int, faults: list[Fault]) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        faults.append(Fault(field, repr(value), f"a list of {', '.join(allowed)}"))
        return ()
    unknown = [name for name in value if name not in allowed]
    if unknown:
        faults.append(Fault(field, ", ".join(map(repr, unknown)), f"any of {', '.join(allowed)}"))
    if len(set(map(str, value))) != len(value):
        faults.append(Fault(field, "a name twice", "each name once"))
    if len(value) < least:
        faults.append(Fault(field, "none", f"at least one of {', '.join(allowed)}"))
    return tuple(name for name in allowed if name in value)
