"""What already serves on this machine, or holds the port that candidates need: found before any candidate starts. (8.1)"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import psutil

from macprovider.autotune.candidate.ports import listener_pid, listening_ports, port_free
from macprovider.autotune.live.argv_rules import Role, role_of
from macprovider.autotune.live.services import UserService, service_state, user_service
from modelwright.errors import ModelwrightError
from modelwright.identity import process_start

Kind = Literal["managed", "foreground", "listener"]


class ConflictError(ModelwrightError):
    """Another provider is in the way and was not, or could not be, drained; one sentence for each."""

    exit_code = 4


@dataclass(frozen=True)
class Conflict:
    """One thing in the way.

    name: `systemd-managed`, `launchd-managed`, `foreground-PID-<n>` or `foreign-listener-<port>`. pid: None where unknown (a
    service between two starts, another user's process). started: with the pid, names one process for good
    (`modelwright.identity.process_start`). ports: where it listens on loopback. argv, cwd, environment: what a restart needs,
    of a foreground provider. program: the same argv's first word, for people, also of a listener.
    """

    kind: Kind
    name: str
    pid: int | None = None
    started: int | None = None
    ports: frozenset[int] = frozenset()
    argv: tuple[str, ...] = ()
    cwd: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    program: str = ""
    service: UserService | None = None

    @property
    def port(self) -> int | None:
        """The lowest of its ports."""
        return min(self.ports, default=None)

    def described(self) -> str:
        """`foreground-PID-7 (port 8080, `macprovider-cli serve …`)`."""
        facts = [f"PID {self.pid}"] if self.pid is not None and self.kind != "foreground" else []
        facts += [f"port {port}" for port in sorted(self.ports) if self.kind != "listener"]
        facts += [f"`{shlex.join(self.argv)}`"] if self.argv else [f"`{self.program}`"] if self.program else []
        return f"{self.name} ({', '.join(facts)})" if facts else self.name

    def alive(self) -> bool:
        """Whether that very process still runs; False when its pid is unknown."""
        return self.pid is not None and self.started is not None and process_start(self.pid) == self.started


def find_conflicts(port: int, platform: str = sys.platform) -> list[Conflict]:
    """The managed provider, every provider of this user in the foreground, and what else listens on 127.0.0.1:`port`.

    Autotune runs and the candidates below them are none. A process is reported once, under the first of these kinds. Uses the
    `systemctl` or `launchctl` on PATH.
    """
    mine = _processes_of_this_user()
    managed = _managed(user_service(platform))
    taken = _family(conflict.pid for conflict in managed)
    foreground = _foreground(mine, taken)
    taken |= _family(conflict.pid for conflict in foreground)
    return [*managed, *foreground, *_listener(port, mine, taken, [*managed, *foreground])]


def _managed(service: UserService) -> list[Conflict]:
    state = service_state(service)
    if not state.running:
        return []
    started = process_start(state.pid) if state.pid is not None else None
    ports = _ports_of(state.pid)
    return [Conflict("managed", service.name, state.pid, started, ports, service=service)]


def _foreground(mine: Mapping[int, tuple[psutil.Process, tuple[str, ...]]], taken: set[int]) -> list[Conflict]:
    roles: dict[int, Role] = {pid: role_of(argv) for pid, (_, argv) in mine.items()}
    found = []
    for pid, (process, argv) in sorted(mine.items()):
        if roles[pid] != "serve" or pid in taken or _below_autotune(process, roles):
            continue
        started = process_start(pid)
        try:
            cwd, environment = process.cwd(), process.environ()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            cwd, environment = "", {}
        if started is not None:
            ports = listening_ports(process)
            found.append(Conflict("foreground", f"foreground-PID-{pid}", pid, started, ports, argv, cwd, environment, argv[0]))
    return found


def _below_autotune(process: psutil.Process, roles: Mapping[int, Role]) -> bool:
    """Whether it is a candidate: started by an autotune, this one or another user's."""
    try:
        return any(roles.get(parent.pid) == "autotune" for parent in process.parents())
    except psutil.Error:
        return False


def _listener(
    port: int, mine: Mapping[int, tuple[psutil.Process, tuple[str, ...]]], taken: set[int], others: Iterable[Conflict]
) -> list[Conflict]:
    if port_free(port) or any(port in conflict.ports for conflict in others):
        return []
    pid = listener_pid(port, (process for process, _ in mine.values()))
    if pid in taken:
        return []
    argv = mine[pid][1] if pid is not None else ()
    program = os.path.basename(argv[0]) if argv else ""
    started = process_start(pid) if pid is not None else None
    return [Conflict("listener", f"foreign-listener-{port}", pid, started, frozenset({port}), program=program)]


def _processes_of_this_user() -> dict[int, tuple[psutil.Process, tuple[str, ...]]]:
    """pid → process and argv; zombies and what ends meanwhile are left out."""
    user = os.getuid()
    found = {}
    for process in psutil.process_iter():
        try:
            if process.uids().real == user and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = (process, tuple(process.cmdline()))
        except psutil.Error:
            continue
    return found


def _family(pids: Iterable[int | None]) -> set[int]:
    """Those processes and everything below them."""
    family: set[int] = set()
    for pid in pids:
        if pid is None:
            continue
        family.add(pid)
        try:
            family.update(child.pid for child in psutil.Process(pid).children(recursive=True))
        except psutil.Error:
            continue
    return family


def _ports_of(pid: int | None) -> frozenset[int]:
    if pid is None:
        return frozenset()
    try:
        return listening_ports(psutil.Process(pid))
    except psutil.Error:
        return frozenset()
