"""Ask a host's services how they are: by HTTP, by a connection, or by a pid file, in parallel and with a short timeout.

(specs/guild.md 2.1.10, 2.8.3, 8.4.) No shell and no command on another machine. What cannot be asked is `unknown`, never well.
"""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from guild.errors import RefusedError
from guild.hosts.pid_files import look
from guild.hosts.registry import Host, HostRegistry, Service
from modelwright.clock import SYSTEM_CLOCK, Clock

ServiceStatus = Literal["online", "offline", "degraded", "unknown"]
HostStatus = Literal["online", "degraded", "offline"]


@dataclass(frozen=True)
class ServiceHealth:
    """One service. detail: what was seen, a few words. seconds: how long the answer took, None when nobody was asked."""

    service: str
    status: ServiceStatus
    detail: str
    critical: bool
    seconds: float | None = None


@dataclass(frozen=True)
class HostHealth:
    """All services of one host, in the registry's order."""

    host: str
    services: tuple[ServiceHealth, ...]

    @property
    def status(self) -> HostStatus:
        """Offline when a critical service is offline or unknown; degraded when any is offline or degraded; else online."""
        if any(service.critical and service.status in ("offline", "unknown") for service in self.services):
            return "offline"
        return "degraded" if any(service.status in ("offline", "degraded") for service in self.services) else "online"


def check_health(registry: HostRegistry, id: str, timeout: float = 5.0, *, clock: Clock = SYSTEM_CLOCK) -> HostHealth:
    """Ask every service of a host; takes about `timeout` seconds at most. Raises UnknownHostError."""
    host = registry.get_host(id)
    local = registry.is_local(id)
    if not host.services:
        return HostHealth(id, ())

    def ask(item: tuple[str, Service]) -> ServiceHealth:
        name, service = item
        started = clock.monotonic()
        status, detail = _ask(host, name, service, timeout, local)
        return ServiceHealth(name, status, detail, service.critical, clock.monotonic() - started)

    with ThreadPoolExecutor(max_workers=min(16, len(host.services))) as pool:
        return HostHealth(id, tuple(pool.map(ask, host.services.items())))


def _ask(host: Host, name: str, service: Service, timeout: float, local: bool) -> tuple[ServiceStatus, str]:
    if service.type == "process":
        return _by_pid_file(host, service) if local else ("unknown", "a process of another host; its warden knows")
    try:
        base = host.url(name)
    except RefusedError as error:
        return "unknown", str(error)
    if service.type == "tcp":
        return _by_connection(host.host, service.port or 0, timeout)
    return by_http(base + "/" + service.health.lstrip("/"), timeout)


def by_http(url: str, timeout: float) -> tuple[ServiceStatus, str]:
    """GET `url`: online for 200, degraded for any other answer, offline when there is none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # an address of the registry is reached directly
    try:
        with opener.open(url, timeout=timeout) as answer:
            code = int(answer.status)
    except urllib.error.HTTPError as error:
        return "degraded", f"{url} answered {error.code}"
    except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: a protocol that urllib does not know
        return "offline", f"{url} does not answer ({getattr(error, 'reason', error)})"
    return ("online", f"{url} answered 200") if code == 200 else ("degraded", f"{url} answered {code}")


def _by_connection(address: str, port: int, timeout: float) -> tuple[ServiceStatus, str]:
    try:
        socket.create_connection((address, port), timeout=timeout).close()
    except OSError as error:
        return "offline", f"{address} port {port} takes no connection ({error.strerror or error})"
    return "online", f"{address} port {port} takes connections"


def _by_pid_file(host: Host, service: Service) -> tuple[ServiceStatus, str]:
    if not service.pid_file:
        return "unknown", "its entry names no pid_file"
    seen = look(Path(host.base_dir, service.pid_file))
    states: dict[str, ServiceStatus] = {"alive": "online", "dead": "offline"}
    return states.get(seen.state, "unknown"), seen.detail
