"""What carries out each kind of job that is no run of another room: named here, imported when a job of it is taken.

A function `work -> result` carries out one job that the runner holds. A kind whose module is not in this installation is not taken, so
its jobs wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from guild.side_jobs.rooms import ROOMS
from guild.side_jobs.work import Work
from modelwright.entrypoints import is_importable

Handler = Callable[[Work], Mapping[str, Any]]

HANDLERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "retention": ("guild.side_jobs.cleaning", "carry_out"),
        "health_check": ("guild.side_jobs.health", "carry_out"),
        "report": ("guild.side_jobs.reporting", "carry_out"),
        "sparring": ("guild.side_jobs.correcting", "carry_out"),
    }
)
"""Kind → (module, function of one held job)."""
ELSEWHERE = ("eval", "data_gen")
"""Kinds that the daemon has carried out otherwise: by the evaluator's own process, and by the one generation authority."""
NEEDED: Mapping[str, str] = MappingProxyType({"report": "guild.analytics.reports", "sparring": "guild.correction.running"})
"""The wing that a kind's function needs beside its own module."""


def carried_out_here() -> tuple[str, ...]:
    """The kinds of side jobs that this installation can carry out, those of the other rooms first."""
    rooms = tuple(kind for kind, room in ROOMS.items() if is_importable(room.command[0]))
    return (*rooms, *(kind for kind, (module, _) in HANDLERS.items() if is_importable(module) and is_importable(NEEDED.get(kind, module))))


def handler_of(kind: str) -> Handler:
    """The function of a kind. Raises KeyError for a kind without one."""
    module, name = HANDLERS[kind]
    function: Handler = getattr(import_module(module), name)
    return function
