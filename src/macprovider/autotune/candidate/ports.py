"""Ports of this machine: whether one is taken, and by whom."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

import psutil

HOST = "127.0.0.1"
_REACH_LOOPBACK = frozenset({HOST, "0.0.0.0", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"})
_CONNECT_TIMEOUT_S = 0.5


def port_free(port: int) -> bool:
    """Whether a provider could listen on 127.0.0.1:`port` now. Connections that are winding down (TIME_WAIT) do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return not _answers(port)  # some systems let a second socket bind beside one that listens on every address


def _answers(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        return probe.connect_ex((HOST, port)) == 0


def listening_ports(process: psutil.Process) -> frozenset[int]:
    """TCP ports on which this process or a child of it can be reached over loopback; those of others' processes stay unknown."""
    ports: set[int] = set()
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        family = [process]
    for member in family:
        try:
            ports.update(_loopback_ports(member.net_connections(kind="tcp")))
        except psutil.Error:  # it ended just now, or belongs to another user
            continue
    return frozenset(ports)


def listener_pid(port: int, candidates: Iterable[psutil.Process]) -> int | None:
    """Who listens on `port` among `candidates`, None when it cannot be seen (another user's process)."""
    for process in candidates:
        try:
            if port in _loopback_ports(process.net_connections(kind="tcp")):
                return process.pid
        except psutil.Error:
            continue
    return None


def _loopback_ports(connections: Iterable[object]) -> set[int]:
    found = set()
    for connection in connections:
        address = getattr(connection, "laddr", None)
        if getattr(connection, "status", "") == psutil.CONN_LISTEN and address and address.ip in _REACH_LOOPBACK:
            found.add(int(address.port))
    return found
