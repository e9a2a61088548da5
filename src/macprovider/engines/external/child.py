"""A server as our child: its own process group, a log file, an end that is noticed, and no life after ours."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from macprovider.engines.base import EngineError
from macprovider.places import cache_folder
from modelwright.clock import SYSTEM_CLOCK, stamp
from modelwright.files import make_folder

GUARD = Path(__file__).with_name("guard.py")
TERM_S = 10.0
"""How long a child may take to end by itself before its group is killed."""
LOG_LIMIT = 16 << 20
"""Bytes of a child's log. A longer one is begun anew, with a line that says so: a child may log every request for months."""
KEPT_LOGS = 20
TAIL = 64 << 10
_TELLING = re.compile(
    r"^[\d.]+ E |\berror\b|\bfailed\b|\bfailure\b|exception|out of memory|\boom\b|unable to|cannot |unrecognized|invalid", re.IGNORECASE
)
_STAMP = re.compile(r"^\d+(?:\.\d+){2,} [A-Z] ")
_RAISED = re.compile(r"(?:^|\s)[\w.]*(?:Error|Exception|Exit)\b: ")
_BUSY = re.compile(r"couldn't bind|address already in use|failed to bind|EADDRINUSE", re.IGNORECASE)
_ENDED_BY_SIGNAL = 128


class ChildEnded(EngineError):
    """The child ended although nobody asked it to. busy: its port was taken by somebody else."""

    def __init__(self, message: str, *, busy: bool) -> None:
        super().__init__(message)
        self.busy = busy


class Child:
    """One running server. port: of 127.0.0.1. log: what it writes, stdout and stderr."""

    def __init__(self, program: str, process: subprocess.Popen[bytes], pipe: int, port: int, log: Path) -> None:
        self.program, self.port, self.log = program, port, log
        self._process, self._pipe = process, pipe
        self._stopping = False
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Of its guard, whose child it is."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ended(self) -> ChildEnded:
        """What to say of a child that ended by itself, with the telling line of its log."""
        code = self._process.wait()
        how = f"by signal {code - _ENDED_BY_SIGNAL}" if code > _ENDED_BY_SIGNAL else f"with exit status {code}"
        tail = read_tail(self.log)
        told = telling_line(tail)
        said = f": {told}" if told else ""
        return ChildEnded(f"{self.program} ended {how}{said} (its log: {self.log}).", busy=bool(_BUSY.search(tail)))

    def wait_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `ready()` holds. Raises ChildEnded, EngineError when it takes longer than `timeout_s`."""
        end = time.monotonic() + timeout_s
        pause = 0.02
        while time.monotonic() < end:
            if not self.alive:
                raise self.ended()
            if ready():
                return
            time.sleep(pause)
            pause = min(0.5, pause * 1.3)
        raise EngineError(f"{self.program} was not ready within {timeout_s:g} s (its log: {self.log}).")

    def watch(self, told: Callable[[ChildEnded], None]) -> None:
        """Call `told`, from a thread, when the child ends although nobody asked it to; keep its log short until then."""

        def wait() -> None:
            while True:
                try:
                    self._process.wait(timeout=10.0)
                except subprocess.TimeoutExpired:
                    shorten(self.log)
                    continue
                break
            if not self._stopping:
                told(self.ended())

        threading.Thread(target=wait, name=f"{self.program} watch", daemon=True).start()

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL to its whole group. Harmless when called twice."""
        with self._lock:
            self._stopping = True
            if self._pipe < 0:
                return
            if self.alive:
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(TERM_S)
                except subprocess.TimeoutExpired:
                    pass
            os.close(self._pipe)  # its guard kills what is left
            self._pipe = -1
            self._process.wait()


def start_child(command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]) -> Child:
    """Start `command`, whose first word is the path of a program. Raises EngineError."""
    read, write = os.pipe()
    try:
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(read), *command],
                env=dict(environment),
                pass_fds=(read,),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        os.close(write)
        raise EngineError(f"{command[0]} could not be started: {error.strerror}.") from error
    finally:
        os.close(read)
    return Child(Path(command[0]).name, process, write, port, log)


def program_path(name: str, how: str) -> str:
    """The program on PATH. how: a sentence on how to get it. Raises EngineError."""
    found = shutil.which(name)
    if found is None:
        raise EngineError(f"The program {name} is not on PATH. {how}")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody held a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_file(engine: str) -> Path:
    """A new log file below `places.cache_folder()`; of older ones the newest `KEPT_LOGS` stay."""
    folder = make_folder(cache_folder() / "engine-logs")
    for old in sorted(folder.glob(f"{engine}-*.log"))[: 1 - KEPT_LOGS]:
        old.unlink(missing_ok=True)
    moment = stamp(SYSTEM_CLOCK.now(), millis=True).replace(":", "")
    return folder / f"{engine}-{moment}-{os.getpid()}.log"


def read_tail(log: Path) -> str:
    """The last `TAIL` bytes of a log."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        return file.read().decode("utf-8", "replace")


def telling_line(text: str) -> str:
    """The line that says what went wrong: a Python program's last exception, else the first complaint, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.search(line)] if "Traceback (most recent call last)" in text else []
    complaints = [line for line in lines if _TELLING.search(line)]
    told = (raised[-1:] or complaints[:1] or lines[-1:] or [""])[0]
    return _STAMP.sub("", told)[:400]


def shorten(log: Path, limit: int = LOG_LIMIT) -> None:
    """Begin a log anew that has grown beyond `limit` bytes. The child appends, so that its next line comes behind ours."""
    try:
        if log.stat().st_size > limit:
            os.truncate(log, 0)
            with log.open("ab") as file:
                file.write(f"(the log had more than {limit} bytes and was begun anew)\n".encode())
    except OSError:
        pass  # the next look tries again; the child's answers matter more than its log
