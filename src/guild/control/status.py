"""State, signals and whether the daemon lives, in one answer; and waiting until a state is reached. (specs/guild.md 3.2)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guild.control.daemon import daemon_liveness, house_liveness
from guild.control.signals import SignalKind, active, odd_signals
from guild.control.state import read_state
from guild.errors import RefusedError
from guild.places import Places
from modelwright.clock import Clock

POLL_S = 0.2
ORPHAN = "No daemon is running; the trainer of the last one goes on and hears signals. `guild daemon` takes it over."


def get_status(places: Places) -> dict[str, Any]:
    """The state document (4.1) with `signals{pause, stop, skip, resume: bool}`, `daemon` (alive, dead or unreachable), `stale` (the state
    is another than idle although neither the daemon nor a trainer of it lives) and `notes`, a sentence each. Writes nothing. Raises
    DamagedFileError, StorageError.
    """
    state = read_state(places)
    daemon, house = daemon_liveness(places), house_liveness(places)
    orphan = [ORPHAN] if daemon == "dead" != house else []
    return {
        "schema_version": 1,
        **state.as_dict(),
        "signals": active(places),
        "daemon": daemon,
        "stale": state.status != "idle" and house == "dead",
        "notes": orphan + odd_signals(places),
    }


def may_resume(places: Places) -> bool:
    """Whether a resume has something to act on: it is paused, a pause was given, or one was taken and is being carried out."""
    state = read_state(places)
    paused = state.status == "paused" or state.pending == "pause"
    return active(places)["pause"] or (paused and house_liveness(places) != "dead")


def reached(places: Places, kind: SignalKind, skips: Callable[[], int], skips_before: int) -> bool:
    """Whether what a signal asked for has come about. skips: counts the skips of the queue."""
    if active(places)[kind]:
        return False  # not even taken
    if kind == "stop":
        return house_liveness(places) == "dead"
    if kind == "skip":
        return skips() > skips_before
    status = read_state(places).status
    return status == "paused" if kind == "pause" else status != "paused"


def wait(places: Places, is_reached: Callable[[], bool], *, timeout_s: float | None, clock: Clock) -> bool:
    """Wait until it is reached; False after `timeout_s` seconds (None: no limit). Raises RefusedError when nobody is left to do it."""
    deadline = None if timeout_s is None else clock.monotonic() + timeout_s
    while not is_reached():
        if house_liveness(places) == "dead" and not is_reached():
            raise RefusedError("No daemon is running, so nothing acts on the signal. Start it with `guild daemon`.")
        left = POLL_S if deadline is None else deadline - clock.monotonic()
        if left <= 0:
            return False
        clock.sleep(min(POLL_S, left))
    return True
