"""The user's own service manager: systemd on Linux, launchd on macOS. What runs a provider that starts with the session.

Commands are found on PATH. Nothing here ever kills the process of a service.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ServiceName = Literal["systemd-managed", "launchd-managed"]
UNIT = "macprovider.service"
LABEL = "live.streamvc.macprovider"
COMMAND_TIMEOUT_S = 20.0
_IDLE_STATES = frozenset({"inactive", "failed", "unknown", ""})


@dataclass(frozen=True)
class UserService:
    """How to speak with the installed provider. Each command is an argv; definition: its unit or property list."""

    name: ServiceName
    definition: Path
    start: tuple[str, ...]
    stop: tuple[str, ...]
    restart: str
    """For a person, to type."""


@dataclass(frozen=True)
class ServiceState:
    """running: the manager keeps it up now. pid: of its main process, None between two starts."""

    running: bool
    pid: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a command said: its exit status (None when it was still at work at the end of its time) and its words."""

    status: int | None
    words: str


def user_service(platform: str = sys.platform) -> UserService:
    """The provider's service on `platform` ("darwin" for macOS, everything else as Linux); whether it exists is another
    question."""
    if platform == "darwin":
        plist = Path("~/Library/LaunchAgents").expanduser() / f"{LABEL}.plist"
        domain = f"gui/{os.getuid()}"
        return UserService(
            "launchd-managed",
            plist,
            ("launchctl", "bootstrap", domain, str(plist)),
            ("launchctl", "bootout", f"{domain}/{LABEL}"),
            f"launchctl bootout gui/$UID/{LABEL} && launchctl bootstrap gui/$UID {shlex.quote(str(plist))}",
        )
    unit = Path("~/.config/systemd/user").expanduser() / UNIT
    control = ("systemctl", "--user")
    return UserService("systemd-managed", unit, (*control, "start", UNIT), (*control, "stop", UNIT), f"systemctl --user restart {UNIT}")


def service_state(service: UserService) -> ServiceState:
    """Whether the manager runs the provider now. A manager that is missing or does not answer runs none."""
    return _launchd_state() if service.name == "launchd-managed" else _systemd_state()


def ask(command: tuple[str, ...], timeout_s: float = COMMAND_TIMEOUT_S) -> Answer:
    """Run a command of the service manager and wait for it."""
    if shutil.which(command[0]) is None:
        return Answer(127, f"{command[0]} is not on PATH")
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            start_new_session=True,  # a Ctrl-C in the terminal is not for the manager
        )
    except subprocess.TimeoutExpired:
        return Answer(None, f"`{shlex.join(command)}` did not end within {timeout_s:g} s")
    except OSError as error:
        return Answer(126, f"`{shlex.join(command)}` cannot be run ({error.strerror})")
    return Answer(done.returncode, "\n".join(part for part in (done.stdout.strip(), done.stderr.strip()) if part))


def _systemd_state() -> ServiceState:
    answer = ask(("systemctl", "--user", "is-active", UNIT))
    if answer.status in (126, 127, None) or answer.words.partition("\n")[0].strip() in _IDLE_STATES or _no_manager(answer.words):
        return ServiceState(running=False)
    shown = ask(("systemctl", "--user", "show", UNIT, "--property=MainPID", "--value"))
    return ServiceState(running=True, pid=_number(shown.words))


def _no_manager(words: str) -> bool:
    """systemd is not there or has no session for this user (containers, a shell through cron or sudo)."""
    return any(sign in words for sign in ("Failed to connect", "has not been booted with systemd", "No medium found"))


def _launchd_state() -> ServiceState:
    """A line of `launchctl list` is the pid or `-`, the last exit status, the label."""
    for line in ask(("launchctl", "list")).words.splitlines():
        columns = line.split(None, 2)
        if len(columns) == 3 and columns[2].strip() == LABEL:
            return ServiceState(running=True, pid=_number(columns[0]))
    return ServiceState(running=False)


def _number(text: str) -> int | None:
    word = text.strip()
    return int(word) if word.isdecimal() and int(word) > 0 else None
