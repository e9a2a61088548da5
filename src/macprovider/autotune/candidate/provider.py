"""A candidate provider as a real child: its own process group, its own empty settings, a log file, and no way to outlive us.
(specs/autotune.md, 3.3, 5.1, 8.4, 11.1)"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from macprovider import parent_watch
from macprovider.autotune.candidate.ports import listening_ports, port_free
from macprovider.autotune.candidate.resident import Peak
from macprovider.autotune.measuring import gate
from macprovider.autotune.measuring.request import get_json
from macprovider.autotune.watch import Watch
from modelwright.errors import ModelwrightError

POLL_S = 1.0
FIRST_POLLS_S = 0.25
"""Small models are ready soon: the first looks come quicker."""
QUICK_POLLS = 40
SETTLE_S, PORT_S = 3.0, 2.0
"""How long a killed group gets to disappear, and how long its port: together the 5 s that a run may take beyond budget and grace."""
DYING_S = 0.5
"""From the last connection of a dying process to its end."""
LOG_READ_BYTES = 4 << 20
HTTP_S = 5.0
IMPATIENT = 2
"""So many signals to us cut a grace short."""
PREFIX = "MACPROVIDER_"


class NotReady(Exception):
    """The candidate did not become ready, or died; `str()` is the note of its trial."""


class PortTaken(ModelwrightError):
    """Something else listens where the candidate should."""


def child_environment(pipe: int, *, offline: bool) -> dict[str, str]:
    """Our environment without any setting of the operator's own provider, and with the pipe that ends the child with us."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    kept |= {parent_watch.VARIABLE: str(pipe), "PYTHONUNBUFFERED": "1"}
    return kept | {"HF_HUB_OFFLINE": "1"} if offline else kept


def start_child(command: Sequence[str], log: Path, *, offline: bool) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command in a process group of its own, both outputs on `log`; returns it and the pipe end to keep open.

    Must run in the main thread: the kernel counts the death of the thread that started a child as its parent's.
    """
    theirs, ours = parent_watch.parent_pipe()
    try:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(theirs, offline=offline),
                pass_fds=(theirs,),
                start_new_session=True,
            )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return process, ours


def end_group(process: subprocess.Popen[bytes], pipe: int, grace_s: float, watch: Watch) -> int:
    """SIGTERM to the group, SIGKILL after the grace or at a second signal; returns the child's exit status as a shell counts it.

    Never raises for signals or the budget: it is what they lead to.
    """
    clock = watch.clock
    _signal_group(process.pid, signal.SIGTERM)
    until = clock.monotonic() + grace_s
    while _lives(process) and clock.monotonic() < until and watch.signals < IMPATIENT:
        clock.sleep(0.02)
    until = clock.monotonic() + SETTLE_S
    while _lives(process) and clock.monotonic() < until:
        _signal_group(process.pid, signal.SIGKILL)
        clock.sleep(0.02)
    with contextlib.suppress(OSError):
        os.close(pipe)
    return exit_status(process.wait())


def exit_status(returncode: int) -> int:
    """128 + s for a child that signal s ended."""
    return 128 - returncode if returncode < 0 else returncode


class Candidate:
    """A started candidate; a context manager that stops it however the block ends. peak: its memory, as far as it was looked at: while
    it loads, whenever it is asked whether it lives, and right before its end.
    """

    def __init__(self, command: Sequence[str], port: int, log: Path, grace_s: float, watch: Watch) -> None:
        if not _settles(lambda: port_free(port), watch):
            raise PortTaken(f"Port {port} is taken by another program. Stop it, or choose another --port.")
        self.port, self.log, self._grace_s, self._watch = port, log, grace_s, watch
        self.started = watch.clock.monotonic()
        self.rc: int | None = None
        self.peak = Peak()
        try:
            self.process, self._pipe = start_child(command, log, offline=True)
        except OSError as error:
            raise NotReady(gate.notes(f"provider did not start: {error}")) from error

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait_ready(self, timeout_s: float) -> float:
        """Seconds from start to ready: `/v1/models` answers 200, the child lives, and the listener is its own. Raises NotReady."""
        looks, last = 0, "nothing listens yet"
        while True:
            if not self.alive:
                raise NotReady(gate.exited_in_load(self._rc(), self.log_text()))
            self._look()
            last = self._not_yet()
            if not last and self.alive:
                return self._watch.clock.monotonic() - self.started
            waited = self._watch.clock.monotonic() - self.started
            if waited >= timeout_s:
                raise NotReady(gate.not_ready(timeout_s, last))
            looks += 1
            self._watch.pause(min(FIRST_POLLS_S if looks <= QUICK_POLLS else POLL_S, max(0.01, timeout_s - waited)))

    def check_alive(self, *, after_failure: bool = False) -> None:
        """Raise NotReady with the note of a candidate that died while it was measured. after_failure: of a request; a process that
        dies closes its connections first, so its end is waited for a moment.
        """
        if after_failure:
            _settles(lambda: not self.alive, self._watch, DYING_S)
        if not self.alive:
            raise NotReady(gate.exited_in_probe(self._rc(), self.log_text()))
        self._look()

    def engine_facts(self) -> dict[str, Any] | str:
        """What the engine says of itself, or why it says nothing."""
        try:
            status, body = get_json(self.port, "/v1/engine", HTTP_S)
        except OSError as error:
            return str(error)
        facts = body.get("facts") if status == 200 and isinstance(body, dict) else None
        return facts if isinstance(facts, dict) else f"HTTP {status} without facts"

    def stop(self) -> None:
        """End the whole group and see the port free; harmless when called twice."""
        if self.rc is None:
            self._look()
            self.rc = end_group(self.process, self._pipe, self._grace_s, self._watch)
            _settles(lambda: port_free(self.port), self._watch)

    def log_text(self) -> str:
        """What the candidate wrote; the first 4 MiB."""
        with contextlib.suppress(OSError), open(self.log, "rb") as file:
            return file.read(LOG_READ_BYTES).decode("utf-8", errors="replace")
        return ""

    def _look(self) -> None:
        """Only while its number is certain to be its own."""
        if self.alive:
            self.peak.look(self.process.pid)

    def _rc(self) -> int:
        return exit_status(self.process.wait())

    def _not_yet(self) -> str:
        """Why it is not ready, "" when it is."""
        try:
            status, body = get_json(self.port, "/v1/models", HTTP_S)
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__
        if status != 200:
            error_code = body.get("error", {}).get("code") if isinstance(body, dict) and isinstance(body.get("error"), dict) else None
            return f"HTTP {status}" + (f" {error_code}" if error_code else "")
        return "" if self._listens() else f"another program answers on port {self.port}"

    def _listens(self) -> bool:
        try:
            return self.port in listening_ports(psutil.Process(self.process.pid))
        except psutil.NoSuchProcess:
            return False


def _settles(holds: Callable[[], bool], watch: Watch, seconds: float = PORT_S) -> bool:
    until = watch.clock.monotonic() + seconds
    while not holds():
        if watch.clock.monotonic() >= until:
            return False
        watch.clock.sleep(0.05)
    return True


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child or anything in its group still runs; processes that only wait to be collected do not count."""
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # macOS says so for groups of zombies
    for other in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(other.pid) == process.pid and other.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False
