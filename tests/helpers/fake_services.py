"""`systemctl` and `launchctl` for tests: real programs on PATH that keep their state in a folder and really start, watch and
stop one process; and a stand-in for `macprovider-cli` that listens on a port and obeys signals.
"""

from __future__ import annotations

import contextlib
import os
import plistlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from macprovider.autotune.live.services import LABEL, UNIT
from modelwright.identity import process_start

if TYPE_CHECKING:  # the fake commands are started often and import this module
    import pytest

STAND_IN = """#!{python}
import os, signal, socket, subprocess, sys, time
words = sys.argv[1:]
if words[:1] == ["autotune"]:
    child = subprocess.Popen([sys.argv[0], *words[1:]])
    print(child.pid, flush=True)
    child.wait()
    sys.exit()
if "--ends-at-once" in words:
    sys.exit("no model")
stubborn = "--stubborn" in words
def leave(*_):
    if not stubborn:
        time.sleep(float(os.environ.get("STAND_IN_DRAIN_S", "0")))
        os._exit(0)
signal.signal(signal.SIGTERM, leave)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(words[words.index("--port") + 1]) if "--port" in words else 0))
listener.listen()
print("listening", os.getcwd(), os.environ.get("MARK", ""), flush=True)
while True:
    time.sleep(60)
"""

MANAGER = """#!{python}
import json, os, sys
sys.path[:0] = {path!r}
from helpers.fake_services import manager
sys.exit(manager({kind!r}, {state!r}, sys.argv[1:]))
"""


@dataclass(frozen=True)
class FakeMachine:
    """A home with an installed provider, the fake commands first on PATH. bin: where they are. state: what they keep."""

    home: Path
    bin: Path
    state: Path

    @property
    def program(self) -> str:
        """The stand-in for `macprovider-cli`."""
        return str(self.bin / "macprovider-cli")

    def install(self, *arguments: str, platform: str) -> None:
        """Write the service definition that starts `macprovider-cli <arguments>`."""
        if platform == "darwin":
            path = self.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
            content = plistlib.dumps(
                {"Label": LABEL, "ProgramArguments": [self.program, *arguments], "KeepAlive": {"SuccessfulExit": False}}
            )
        else:
            path = self.home / ".config" / "systemd" / "user" / UNIT
            content = f"[Service]\nExecStart={shlex.join([self.program, *arguments])}\nRestart=on-failure\n".encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def manage(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Speak with the fake manager as a user would."""
        return subprocess.run([str(self.bin / command[0]), *command[1:]], capture_output=True, text=True, check=False)

    def managed_pid(self) -> int | None:
        """The running process of the service."""
        return _running(self.state)

    def calls(self) -> list[str]:
        """Every command that was given to a manager, in order."""
        log = self.state / "calls"
        return log.read_text().splitlines() if log.exists() else []


@contextlib.contextmanager
def fake_machine(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    """HOME and PATH point into `folder` inside the block; what the managers started is killed at its end."""
    machine = FakeMachine(folder / "home", folder / "bin", folder / "state")
    for part in (machine.home, machine.bin, machine.state):
        part.mkdir()
    paths = [str(Path(__file__).parents[1]), *(entry for entry in sys.path if entry)]
    for kind in ("systemctl", "launchctl"):
        _program(machine.bin / kind, MANAGER.format(python=sys.executable, path=paths, kind=kind, state=str(machine.state)))
    _program(machine.bin / "macprovider-cli", STAND_IN.format(python=sys.executable))
    patch.setenv("HOME", str(machine.home))
    patch.setenv("PATH", f"{machine.bin}{os.pathsep}{os.environ['PATH']}")
    try:
        yield machine
    finally:
        pid = machine.managed_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until_listening(port: int) -> None:
    """Wait until something accepts connections on the port; AssertionError after a minute of nothing."""
    for _ in range(3000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


# --- inside the fake commands


def manager(kind: str, state: str, words: list[str]) -> int:
    """One call of `systemctl` or `launchctl`; returns its exit status."""
    folder = Path(state)
    with open(folder / "calls", "a") as log:
        log.write(shlex.join([kind, *words]) + "\n")
    if (folder / "out of order").exists():
        print("Failed to connect to bus: No medium found", file=sys.stderr)
        return 1
    return _systemctl(folder, words) if kind == "systemctl" else _launchctl(folder, words)


def _systemctl(folder: Path, words: list[str]) -> int:
    if words[:1] != ["--user"] or UNIT not in words:
        print(f"Unit {words[-1]} not found.", file=sys.stderr)
        return 4
    pid = _running(folder)
    if words[1] == "is-active":
        print("inactive" if pid is None else "deactivating" if (folder / "stopping").exists() else "active")
        return 3 if pid is None else 0
    if words[1] == "show":
        print(pid or 0)
        return 0
    if words[1] == "stop":
        if (folder / "refuses to stop").exists():
            print("Failed to stop macprovider.service: Access denied", file=sys.stderr)
            return 4
        return _stopped(folder, pid)
    if words[1] == "start":
        if pid is not None and (folder / "stopping").exists():
            _gone(pid)  # a start waits for the stop before it
            pid = None
        unit = Path.home() / ".config" / "systemd" / "user" / UNIT
        line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
        return 0 if pid is not None else _started(folder, shlex.split(line.partition("=")[2]))
    return 1


def _launchctl(folder: Path, words: list[str]) -> int:
    loaded, domain = folder / "loaded", f"gui/{os.getuid()}"
    pid = _running(folder)
    if words == ["list"]:
        print("PID\tStatus\tLabel")
        print(f"412\t0\t{LABEL}.helper\n-\t0\tcom.example.{LABEL}")
        if loaded.exists():
            print(f"{pid or '-'}\t0\t{LABEL}")
        return 0
    if words == ["bootout", f"{domain}/{LABEL}"]:
        if not loaded.exists():
            print("Boot-out failed: 3: No such process", file=sys.stderr)
            return 3
        return _stopped(folder, pid)
    if words[:2] == ["bootstrap", domain]:
        if loaded.exists():
            print("Bootstrap failed: 5: Input/output error", file=sys.stderr)
            return 5
        loaded.touch()
        return _started(folder, plistlib.loads(Path(words[2]).read_bytes())["ProgramArguments"])
    return 64


def _started(folder: Path, argv: list[str]) -> int:
    with open(folder / "output", "ab") as output:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    (folder / "pid").write_text(f"{child.pid} {process_start(child.pid)}")
    return 0


def _stopped(folder: Path, pid: int | None) -> int:
    """As the real ones: answers when the process has ended, however long that takes."""
    if pid is None:
        (folder / "loaded").unlink(missing_ok=True)
        return 0
    (folder / "stopping").touch()
    os.kill(pid, signal.SIGTERM)
    manager_at_work = os.fork()  # it goes on when whoever asked is gone
    if manager_at_work == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        _gone(pid)
        (folder / "loaded").unlink(missing_ok=True)
        (folder / "stopping").unlink(missing_ok=True)
        os._exit(0)
    return os.waitpid(manager_at_work, 0)[1]


def _gone(pid: int) -> None:
    while process_start(pid) is not None:
        time.sleep(0.02)


def _running(folder: Path) -> int | None:
    try:
        pid, started = (folder / "pid").read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if str(process_start(int(pid))) == started else None
