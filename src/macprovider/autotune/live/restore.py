"""Put drained providers back: once, whoever asks, and also when nobody does.

The work is done by a thread of its own, because Python runs signal handlers in the main thread only: a Ctrl-C in the middle of
a restore ends the waiting, never the restoring. The thread is no daemon and looks whether the main thread still runs, so a run
that ends by an exception puts the providers back as well.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from macprovider import parent_watch
from macprovider.autotune.live.conflicts import Conflict
from macprovider.autotune.live.services import Answer, UserService, ask, service_state
from modelwright.clock import SYSTEM_CLOCK, stamp
from modelwright.errors import ModelwrightError, storage_error
from modelwright.home import ensure_folder

PATIENCE_S = 10.0
"""How long a service that is still stopping may take until its manager accepts a start, seconds."""
_LOOK_S = 0.5
_FIRST_SECOND_S = 1.0
_FLAGS = ("--model", "--kv-bits", "--max-context", "--max-batch")


@dataclass(frozen=True)
class Restored:
    """sentences: what was done, for standard error. complete: everything that was to run again does."""

    sentences: tuple[str, ...] = ()
    complete: bool = True


class Drained:
    """Providers that were asked to stop. `restore` exactly once, as often as you like."""

    def __init__(self, *, restart_foreground: bool, log_folder: Path) -> None:
        self._restart_foreground, self._log_folder = restart_foreground, log_folder
        self._stopped: list[Conflict] = []
        self._refused: list[Conflict] = []
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._result: Restored | None = None

    @property
    def stopped(self) -> tuple[Conflict, ...]:
        """In the order in which they were asked to stop."""
        return tuple(conflict for conflict in self._stopped if conflict not in self._refused)

    def note(self, conflict: Conflict) -> None:
        """Call before a conflict is asked to stop: from now on it is put back."""
        self._stopped.append(conflict)
        if len(self._stopped) == 1:
            threading.Thread(target=self._serve_orders, name="restore drained providers", daemon=False).start()

    def forget(self, conflict: Conflict) -> None:
        """It was not asked to stop after all: its manager refused."""
        self._refused.append(conflict)

    def restore(self, applied: bool) -> Restored:
        """Start again what was stopped, in reverse order: a service always, a provider in the foreground only when that was
        asked for. Repeated calls do nothing more and return the same.

        applied: new settings were written before this call. Never raises for a provider that cannot be started; its sentence
        says what to type. May be called from a signal handler, also while another call waits.
        """
        if not self._stopped:
            return Restored()
        self._orders.put(applied)
        while self._result is None:
            time.sleep(0.02)
        return self._result

    def _serve_orders(self) -> None:
        asked = True
        while True:
            try:
                applied = self._orders.get(timeout=_LOOK_S)
                break
            except queue.Empty:
                if not threading.main_thread().is_alive():
                    applied, asked = False, False
                    break
        sentences: list[str] = []
        complete = True
        try:
            for conflict in reversed(self.stopped):
                done = self._put_back(conflict, applied)
                sentences += done.sentences
                complete &= done.complete
        finally:
            self._result = Restored(tuple(sentences), complete)
        if not asked:
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed by now
                print("\n".join(sentences), file=sys.stderr, flush=True)

    def _put_back(self, conflict: Conflict, applied: bool) -> Restored:
        if conflict.service is not None:
            return _service_started(conflict, conflict.service, applied)
        by_hand = f"{f'cd {shlex.quote(conflict.cwd)} && ' if conflict.cwd else ''}{shlex.join(conflict.argv)}"
        if conflict.alive():
            return Restored((f"{conflict.name} was asked to end and has not yet; start it again when it has: {by_hand}",), False)
        if not self._restart_foreground:
            return Restored((f"{conflict.name} stays stopped (no --restart-foreground); start it again with: {by_hand}",))
        try:
            return self._foreground_started(conflict, applied)
        except ModelwrightError as error:
            return Restored((f"{conflict.name} was not started again: {error} Start it by hand: {by_hand}",), False)

    def _foreground_started(self, conflict: Conflict, applied: bool) -> Restored:
        """The saved command line, folder and environment, in a session of its own, with its output in a file."""
        log = ensure_folder(self._log_folder) / f"serve-{stamp(SYSTEM_CLOCK.now()).replace(':', '')}-{conflict.pid}.log"
        environment = {key: value for key, value in (conflict.environment or os.environ).items() if key != parent_watch.VARIABLE}
        try:
            with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as output:
                child = subprocess.Popen(
                    conflict.argv,
                    cwd=conflict.cwd or None,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise storage_error(error, error.filename or conflict.argv[0], "start") from error
        try:
            status = child.wait(_FIRST_SECOND_S)
        except subprocess.TimeoutExpired:
            threading.Thread(target=child.wait, name="provider started again", daemon=True).start()  # no zombie, should it end before us
            named = [flag for flag in _FLAGS if any(word == flag or word.startswith(flag + "=") for word in conflict.argv)]
            note = f" Its command line names {', '.join(named)}, which wins over the applied settings." if applied and named else ""
            return Restored((f"{conflict.name} was started again as PID {child.pid}; its output is in {log}.{note}",))
        return Restored((f"{conflict.name} was started again and ended at once with status {status}; see {log}.",), False)


def _service_started(conflict: Conflict, service: UserService, applied: bool) -> Restored:
    """Let the stop come to its end first, then ask until the manager accepts a start: launchd refuses while it still unloads."""
    by_hand = f"Start it by hand: {shlex.join(service.start)}"
    deadline = time.monotonic() + PATIENCE_S
    while conflict.alive() and time.monotonic() < deadline:
        time.sleep(_LOOK_S / 5)
    answer = ask(service.start, max(deadline - time.monotonic(), 1.0))
    while answer.status not in (0, None, 126, 127) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        answer = ask(service.start, max(deadline - time.monotonic(), 1.0))
    if conflict.alive():
        return Restored((f"{conflict.name} was asked to stop and has not yet; it may be down when it has. {by_hand}",), False)
    if answer.status == 0 and service_state(service).running:
        return Restored((f"{conflict.name} runs again{' with the applied settings' if applied else ''}.",))
    return Restored((f"{conflict.name} is not known to run again{_said(answer)}. {by_hand}",), False)


def _said(answer: Answer) -> str:
    words = " ".join(answer.words.split())[:300]
    return f" ({words})" if words else ""
