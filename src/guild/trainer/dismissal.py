"""How the daemon's watchdog asks a trainer to leave: by a request of the file's run, like every other wish. (specs/guild.md G11, 2.1.3)

A stop that anybody else asks for ends the daemon too. This one ends the trainer alone: it saves, its file waits again, and the daemon
starts another.
"""

from __future__ import annotations

from pathlib import Path

from modelwright.clock import Clock
from modelwright.control import Request, ask

WATCHDOG = "guild.watchdog"
"""The actor of such a request."""


def ask_to_leave(run: Path, reason: str, *, clock: Clock) -> None:
    """Put the request before the run of the file that the trainer holds. Raises UsageError without such a run, StorageError."""
    ask(run, "stop", body={"reason": reason}, actor=WATCHDOG, clock=clock)


def is_dismissal(request: Request) -> bool:
    """Whether a stop is meant for the trainer alone."""
    return request.actor == WATCHDOG
