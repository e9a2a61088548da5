"""Conflicts: real processes of this user, real listeners, service managers that really run one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers.fake_services import FakeMachine, fake_machine, free_port, until_listening
from macprovider.autotune.candidate.ports import port_free
from macprovider.autotune.live.conflicts import Conflict, find_conflicts
from modelwright.identity import process_start


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMachine]:
    with fake_machine(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def of(conflicts: list[Conflict], *pids: int | None) -> list[Conflict]:
    """Those of processes that this test knows: others may serve on this machine."""
    return [conflict for conflict in conflicts if conflict.pid in pids]


def test_foreground_provider_with_all_a_restart_needs(
    machine: FakeMachine, children: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MARK", "from the shell")
    port = free_port()
    argv = [machine.program, "serve", "--port", str(port)]
    children.append(subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
    until_listening(port)
    (found,) = of(find_conflicts(free_port()), children[0].pid)
    assert (found.kind, found.name, found.started) == ("foreground", f"foreground-PID-{children[0].pid}", process_start(children[0].pid))
    assert found.argv == (sys.executable, *argv), "the kernel's command line of a script"
    assert (found.port, found.ports, found.cwd) == (port, frozenset({port}), str(tmp_path))
    assert found.environment["MARK"] == "from the shell"
    assert "from the shell" not in repr(found), "an environment holds secrets"
    assert found.alive() and f"port {port}" in found.described()


def test_a_provider_on_the_candidates_port_is_one_conflict(machine: FakeMachine, children: list[subprocess.Popen[str]]) -> None:
    port = free_port()
    children.append(subprocess.Popen([sys.executable, "-u", machine.program, "serve", "--port", str(port)]))
    until_listening(port)
    found = find_conflicts(port)
    assert len(of(found, children[0].pid)) == 1
    assert not [conflict for conflict in found if conflict.kind == "listener"]


def test_what_is_no_provider(machine: FakeMachine, children: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text("import time\nprint('open', flush=True)\ntime.sleep(60)\n")
    for words in ([str(editor), machine.program, "serve"], ["-c", editor.read_text(), "macprovider-cli", "serve"]):
        children.append(subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True))
    zombie = subprocess.Popen([machine.program, "serve", "--ends-at-once"], stderr=subprocess.DEVNULL)
    children.append(zombie)
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    for child in children[:2]:
        assert child.stdout and child.stdout.readline() == "open\n"
    assert of(find_conflicts(free_port()), *(child.pid for child in children)) == []


def test_neither_autotune_nor_its_candidates(machine: FakeMachine, children: list[subprocess.Popen[str]]) -> None:
    port = free_port()
    argv = [machine.program, "autotune", "serve", "--port", str(port)]
    children.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
    assert children[0].stdout
    candidate = int(children[0].stdout.readline())
    try:
        until_listening(port)
        assert of(find_conflicts(free_port()), children[0].pid, candidate) == []
    finally:
        psutil.Process(candidate).kill()


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_managed_provider_is_reported_once(machine: FakeMachine, platform: str) -> None:
    port = free_port()
    machine.install("serve", "--port", str(port), platform=platform)
    name = "launchd-managed" if platform == "darwin" else "systemd-managed"
    assert not [conflict for conflict in find_conflicts(port, platform) if conflict.kind == "managed"]
    start(machine, platform)
    until_listening(port)
    found = find_conflicts(port, platform)
    assert [(one.kind, one.name, one.ports) for one in of(found, machine.managed_pid())] == [("managed", name, frozenset({port}))]
    assert not [conflict for conflict in found if conflict.kind == "listener"]


def start(machine: FakeMachine, platform: str) -> None:
    if platform == "darwin":
        from macprovider.autotune.live.services import user_service

        done = machine.manage("launchctl", "bootstrap", f"gui/{os.getuid()}", str(user_service("darwin").definition))
    else:
        done = machine.manage("systemctl", "--user", "start", "macprovider.service")
    assert done.returncode == 0, done.stderr


def test_loaded_but_between_two_starts(machine: FakeMachine) -> None:
    (machine.state / "loaded").touch()
    (managed,) = [conflict for conflict in find_conflicts(free_port(), "darwin") if conflict.kind == "managed"]
    assert managed.pid is None and not managed.alive() and managed.name == "launchd-managed"


def test_no_service_manager(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (machine.state / "out of order").touch()
    for platform in ("linux", "darwin"):
        assert not [conflict for conflict in find_conflicts(free_port(), platform) if conflict.kind == "managed"]
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for platform in ("linux", "darwin"):
        assert not [conflict for conflict in find_conflicts(free_port(), platform) if conflict.kind == "managed"]


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
def test_foreign_listener(family: socket.AddressFamily, address: str) -> None:
    try:
        listener = socket.create_server((address, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    except OSError:
        pytest.skip(f"no {address} here")
    with listener:
        port = listener.getsockname()[1]
        assert not port_free(port)
        (found,) = [conflict for conflict in find_conflicts(port) if conflict.kind == "listener"]
        assert (found.name, found.pid, found.port) == (f"foreign-listener-{port}", os.getpid(), port)
        assert found.program and found.program in found.described()
    assert port_free(port)
    assert not [conflict for conflict in find_conflicts(port) if conflict.kind == "listener"]


def test_a_port_winding_down_is_free() -> None:
    """The side that closes first keeps the connection in TIME_WAIT; the next provider can listen all the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
    assert any(one.laddr.port == port and one.status == psutil.CONN_TIME_WAIT for one in psutil.net_connections("tcp4") if one.laddr)
    assert port_free(port)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as somebody else")
def test_another_users_provider_is_no_conflict(children: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "serve")  # what `cat serve` waits for
    become = "import os, sys; os.setuid(int(sys.argv[1])); os.execv('/bin/cat', ['macprovider-cli', 'serve'])"
    for user in (0, 65534):
        tmp_path.chmod(0o755)
        folder = os.open(tmp_path, os.O_RDONLY)  # its parents may be closed to others
        words = [sys.executable, "-c", f"import os; os.fchdir({folder}); {become}", str(user)]
        children.append(subprocess.Popen(words, pass_fds=[folder], text=True))
        os.close(folder)
    (tmp_path / "serve").chmod(0o666)
    mine, theirs = children
    while not (of(find_conflicts(free_port()), mine.pid) and psutil.Process(theirs.pid).cmdline()[0] == "macprovider-cli"):
        assert mine.poll() is None and theirs.poll() is None
    assert of(find_conflicts(free_port()), theirs.pid) == []
