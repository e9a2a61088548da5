"""Stop the providers that are in the way, and put them back afterwards, however the run ends. (8.2 to 8.4)

A service is stopped and started by its manager and never killed; a provider in the foreground is asked with SIGTERM, once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from macprovider import places
from macprovider.autotune.candidate.ports import port_free
from macprovider.autotune.live.conflicts import Conflict, ConflictError
from macprovider.autotune.live.restore import Drained
from macprovider.autotune.live.services import UserService, service_state, user_service
from modelwright.clock import SYSTEM_CLOCK, Clock

_POLL_S = 0.1
_IN_PROGRESS = 36
"""launchctl's status for a bootout that goes on after the command."""


def refusal(conflicts: Sequence[Conflict]) -> str:
    """Why the run does not start without `--drain`, and what to do about each conflict; one line each."""
    return "\n".join(_refused(conflict) for conflict in conflicts)


def restart_hint(platform: str = sys.platform) -> str:
    """What to type so that a managed provider takes up settings that were just applied. (9.4.7)"""
    return f"A managed provider reads the new settings when it is restarted: {user_service(platform).restart}"


def drain(
    conflicts: Sequence[Conflict],
    *,
    grace_s: float,
    port: int,
    restart_foreground: bool,
    log_folder: Path | None = None,
    clock: Clock = SYSTEM_CLOCK,
    pause: Callable[[float], None] | None = None,
) -> Drained:
    """Stop every conflict; return when all are gone and their ports and `port` are free.

    Args:
        grace_s: for all of them together, seconds.
        port: the one that candidates will listen on.
        restart_foreground: start foreground providers again at the end, with their own command line.
        log_folder: for their output then. Default `places.logs_folder()`.
        pause: waits some seconds; may raise to end the wait early (a signal, a budget).

    Raises:
        ConflictError: a foreign listener (nothing was stopped), or something that did not end in time. What had been stopped
            is put back first, also when `pause` raises.
    """
    foreign = [conflict for conflict in conflicts if conflict.kind == "listener"]
    if foreign:
        raise ConflictError(refusal(foreign))
    drained = Drained(restart_foreground=restart_foreground, log_folder=log_folder or places.logs_folder())
    with contextlib.ExitStack() as commands:  # closed after the restore: a stop that was asked for comes to its end first
        try:
            _stop_all(conflicts, drained, grace_s, port, commands, clock, pause or clock.sleep)
        except BaseException as error:
            put_back = drained.restore(applied=False)
            if isinstance(error, ConflictError):
                raise ConflictError("\n".join([str(error), *put_back.sentences])) from error
            raise
    return drained


def _stop_all(
    conflicts: Sequence[Conflict],
    drained: Drained,
    grace_s: float,
    port: int,
    commands: contextlib.ExitStack,
    clock: Clock,
    wait: Callable[[float], None],
) -> None:
    ports = sorted({port}.union(*(conflict.ports for conflict in conflicts)))
    deadline = clock.monotonic() + grace_s
    stopping = [commands.enter_context(_asked_to_stop(conflict, drained)) for conflict in conflicts]
    while left := [*(one.described() for one in stopping if not one.gone()), *(f"port {one}" for one in ports if not port_free(one))]:
        for one in stopping:
            one.raise_refusal(drained)
        if clock.monotonic() >= deadline:
            raise ConflictError(
                f"Still there {grace_s:g} s after being asked to stop: {', '.join(left)}. Nothing was killed. "
                "Give it more time with --drain-grace, or stop it by hand."
            )
        wait(min(_POLL_S, max(deadline - clock.monotonic(), 0.001)))


def _refused(conflict: Conflict) -> str:
    if conflict.kind == "listener":
        return (
            f"Found {conflict.described()}: another program listens on the port for candidates, and --drain cannot stop it. "
            "Stop it by hand, or choose another --port."
        )
    by_hand = shlex.join(conflict.service.stop) if conflict.service else f"kill {conflict.pid}"
    back = "stopped and started again" if conflict.service else "stopped (and started again with --restart-foreground)"
    return (
        f"Found {conflict.described()}: only one provider may run while tuning. Add --drain to have it {back}, "
        f"or stop it by hand: {by_hand}"
    )


# --- one conflict on its way out


class _StoppingService:
    """The manager's stop command at work. It answers when the service has stopped, so it runs beside us."""

    def __init__(self, conflict: Conflict, service: UserService, words: IO[bytes]) -> None:
        self._conflict, self._service, self._words = conflict, service, words
        try:
            self._command = subprocess.Popen(service.stop, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True)
        except OSError as error:
            raise ConflictError(f"{conflict.name} cannot be stopped: {service.stop[0]}: {error.strerror}. Stop it by hand.") from error

    def gone(self) -> bool:
        return self._command.poll() is not None and not self._conflict.alive() and not service_state(self._service).running

    def described(self) -> str:
        return self._conflict.described()

    def raise_refusal(self, drained: Drained) -> None:
        """Raise ConflictError when the manager does not stop it; it runs as before then."""
        status = self._command.poll()
        if status in (0, None, _IN_PROGRESS) or not self._conflict.alive():
            return
        drained.forget(self._conflict)
        self._words.seek(0)
        said = " ".join(self._words.read(500).decode(errors="replace").split())
        command = shlex.join(self._service.stop)
        raise ConflictError(
            f"{self._conflict.name} does not stop: `{command}` ended with status {status}{f': {said}' if said else ''}. Stop it by hand."
        )

    def close(self) -> None:
        """End our own command if it still waits; the manager goes on by itself."""
        if self._command.poll() is None:
            self._command.terminate()
            self._command.wait()


class _StoppingProcess:
    """A provider in the foreground that was sent SIGTERM."""

    def __init__(self, conflict: Conflict) -> None:
        self._conflict = conflict
        _terminate(conflict)

    def gone(self) -> bool:
        return not self._conflict.alive()

    def described(self) -> str:
        return self._conflict.described()

    def raise_refusal(self, drained: Drained) -> None:
        """A process cannot refuse; it can only take long."""

    def close(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _asked_to_stop(conflict: Conflict, drained: Drained) -> Iterator[_StoppingService | _StoppingProcess]:
    drained.note(conflict)
    with tempfile.TemporaryFile() as words:
        stopping = _StoppingService(conflict, conflict.service, words) if conflict.service else _StoppingProcess(conflict)
        try:
            yield stopping
        finally:
            stopping.close()


def _terminate(conflict: Conflict) -> None:
    """SIGTERM to that very process: its number may have been given to another one since it was found."""
    assert conflict.pid is not None
    try:
        if sys.platform == "linux":
            descriptor = os.pidfd_open(conflict.pid)
            try:
                if conflict.alive():
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            finally:
                os.close(descriptor)
        elif conflict.alive():
            os.kill(conflict.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except OSError as error:
        raise ConflictError(f"{conflict.name} cannot be stopped: {error.strerror}. Stop it by hand: kill {conflict.pid}") from error
